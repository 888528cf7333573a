rule all_fuse:
    input:
        fill("results/runs/fused/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.trec", experiment.fused()),


rule fuse_weights:
    input:
        collection="data/collections/{collection}",
        runs=lambda w: experiment.fused_runs(w),
        candidates=lambda w: (
            f"results/runs/first-stage/{w.collection}/{w.split}/{experiment.rerank_retriever(w.reranking)}.trec"
        ),
    output:
        "results/fusions/reranked/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.json",
    log:
        "results/logs/fuse_weights/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.log",
    benchmark:
        "results/benchmarks/fuse_weights/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.weights"),
        settings=lambda w: experiment.fuse_weights_settings(w),
    shell:
        "ssmrank fuse weights --settings {params.settings:q} --run {input.runs:q} --candidates {input.candidates:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt --output {output:q} 2>&1 | tee {log:q} >&2"


rule fuse:
    input:
        runs=lambda w: experiment.fused_runs(w),
        candidates=lambda w: (
            f"results/runs/first-stage/{w.collection}/{w.split}/{experiment.rerank_retriever(w.reranking)}.trec"
        ),
        weights=lambda w: fill(
            "results/fusions/reranked/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.json",
            experiment.fitted(w),
        ),
    output:
        "results/runs/fused/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.trec",
    log:
        "results/logs/fuse/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.log",
    benchmark:
        "results/benchmarks/fuse/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.run"),
        settings=lambda w: experiment.fuse_settings(w),
        weights=lambda w, input: f"--weights {input.weights}" if input.weights else "",
    shell:
        "ssmrank fuse run --settings {params.settings:q} --run {input.runs:q} --candidates {input.candidates:q}"
        " {params.weights} --output {output:q} 2>&1 | tee {log:q} >&2"
