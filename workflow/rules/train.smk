rule all_train:
    input:
        fill("results/checkpoints/{training}/{model}", experiment.trained()),


# A killed training goes on from its state, which lies outside its output because Snakemake deletes the output of a
# failed job. The state's name changes with the code, so that two versions of it never share one training.
rule train:
    input:
        model=lambda w: experiment.start(w.training, w.model),
        collection=lambda w: f"data/collections/{experiment.training_data(w.training).collection}",
        negatives=lambda w: experiment.training_groups(w.training),
        validation=lambda w: fill(
            "results/runs/first-stage/{collection}/{split}/{retriever}.trec", experiment.validation(w.training)
        ),
    output:
        directory("results/checkpoints/{training}/{model}"),
    log:
        "results/logs/train/{training}/{model}.log",
    benchmark:
        "results/benchmarks/train/{training}/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=lambda w: experiment.train_processes(w.training),
    params:
        *code("ssmrank.commands.train", without=["ssmrank.training.validation"]),
        validation_code=lambda w: (code("ssmrank.training.validation") if experiment.validation(w.training) else []),
        settings=lambda w: experiment.train_settings(w.training, w.model),
        kind=lambda w: experiment.kind(w.model),
        split=lambda w: experiment.training_data(w.training).split,
        validation=lambda w: fill(
            "--validation-run results/runs/first-stage/{collection}/{split}/{retriever}.trec"
            " --validation-qrels data/collections/{collection}/splits/{split}/qrels.txt",
            experiment.validation(w.training),
        ),
        state=state_of("train"),
    shell:
        "ssmrank train --settings {params.settings:q} --model {input.model:q} --kind {params.kind}"
        " --collection {input.collection:q} --split {params.split} --negatives {input.negatives:q}"
        " --output {output:q} --state {params.state}/{wildcards.training}/{wildcards.model}"
        " --token-cache {params.state}/tokens {params.validation} 2>&1 | tee {log:q} >&2"
