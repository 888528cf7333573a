rule all_evaluate:
    input:
        fill(paths.metrics_of(paths.FIRST_STAGE), targets.evaluated_first_stages),
        fill(paths.metrics_of(paths.RERANKED), targets.evaluated_reranked),
        fill(paths.metrics_of(paths.FUSED), targets.fused),


rule evaluate_first_stage:
    input:
        collection=paths.COLLECTION,
        run=paths.FIRST_STAGE_RUN,
    output:
        mean=paths.metrics_of(paths.FIRST_STAGE),
        queries=paths.per_query_of(paths.FIRST_STAGE),
    log:
        log_of("evaluate", paths.FIRST_STAGE),
    benchmark:
        benchmark_of("evaluate", paths.FIRST_STAGE)
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.evaluate"),
        settings=experiment.settings(jobs.evaluation_settings),
    shell:
        "ssmrank evaluate --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --prefix {wildcards.collection}/{wildcards.split}"
        " --tag collection={wildcards.collection} --tag model={wildcards.retriever}"
        " --output {output.mean:q} --per-query {output.queries:q} 2>&1 | tee {log:q} >&2"


rule evaluate:
    input:
        collection=paths.COLLECTION,
        checkpoint=lambda w: lookups.checkpoint(w.training, w.model),
        run=paths.RERANKED_RUN,
    output:
        mean=paths.metrics_of(paths.RERANKED),
        queries=paths.per_query_of(paths.RERANKED),
    log:
        log_of("evaluate", paths.RERANKED),
    benchmark:
        benchmark_of("evaluate", paths.RERANKED)
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.evaluate"),
        settings=experiment.settings(jobs.evaluation_settings),
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
        collection=paths.COLLECTION,
        checkpoint=lambda w: lookups.checkpoint(w.training, w.model),
        run=paths.FUSED_RUN,
    output:
        mean=paths.metrics_of(paths.FUSED),
        queries=paths.per_query_of(paths.FUSED),
    log:
        log_of("evaluate", paths.FUSED),
    benchmark:
        benchmark_of("evaluate", paths.FUSED)
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.evaluate"),
        settings=experiment.settings(jobs.evaluation_settings),
    shell:
        "ssmrank evaluate --settings {params.settings:q} --run {input.run:q}"
        " --qrels {input.collection:q}/splits/{wildcards.split}/qrels.txt"
        " --mlflow-run {input.checkpoint:q}/mlflow_run_id"
        " --prefix {wildcards.collection}/{wildcards.split}/{wildcards.reranking}/{wildcards.fusion}"
        " --tag collection={wildcards.collection} --tag model={wildcards.model}"
        " --output {output.mean:q} --per-query {output.queries:q} 2>&1 | tee {log:q} >&2"
