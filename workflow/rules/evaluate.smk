rule all_evaluate:
    input:
        fill("results/metrics/{collection}/{split}/{retriever}.json", experiment.evaluated_first_stages()),
        fill(
            "results/metrics/{collection}/{split}/{reranking}/{training}/{model}.json", experiment.evaluated_reranked()
        ),
        fill("results/metrics/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.json", experiment.fused()),


rule evaluate_first_stage:
    input:
        collection="data/collections/{collection}",
        run="results/runs/first-stage/{collection}/{split}/{retriever}.trec",
    output:
        mean="results/metrics/{collection}/{split}/{retriever}.json",
        queries="results/per-query/{collection}/{split}/{retriever}.json",
    log:
        "results/logs/evaluate/{collection}/{split}/{retriever}.log",
    benchmark:
        "results/benchmarks/evaluate/{collection}/{split}/{retriever}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.evaluate"),
        settings=experiment.evaluation_settings(),
    shell:
        "ssmrank evaluate --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --prefix {wildcards.collection}/{wildcards.split}"
        " --tag collection={wildcards.collection} --tag model={wildcards.retriever}"
        " --output {output.mean:q} --per-query {output.queries:q} 2>&1 | tee {log:q} >&2"


rule evaluate:
    input:
        collection="data/collections/{collection}",
        checkpoint=lambda w: experiment.checkpoint(w.training, w.model),
        run="results/runs/reranked/{collection}/{split}/{reranking}/{training}/{model}.trec",
    output:
        mean="results/metrics/{collection}/{split}/{reranking}/{training}/{model}.json",
        queries="results/per-query/{collection}/{split}/{reranking}/{training}/{model}.json",
    log:
        "results/logs/evaluate/{collection}/{split}/{reranking}/{training}/{model}.log",
    benchmark:
        "results/benchmarks/evaluate/{collection}/{split}/{reranking}/{training}/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.evaluate"),
        settings=experiment.evaluation_settings(),
    shell:
        "ssmrank evaluate --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --mlflow-run {input.checkpoint:q}/mlflow_run_id"
        " --prefix {wildcards.collection}/{wildcards.split}/{wildcards.reranking}"
        " --tag collection={wildcards.collection} --tag model={wildcards.model}"
        " --output {output.mean:q} --per-query {output.queries:q} 2>&1 | tee {log:q} >&2"


# Metrics of a fused run go to the MLflow run that trained its reranker, beside those of the reranker alone.
rule evaluate_fused:
    input:
        collection="data/collections/{collection}",
        checkpoint=lambda w: experiment.checkpoint(w.training, w.model),
        run="results/runs/fused/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.trec",
    output:
        mean="results/metrics/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.json",
        queries="results/per-query/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.json",
    log:
        "results/logs/evaluate/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.log",
    benchmark:
        "results/benchmarks/evaluate/{collection}/{split}/{reranking}/{training}/{model}/{fusion}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.evaluate"),
        settings=experiment.evaluation_settings(),
    shell:
        "ssmrank evaluate --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --mlflow-run {input.checkpoint:q}/mlflow_run_id"
        " --prefix {wildcards.collection}/{wildcards.split}/{wildcards.reranking}/{wildcards.fusion}"
        " --tag collection={wildcards.collection} --tag model={wildcards.model}"
        " --output {output.mean:q} --per-query {output.queries:q} 2>&1 | tee {log:q} >&2"
