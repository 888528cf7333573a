rule all_teach:
    input:
        fill("results/teaching/{collection}/{split}/{negatives}/{teacher}.jsonl", experiment.taught()),


# A killed teaching goes on from its finished parts (see the rule `train`).
rule teach:
    input:
        collection="data/collections/{collection}",
        groups="results/negatives/{collection}/{split}/{negatives}.jsonl",
        pool=lambda w: fill("results/runs/first-stage/{collection}/{split}/{retriever}.trec", [experiment.pool(w)]),
        members=lambda w: [path for files in experiment.teacher_files(w).values() for path in files],
    output:
        "results/teaching/{collection}/{split}/{negatives}/{teacher}.jsonl",
    log:
        "results/logs/teach/{collection}/{split}/{negatives}/{teacher}.log",
    benchmark:
        "results/benchmarks/teach/{collection}/{split}/{negatives}/{teacher}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.teach"),
        settings=lambda w: experiment.teach_settings(w.teacher, w.negatives),
        members=lambda w: [f"--member {name} {' '.join(files)}" for name, files in experiment.teacher_files(w).items()],
        state=state_of("teach"),
    shell:
        "ssmrank teach --settings {params.settings:q} --groups {input.groups:q} --collection {input.collection:q}"
        " --split {wildcards.split} --pool {input.pool:q} {params.members}"
        " --state {params.state:q}/{wildcards.collection}/{wildcards.split}/{wildcards.negatives}/{wildcards.teacher}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
