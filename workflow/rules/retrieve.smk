rule all_retrieve:
    input:
        fill("results/runs/first-stage/{collection}/{split}/{retriever}.trec", experiment.first_stages()),


rule retrieve:
    input:
        index=lambda w: f"data/indexes/{w.collection}/{experiment.stemmer(w.retriever)}",
        collection="data/collections/{collection}",
    output:
        "results/runs/first-stage/{collection}/{split}/{retriever}.trec",
    log:
        "results/logs/retrieve/{collection}/{split}/{retriever}.log",
    benchmark:
        "results/benchmarks/retrieve/{collection}/{split}/{retriever}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.retrieval.retrieve_command"),
        settings=lambda w: experiment.retriever_settings(w.retriever),
    shell:
        "ssmrank retrieve --settings {params.settings:q} --index {input.index:q}"
        " --queries {input.collection:q}/splits/{wildcards.split}/queries.jsonl --threads {threads}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
