rule all_fuse:
    input:
        fill(paths.FUSED_RUN, targets.fused),


rule fuse_weights:
    input:
        collection=paths.COLLECTION,
        runs=lambda w: lookups.fused_runs(w),
        candidates=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.first_stage(w)]),
    output:
        paths.FUSED_WEIGHTS,
    log:
        log_of("fuse_weights", paths.FUSED),
    benchmark:
        benchmark_of("fuse_weights", paths.FUSED)
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.weights"),
        settings=lambda w: experiment.settings(jobs.fuse_weights_settings, w.fusion, w.reranking),
    shell:
        "ssmrank fuse weights --settings {params.settings:q} --run {input.runs:q} --candidates {input.candidates:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt --output {output:q} 2>&1 | tee {log:q} >&2"


rule fuse:
    input:
        runs=lambda w: lookups.fused_runs(w),
        candidates=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.first_stage(w)]),
        weights=lambda w: fill(
            paths.FUSED_WEIGHTS,
            lookups.fitted(w),
        ),
    output:
        paths.FUSED_RUN,
    log:
        log_of("fuse", paths.FUSED),
    benchmark:
        benchmark_of("fuse", paths.FUSED)
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.fuse.run"),
        settings=lambda w: experiment.settings(jobs.fuse_settings, w.fusion, w.reranking),
        weights=lambda w, input: f"--weights {input.weights}" if input.weights else "",
    shell:
        "ssmrank fuse run --settings {params.settings:q} --run {input.runs:q} --candidates {input.candidates:q}"
        " {params.weights} --output {output:q} 2>&1 | tee {log:q} >&2"
