rule all_retrieve:
    input:
        fill(paths.FIRST_STAGE_RUN, targets.first_stages),


rule retrieve:
    input:
        index=lambda w: fill(paths.INDEX, [lookups.index(w.retriever, w.collection)]),
        collection=paths.COLLECTION,
    output:
        paths.FIRST_STAGE_RUN,
    log:
        log_of("retrieve", paths.FIRST_STAGE),
    benchmark:
        benchmark_of("retrieve", paths.FIRST_STAGE)
    wildcard_constraints:
        retriever=any_of(lookups.retrievers("bm25")),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.retrieve.bm25"),
        settings=lambda w: experiment.settings(jobs.retriever_settings, w.retriever, w.collection),
        own=lambda w: lookups.own_documents(w.collection),
    shell:
        "ssmrank retrieve bm25 --settings {params.settings:q} --index {input.index:q}"
        " --queries {input.collection:q}/splits/{wildcards.split}/queries.jsonl --threads {threads} {params.own}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule retrieve_dense:
    input:
        collection=paths.COLLECTION,
        model=lambda w: lookups.encoder_model(lookups.encoder(w.retriever)),
        vectors=lambda w: fill(paths.VECTORS, lookups.vectors(w.retriever, w.collection)),
        index=lambda w: fill(paths.VECTOR_INDEX, lookups.vector_index(w.retriever, w.collection)),
        candidates=lambda w: fill(paths.FIRST_STAGE_RUN, lookups.candidates(w)),
    output:
        paths.FIRST_STAGE_RUN,
    log:
        log_of("retrieve", paths.FIRST_STAGE),
    benchmark:
        benchmark_of("retrieve", paths.FIRST_STAGE)
    wildcard_constraints:
        retriever=any_of(lookups.retrievers("dense")),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.retrieve.dense"),
        settings=lambda w: experiment.settings(jobs.retriever_settings, w.retriever, w.collection),
        encoder=lambda w: experiment.settings(jobs.encoder_settings, lookups.encoder(w.retriever)),
        own=lambda w: lookups.own_documents(w.collection),
        vectors=lambda w, input: f"--vectors {input.vectors}" if input.vectors else "",
        index=lambda w, input: f"--index {input.index}" if input.index else "",
        candidates=lambda w, input: f"--candidates {input.candidates}" if input.candidates else "",
    shell:
        "ssmrank retrieve dense --settings {params.settings:q} --encoder {params.encoder:q} --model {input.model:q}"
        " --collection {input.collection:q} --split {wildcards.split} {params.vectors} {params.index}"
        " {params.candidates} --threads {threads} {params.own} --output {output:q} 2>&1 | tee {log:q} >&2"


rule import_run:
    input:
        collection=paths.COLLECTION,
    output:
        paths.FIRST_STAGE_RUN,
    log:
        log_of("retrieve", paths.FIRST_STAGE),
    benchmark:
        benchmark_of("retrieve", paths.FIRST_STAGE)
    wildcard_constraints:
        retriever=any_of(lookups.retrievers("run")),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.retrieve.import_"),
        settings=lambda w: experiment.settings(jobs.retriever_settings, w.retriever, w.collection),
        own=lambda w: lookups.own_documents(w.collection),
        file=lambda w: digests(lookups.run_file(w.retriever, w.collection, w.split)),
    shell:
        "ssmrank retrieve import --settings {params.settings:q} --collection {input.collection:q}"
        " --split {wildcards.split} {params.own} --output {output:q} 2>&1 | tee {log:q} >&2"


rule fuse_first_stage_weights:
    input:
        collection=paths.COLLECTION,
        runs=lambda w: fill(paths.FIRST_STAGE_RUN, lookups.fused_first_stages(w)),
    output:
        paths.FIRST_STAGE_WEIGHTS,
    log:
        log_of("fuse_weights", paths.FIRST_STAGE),
    benchmark:
        benchmark_of("fuse_weights", paths.FIRST_STAGE)
    wildcard_constraints:
        retriever=any_of(lookups.retrievers("fusion")),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.weights"),
        settings=lambda w: experiment.settings(jobs.fuse_first_stage_weights_settings, w.retriever),
    shell:
        "ssmrank fuse weights --settings {params.settings:q} --run {input.runs:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt --output {output:q} 2>&1 | tee {log:q} >&2"


rule fuse_first_stage:
    input:
        runs=lambda w: fill(paths.FIRST_STAGE_RUN, lookups.fused_first_stages(w)),
        weights=lambda w: fill(paths.FIRST_STAGE_WEIGHTS, lookups.fitted_first_stage(w)),
    output:
        paths.FIRST_STAGE_RUN,
    log:
        log_of("retrieve", paths.FIRST_STAGE),
    benchmark:
        benchmark_of("retrieve", paths.FIRST_STAGE)
    wildcard_constraints:
        retriever=any_of(lookups.retrievers("fusion")),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.run"),
        settings=lambda w: experiment.settings(jobs.fuse_first_stage_settings, w.retriever),
        weights=lambda w, input: f"--weights {input.weights}" if input.weights else "",
    shell:
        "ssmrank fuse run --settings {params.settings:q} --run {input.runs:q} {params.weights} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"
