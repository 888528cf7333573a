rule all_train:
    input:
        fill(paths.CHECKPOINT, targets.trained),


OF_SOME_TRAININGS = (
    "ssmrank.training.adapters",
    "ssmrank.training.eight_bit",
    "ssmrank.training.validation",
    "ssmrank.evaluation",
)


# A killed training resumes from its state. The state is outside the output, because Snakemake deletes the output of a
# failed job. The state's name depends on the code, so that two versions never share one training.
rule train:
    input:
        model=lambda w: lookups.start(w.training, w.model),
        collection=lambda w: fill(paths.COLLECTION, [lookups.training_data(w.training)]),
        negatives=lambda w: lookups.training_groups(w.training),
        validation=lambda w: fill(paths.FIRST_STAGE_RUN, lookups.validation(w.training)),
    output:
        directory(paths.CHECKPOINT),
    log:
        log_of("train", "{training}/{model}"),
    benchmark:
        benchmark_of("train", "{training}/{model}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=lambda w: lookups.train_processes(w.training),
        # None of these on one node. On several, `ssmrank train` itself calls srun, which is what `mpi` announces to
        # Snakemake's plugin for Slurm, and each node has one task, whatever GPUs it has.
        nodes=lambda w: lookups.train_nodes(w.training),
        tasks=lambda w: lookups.train_nodes(w.training),
        mpi=lambda w: lookups.train_nodes(w.training) and "srun",
        tasks_per_gpu=lambda w: lookups.train_nodes(w.training) and 0,
        slurm_extra=lambda w: lookups.train_places(w.training),
    params:
        *code("ssmrank.commands.train", without=OF_SOME_TRAININGS),
        own_code=lambda w: [line for module in lookups.train_modules(w.training) for line in code(module)],
        settings=lambda w: experiment.settings(jobs.train_settings, w.training, w.model),
        kind=lambda w: lookups.kind(w.model),
        split=lambda w: lookups.training_data(w.training).split,
        validation=lambda w: fill(
            f"--validation-run {copy_of(paths.FIRST_STAGE_RUN)} --validation-qrels {copy_of(paths.QRELS)}",
            lookups.validation(w.training),
        ),
        state=lambda w: state_of("train", OF_SOME_TRAININGS, lookups.train_modules(w.training)),
    shell:
        "ssmrank train --settings {params.settings:q} --model {input.model:q} --kind {params.kind}"
        " --collection {input.collection:q} --split {params.split} --negatives {input.negatives:q}"
        " --output {output:q} --state {params.state}/{wildcards.training}/{wildcards.model}"
        " --token-cache {params.state}/tokens {params.validation} 2>&1 | tee {log:q} >&2"
