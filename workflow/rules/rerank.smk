rule all_rerank:
    input:
        fill("results/runs/reranked/{collection}/{split}/{reranking}/{training}/{model}.trec", experiment.reranked()),


RERANK_STATE = state_of("rerank")


# A killed reranking goes on from its finished parts (see the rule `train`); those of one tokenizer share its tokens.
rule rerank:
    input:
        checkpoint=lambda w: experiment.checkpoint(w.training, w.model),
        collection="data/collections/{collection}",
        run=lambda w: (
            f"results/runs/first-stage/{w.collection}/{w.split}/{experiment.rerank_retriever(w.reranking)}.trec"
        ),
    output:
        "results/runs/reranked/{collection}/{split}/{reranking}/{training}/{model}.trec",
    log:
        "results/logs/rerank/{collection}/{split}/{reranking}/{training}/{model}.log",
    benchmark:
        "results/benchmarks/rerank/{collection}/{split}/{reranking}/{training}/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=lambda w: experiment.rerank_processes(w.reranking),
    params:
        *code("ssmrank.commands.rerank"),
        settings=lambda w: experiment.reranking_settings(w.reranking),
        tokens=f"{RERANK_STATE}/tokens",
        state=lambda w: f"{RERANK_STATE}/{w.collection}/{w.split}/{w.reranking}/{w.training}/{w.model}",
    shell:
        "ssmrank rerank --settings {params.settings:q} --checkpoint {input.checkpoint:q}"
        " --collection {input.collection:q} --split {wildcards.split} --run {input.run:q}"
        " --output {output:q} --state {params.state:q} --token-cache {params.tokens} 2>&1 | tee {log:q} >&2"


# What a machine's speed is does not depend on the seed: the first checkpoint stands for all.
rule rerank_speed:
    input:
        checkpoint=lambda w: experiment.checkpoint(w.training, w.model),
        collection="data/collections/{collection}",
        run=lambda w: (
            f"results/runs/first-stage/{w.collection}/{w.split}/{experiment.rerank_retriever(w.reranking)}.trec"
        ),
    output:
        "results/speed/{collection}/{split}/{reranking}/{training}/{model}.json",
    log:
        "results/logs/rerank_speed/{collection}/{split}/{reranking}/{training}/{model}.log",
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.measure.speed"),
        settings=lambda w: experiment.reranking_settings(w.reranking),
        pairs=lambda w: experiment.speed_pairs(w.collection, w.split),
    shell:
        "ssmrank measure speed --settings {params.settings:q} --checkpoint {input.checkpoint:q}"
        " --collection {input.collection:q} --split {wildcards.split} --run {input.run:q} {params.pairs}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
