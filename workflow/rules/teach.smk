rule all_teach:
    input:
        fill(paths.TAUGHT, targets.taught),


# A killed teaching resumes after its finished parts (see the rule `train`).
rule teach:
    input:
        collection=paths.COLLECTION,
        groups=paths.NEGATIVES,
        pool=lambda w: fill(paths.FIRST_STAGE_RUN, [lookups.pool(w)]),
        members=lambda w: [path for files in lookups.teacher_files(w).values() for path in files],
    output:
        paths.TAUGHT,
    log:
        log_of("teach", "{collection}/{split}/{negatives}/{teacher}"),
    benchmark:
        benchmark_of("teach", "{collection}/{split}/{negatives}/{teacher}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.teach"),
        settings=lambda w: experiment.settings(jobs.teach_settings, w.teacher, w.negatives),
        members=lambda w: [
            f"--member {name} {' '.join(map(copy_of, files))}" for name, files in lookups.teacher_files(w).items()
        ],
        state=state_of("teach"),
    shell:
        "ssmrank teach --settings {params.settings:q} --groups {input.groups:q} --collection {input.collection:q}"
        " --split {wildcards.split} --pool {input.pool:q} {params.members}"
        " --state {params.state:q}/{wildcards.collection}/{wildcards.split}/{wildcards.negatives}/{wildcards.teacher}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
