rule all_rerank:
    input:
        fill(paths.RERANKED_RUN, targets.reranked),


# Speeds that tables show among their costs; those of other rerankers are targets of their own.
rule all_speed:
    input:
        targets.timed,


RERANK_STATE = state_of("rerank")


# A killed reranking resumes after its finished parts (see the rule `train`). Rerankings of one tokenizer share tokens.
rule rerank:
    input:
        checkpoint=lambda w: lookups.checkpoint(w.training, w.model),
        collection=paths.COLLECTION,
        run=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.first_stage(w)]),
    output:
        paths.RERANKED_RUN,
    log:
        log_of("rerank", paths.RERANKED),
    benchmark:
        benchmark_of("rerank", paths.RERANKED)
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=lambda w: lookups.rerank_processes(w.reranking),
    params:
        *code("ssmrank.commands.rerank"),
        settings=lambda w: experiment.settings(jobs.reranking_settings, w.reranking),
        tokens=f"{RERANK_STATE}/tokens",
        state=lambda w: f"{RERANK_STATE}/{w.collection}/{w.split}/{w.reranking}/{w.training}/{w.model}",
    shell:
        "ssmrank rerank --settings {params.settings:q} --checkpoint {input.checkpoint:q}"
        " --collection {input.collection:q} --split {wildcards.split} --run {input.run:q}"
        " --output {output:q} --state {params.state:q} --token-cache {params.tokens} 2>&1 | tee {log:q} >&2"


# Speed does not depend on the seed, so only the first checkpoint is measured.
rule rerank_speed:
    input:
        checkpoint=lambda w: lookups.checkpoint(w.training, w.model),
        collection=paths.COLLECTION,
        run=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.first_stage(w)]),
    output:
        paths.speed_of(paths.RERANKED),
    log:
        log_of("rerank_speed", paths.RERANKED),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.measure.speed"),
        settings=lambda w: experiment.settings(jobs.reranking_settings, w.reranking),
        pairs=lambda w: lookups.speed_pairs(w.collection, w.split),
    shell:
        "ssmrank measure speed --settings {params.settings:q} --checkpoint {input.checkpoint:q}"
        " --collection {input.collection:q} --split {wildcards.split} --run {input.run:q} {params.pairs}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


# Counted without running the model; not part of `all`.
rule rerank_tokens:
    input:
        checkpoint=lambda w: lookups.checkpoint(w.training, w.model),
        collection=paths.COLLECTION,
        run=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.first_stage(w)]),
    output:
        paths.tokens_of(paths.RERANKED),
    log:
        log_of("rerank_tokens", paths.RERANKED),
    benchmark:
        benchmark_of("rerank_tokens", paths.RERANKED)
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.measure.tokens"),
        settings=lambda w: experiment.settings(jobs.reranking_settings, w.reranking),
    shell:
        "ssmrank measure tokens --settings {params.settings:q} --checkpoint {input.checkpoint:q}"
        " --collection {input.collection:q} --split {wildcards.split} --run {input.run:q} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"
