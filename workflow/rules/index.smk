rule all_index:
    input:
        fill("data/indexes/{collection}/{stemmer}", experiment.indexes()),
        fill("data/indexes/{collection}/vectors-{encoder}", experiment.embedded()),
        fill("data/indexes/{collection}/faiss-{retriever}", experiment.vector_indexes()),


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
        *code("ssmrank.commands.index.lucene"),
    shell:
        "ssmrank index lucene --collection {input:q} --stemmer {wildcards.stemmer} --threads {threads}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


# As with trainings, what is done already of a killed job lies outside its output.
rule encode:
    input:
        collection="data/collections/{collection}",
        model=lambda w: f"data/models/{experiment.encoder_model(w.encoder)}",
    output:
        directory("data/indexes/{collection}/vectors-{encoder}"),
    log:
        "results/logs/encode/{collection}/{encoder}.log",
    benchmark:
        "results/benchmarks/encode/{collection}/{encoder}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.index.vectors"),
        settings=lambda w: experiment.encoder_settings(w.encoder),
        state=state_of("encode"),
    shell:
        "ssmrank index vectors --settings {params.settings:q} --model {input.model:q} --collection {input.collection:q}"
        " --state {params.state}/{wildcards.collection}/{wildcards.encoder} --output {output:q} 2>&1 | tee {log:q} >&2"


rule vector_index:
    input:
        lambda w: fill("data/indexes/{collection}/vectors-{encoder}", experiment.vectors(w.retriever, w.collection)),
    output:
        directory("data/indexes/{collection}/faiss-{retriever}"),
    log:
        "results/logs/vector_index/{collection}/{retriever}.log",
    benchmark:
        "results/benchmarks/vector_index/{collection}/{retriever}.tsv"
    wildcard_constraints:
        retriever=any_of(experiment.retrievers("dense")),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.index.faiss"),
        settings=lambda w: experiment.vector_index_settings(w.retriever),
    shell:
        "ssmrank index faiss --settings {params.settings:q} --vectors {input:q} --threads {threads}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
