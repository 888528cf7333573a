rule all_index:
    input:
        fill("data/indexes/{collection}/{stemmer}", experiment.indexes()),


rule index:
    input:
        "data/collections/{collection}",
    output:
        directory("data/indexes/{collection}/{stemmer}"),
    log:
        "results/logs/index/{collection}/{stemmer}.log",
    benchmark:
        "results/benchmarks/index/{collection}/{stemmer}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.retrieval.index_command"),
    shell:
        "ssmrank index --collection {input:q} --stemmer {wildcards.stemmer} --threads {threads}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
