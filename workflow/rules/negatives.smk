rule all_negatives:
    input:
        fill(paths.NEGATIVES, targets.samples),


rule negatives:
    input:
        collection=paths.COLLECTION,
        run=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.sampled_run(w.collection, w.split, w.negatives)]),
        rivals=lambda w: fill(
            paths.FIRST_STAGE_RUN,
            lookups.rivals(w.collection, w.split, w.negatives),
        ),
    output:
        paths.NEGATIVES,
    log:
        log_of("negatives", "{collection}/{split}/{negatives}"),
    benchmark:
        benchmark_of("negatives", "{collection}/{split}/{negatives}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.negatives"),
        settings=lambda w: experiment.settings(jobs.negatives_settings, w.negatives),
        rivals=lambda w, input: f"--rivals {input.rivals}" if input.rivals else "",
    shell:
        "ssmrank negatives --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --collection {input.collection:q} {params.rivals} --output {output:q} 2>&1 | tee {log:q} >&2"
