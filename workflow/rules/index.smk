rule all_index:
    input:
        fill(paths.INDEX, targets.indexes),
        fill(paths.VECTORS, targets.embedded),
        fill(paths.VECTOR_INDEX, targets.vector_indexes),


rule index:
    input:
        paths.COLLECTION,
    output:
        directory(paths.INDEX),
    log:
        log_of("index", "{collection}/{stemmer}"),
    benchmark:
        benchmark_of("index", "{collection}/{stemmer}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.index.lucene"),
    shell:
        "ssmrank index lucene --collection {input:q} --stemmer {wildcards.stemmer} --threads {threads}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


# As in the rule `train`, a killed job's state is kept outside its output.
rule encode:
    input:
        collection=paths.COLLECTION,
        model=lambda w: lookups.encoder_model(w.encoder),
    output:
        directory(paths.VECTORS),
    log:
        log_of("encode", "{collection}/{encoder}"),
    benchmark:
        benchmark_of("encode", "{collection}/{encoder}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.index.vectors"),
        settings=lambda w: experiment.settings(jobs.encoder_settings, w.encoder),
        state=state_of("encode"),
    shell:
        "ssmrank index vectors --settings {params.settings:q} --model {input.model:q} --collection {input.collection:q}"
        " --state {params.state}/{wildcards.collection}/{wildcards.encoder} --output {output:q} 2>&1 | tee {log:q} >&2"


rule vector_index:
    input:
        lambda w: fill(paths.VECTORS, lookups.vectors(w.retriever, w.collection)),
    output:
        directory(paths.VECTOR_INDEX),
    log:
        log_of("vector_index", "{collection}/{retriever}"),
    benchmark:
        benchmark_of("vector_index", "{collection}/{retriever}")
    wildcard_constraints:
        retriever=any_of(lookups.retrievers("dense")),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.index.faiss"),
        settings=lambda w: experiment.settings(jobs.vector_index_settings, w.retriever),
    shell:
        "ssmrank index faiss --settings {params.settings:q} --vectors {input:q} --threads {threads}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
