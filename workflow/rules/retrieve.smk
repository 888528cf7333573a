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
    wildcard_constraints:
        retriever=any_of(experiment.retrievers("bm25")),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.retrieve.bm25"),
        settings=lambda w: experiment.retriever_settings(w.retriever, w.collection),
        own=lambda w: experiment.own_documents(w.collection),
    shell:
        "ssmrank retrieve bm25 --settings {params.settings:q} --index {input.index:q}"
        " --queries {input.collection:q}/splits/{wildcards.split}/queries.jsonl --threads {threads} {params.own}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule retrieve_dense:
    input:
        collection="data/collections/{collection}",
        model=lambda w: f"data/models/{experiment.encoder_model(experiment.encoder(w.retriever))}",
        vectors=lambda w: fill(
            "data/indexes/{collection}/vectors-{encoder}", experiment.vectors(w.retriever, w.collection)
        ),
        index=lambda w: fill(
            "data/indexes/{collection}/faiss-{retriever}", experiment.vector_index(w.retriever, w.collection)
        ),
        candidates=lambda w: fill(
            "results/runs/first-stage/{collection}/{split}/{retriever}.trec", experiment.candidates(w.retriever, w)
        ),
    output:
        "results/runs/first-stage/{collection}/{split}/{retriever}.trec",
    log:
        "results/logs/retrieve/{collection}/{split}/{retriever}.log",
    benchmark:
        "results/benchmarks/retrieve/{collection}/{split}/{retriever}.tsv"
    wildcard_constraints:
        retriever=any_of(experiment.retrievers("dense")),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.retrieve.dense"),
        settings=lambda w: experiment.retriever_settings(w.retriever, w.collection),
        encoder=lambda w: experiment.encoder_settings(experiment.encoder(w.retriever)),
        own=lambda w: experiment.own_documents(w.collection),
        vectors=lambda w, input: f"--vectors {input.vectors}" if input.vectors else "",
        index=lambda w, input: f"--index {input.index}" if input.index else "",
        candidates=lambda w, input: f"--candidates {input.candidates}" if input.candidates else "",
    shell:
        "ssmrank retrieve dense --settings {params.settings:q} --encoder {params.encoder:q} --model {input.model:q}"
        " --collection {input.collection:q} --split {wildcards.split} {params.vectors} {params.index}"
        " {params.candidates} --threads {threads} {params.own} --output {output:q} 2>&1 | tee {log:q} >&2"


rule import_run:
    input:
        collection="data/collections/{collection}",
    output:
        "results/runs/first-stage/{collection}/{split}/{retriever}.trec",
    log:
        "results/logs/retrieve/{collection}/{split}/{retriever}.log",
    benchmark:
        "results/benchmarks/retrieve/{collection}/{split}/{retriever}.tsv"
    wildcard_constraints:
        retriever=any_of(experiment.retrievers("run")),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.retrieve.import_"),
        settings=lambda w: experiment.retriever_settings(w.retriever, w.collection),
        own=lambda w: experiment.own_documents(w.collection),
        file=lambda w: digests(experiment.run_file(w.retriever, w.collection, w.split)),
    shell:
        "ssmrank retrieve import --settings {params.settings:q} --collection {input.collection:q}"
        " --split {wildcards.split} {params.own} --output {output:q} 2>&1 | tee {log:q} >&2"


rule fuse_first_stage_weights:
    input:
        collection="data/collections/{collection}",
        runs=lambda w: fill(FIRST_STAGE_RUN, experiment.fused_first_stages(w)),
    output:
        "results/fusions/first-stage/{collection}/{split}/{retriever}.json",
    log:
        "results/logs/fuse_weights/{collection}/{split}/{retriever}.log",
    benchmark:
        "results/benchmarks/fuse_weights/{collection}/{split}/{retriever}.tsv"
    wildcard_constraints:
        retriever=any_of(experiment.retrievers("fusion")),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.weights"),
        settings=lambda w: experiment.fuse_first_stage_weights_settings(w.retriever),
    shell:
        "ssmrank fuse weights --settings {params.settings:q} --run {input.runs:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt --output {output:q} 2>&1 | tee {log:q} >&2"


rule fuse_first_stage:
    input:
        runs=lambda w: fill(FIRST_STAGE_RUN, experiment.fused_first_stages(w)),
        weights=lambda w: fill(
            "results/fusions/first-stage/{collection}/{split}/{retriever}.json", experiment.fitted_first_stage(w)
        ),
    output:
        "results/runs/first-stage/{collection}/{split}/{retriever}.trec",
    log:
        "results/logs/retrieve/{collection}/{split}/{retriever}.log",
    benchmark:
        "results/benchmarks/retrieve/{collection}/{split}/{retriever}.tsv"
    wildcard_constraints:
        retriever=any_of(experiment.retrievers("fusion")),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.run"),
        settings=lambda w: experiment.fuse_first_stage_settings(w.retriever),
        weights=lambda w, input: f"--weights {input.weights}" if input.weights else "",
    shell:
        "ssmrank fuse run --settings {params.settings:q} --run {input.runs:q} {params.weights} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"
