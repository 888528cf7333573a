# Figures of results are not part of `all`: `snakemake all_figures` or `make report` makes them.
rule all_figures:
    input:
        expand(f"{paths.DIFFERENCES}.svg", table=targets.compared_tables),
        expand(f"{paths.CURVES}.svg", training=targets.training_names),


rule differences:
    input:
        lambda w: [paths.per_query_of(key) for key in lookups.table_keys(w.table)],
    output:
        report(
            f"{paths.DIFFERENCES}.svg",
            caption="../report/differences.rst",
            category="Figures",
            subcategory="Per-query differences",
            labels={"table": "{table}"},
        ),
        f"{paths.DIFFERENCES}.pdf",
    log:
        log_of("differences", "{table}"),
    benchmark:
        benchmark_of("differences", "{table}")
    wildcard_constraints:
        table=any_of(targets.compared_tables),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.differences"),
        settings=lambda w: experiment.settings(jobs.table_settings, w.table),
        per_query=paths.PER_QUERY,
    shell:
        "ssmrank figure differences --settings {params.settings:q} --per-query {params.per_query} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"


rule training_curves:
    input:
        lambda w: fill(paths.CHECKPOINT, targets.trained_by(w.training)),
    output:
        report(
            f"{paths.CURVES}.svg",
            caption="../report/training.rst",
            category="Figures",
            subcategory="Training curves",
            labels={"training": "{training}"},
        ),
        f"{paths.CURVES}.pdf",
    log:
        log_of("training_curves", "{training}"),
    benchmark:
        benchmark_of("training_curves", "{training}")
    wildcard_constraints:
        training=any_of(targets.training_names),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.curves"),
        checkpoints=lambda w: [
            f"--checkpoints={label}={copy_of(folder)}" for label, folder in targets.curve_labels(w.training)
        ],
    shell:
        "ssmrank figure curves --title {wildcards.training} {params.checkpoints:q} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"


# Not part of `all`: what they show depends on the machine, and a measurement needs it for minutes.
rule training_throughput:
    output:
        paths.THROUGHPUT.format(suite="training"),
    log:
        log_of("training_throughput"),
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.training.gradients"),
        scripts=script_code("benchmarks/training.py"),
    shell:
        "python benchmarks/training.py --suite figure1 --output {output:q} 2>&1 | tee {log:q} >&2"


rule figure1:
    input:
        paths.THROUGHPUT.format(suite="training"),
    output:
        report(paths.THROUGHPUT_FIGURE, caption="../report/figure1.rst", category="Figures"),
    log:
        log_of("figure1"),
    benchmark:
        benchmark_of("figure1")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.throughput"),
    shell:
        "ssmrank figure throughput --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule inference_speed:
    output:
        paths.THROUGHPUT,
    log:
        log_of("inference_speed", "{suite}"),
    wildcard_constraints:
        suite="table5|lengths",
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.reranking.engine"),
        scripts=script_code("benchmarks/reranking.py", data=["benchmarks/workloads/msmarco-documents.json"]),
    shell:
        "python benchmarks/reranking.py --suite {wildcards.suite} --output {output:q} 2>&1 | tee {log:q} >&2"


rule table5:
    input:
        paths.THROUGHPUT.format(suite="table5"),
    output:
        report(
            multiext(paths.TABLE.format(table="table5"), ".html", ".tex", ".csv"),
            caption="../report/table5.rst",
            category="Tables",
            labels={"table": "table5", "form": "{ext}"},
        ),
        paths.TABLE.format(table="table5.md"),
    log:
        log_of("table5"),
    benchmark:
        benchmark_of("table5")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.speed"),
    shell:
        "ssmrank table speed --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule table6:
    input:
        paths.THROUGHPUT.format(suite="lengths"),
    output:
        report(
            multiext(paths.TABLE.format(table="table6"), ".html", ".tex", ".csv"),
            caption="../report/table6.rst",
            category="Tables",
            labels={"table": "table6", "form": "{ext}"},
        ),
        paths.TABLE.format(table="table6.md"),
    log:
        log_of("table6"),
    benchmark:
        benchmark_of("table6")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.complexity"),
    shell:
        "ssmrank table complexity --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule efficiency:
    input:
        lookups.efficiency_inputs(),
    output:
        report(paths.EFFICIENCY_FIGURE, caption="../report/efficiency.rst", category="Figures"),
    log:
        log_of("efficiency"),
    benchmark:
        benchmark_of("efficiency")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.efficiency"),
        settings=lambda w: experiment.settings(jobs.efficiency_settings, storage_of_outputs.places),
    shell:
        "ssmrank figure efficiency --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule tokens:
    input:
        lambda w: lookups.token_figure_inputs(w.table),
    output:
        report(
            f"{paths.TOKEN_FIGURE}.svg",
            caption="../report/tokens.rst",
            category="Figures",
            subcategory="Quality against tokens",
            labels={"table": "{table}"},
        ),
        f"{paths.TOKEN_FIGURE}.pdf",
        f"{paths.TOKEN_FIGURE}.csv",
    log:
        log_of("tokens", "{table}"),
    benchmark:
        benchmark_of("tokens", "{table}")
    wildcard_constraints:
        table=any_of(targets.reranking_tables),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.tokens"),
        settings=lambda w: experiment.settings(jobs.token_figure_settings, w.table, storage_of_outputs.places),
    shell:
        "ssmrank figure tokens --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q} >&2"
