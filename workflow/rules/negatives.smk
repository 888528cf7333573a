rule all_negatives:
    input:
        fill("results/negatives/{collection}/{split}/{negatives}.jsonl", experiment.samples()),


rule negatives:
    input:
        collection="data/collections/{collection}",
        run=lambda w: (
            f"results/runs/first-stage/{w.collection}/{w.split}/{experiment.negatives_retriever(w.negatives)}.trec"
        ),
        rivals=lambda w: fill(
            "results/runs/first-stage/{collection}/{split}/{retriever}.trec",
            experiment.rivals(w.collection, w.split, w.negatives),
        ),
    output:
        "results/negatives/{collection}/{split}/{negatives}.jsonl",
    log:
        "results/logs/negatives/{collection}/{split}/{negatives}.log",
    benchmark:
        "results/benchmarks/negatives/{collection}/{split}/{negatives}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.negatives"),
        settings=lambda w: experiment.negatives_settings(w.negatives),
        rivals=lambda w, input: f"--rivals {input.rivals}" if input.rivals else "",
    shell:
        "ssmrank negatives --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --collection {input.collection:q} {params.rivals} --output {output:q} 2>&1 | tee {log:q} >&2"
