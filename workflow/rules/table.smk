rule all_tables:
    input:
        expand(
            f"{paths.TABLE}.{{format}}",
            table=[*targets.tables, *targets.overviews],
            format=["tex", "csv", "md", "html"],
        ),


rule significance:
    input:
        lambda w: [paths.per_query_of(key) for key in lookups.table_keys(w.table)],
    output:
        paths.SIGNIFICANCE,
    log:
        log_of("significance", "{table}"),
    benchmark:
        benchmark_of("significance", "{table}")
    wildcard_constraints:
        table=any_of(targets.tested_tables),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.significance"),
        settings=lambda w: experiment.settings(jobs.significance_settings, w.table),
        per_query=paths.PER_QUERY,
    shell:
        "ssmrank table significance --settings {params.settings:q} --per-query {params.per_query} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"


# Comparisons by ranx are not part of `all`: `snakemake all_comparisons` makes them.
rule all_comparisons:
    input:
        expand(f"{paths.COMPARISON}.txt", comparison=targets.comparisons),


rule comparison:
    input:
        collection=lambda w: lookups.compared_collection(w.comparison),
        runs=lambda w: lookups.compared_runs(w.comparison).values(),
    output:
        text=f"{paths.COMPARISON}.txt",
        json=f"{paths.COMPARISON}.json",
    log:
        log_of("comparison", "{comparison}"),
    benchmark:
        benchmark_of("comparison", "{comparison}")
    wildcard_constraints:
        comparison=any_of(targets.comparisons),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.comparison"),
        settings=lambda w: experiment.settings(jobs.comparison_settings, *w.comparison.split("/", 1)),
        qrels=lambda w: copy_of(lookups.compared_qrels(w.comparison)),
        runs=lambda w: [f"{label}={copy_of(file)}" for label, file in lookups.compared_runs(w.comparison).items()],
    shell:
        "ssmrank table comparison --settings {params.settings:q} --run {params.runs:q} --qrels {params.qrels:q}"
        " --output {output.text:q} --json {output.json:q} 2>&1 | tee {log:q} >&2"


rule costs:
    input:
        lambda w: lookups.cost_inputs(w.table),
    output:
        paths.COSTS,
    log:
        log_of("costs", "{table}"),
    benchmark:
        benchmark_of("costs", "{table}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.measure.costs"),
        settings=lambda w: experiment.settings(jobs.cost_settings, w.table, storage_of_outputs.places),
    shell:
        "ssmrank measure costs --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule table:
    input:
        metrics=lambda w: [paths.metrics_of(key) for key in lookups.table_keys(w.table)],
        tests=lambda w: lookups.significance(w.table),
        costs=lambda w: lookups.costs(w.table),
    output:
        html=report(
            f"{paths.TABLE}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "page"},
        ),
        tex=report(
            f"{paths.TABLE}.tex",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "LaTeX"},
        ),
        csv=report(
            f"{paths.TABLE}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "CSV"},
        ),
        md=f"{paths.TABLE}.md",
    log:
        log_of("table", "{table}"),
    benchmark:
        benchmark_of("table", "{table}")
    wildcard_constraints:
        table=any_of(targets.tables),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.results"),
        settings=lambda w: experiment.settings(jobs.table_settings, w.table),
        tests=lambda w: [f"--significance {path}" for path in lookups.significance(w.table)],
        costs=lambda w: [f"--costs {path}" for path in lookups.costs(w.table)],
        metrics=paths.METRICS,
    shell:
        "ssmrank table results --settings {params.settings:q} --metrics {params.metrics} {params.tests} {params.costs}"
        " --tex {output.tex:q} --csv {output.csv:q} --markdown {output.md:q} --html {output.html:q} 2>&1 | tee {log:q} >&2"


rule overview:
    input:
        lambda w: expand(paths.MODEL, model=lookups.overview_models(w.table)),
    output:
        html=report(
            f"{paths.TABLE}.html",
            caption="../report/overview.rst",
            category="Tables",
            labels={"table": "{table}", "form": "page"},
        ),
        tex=report(
            f"{paths.TABLE}.tex",
            caption="../report/overview.rst",
            category="Tables",
            labels={"table": "{table}", "form": "LaTeX"},
        ),
        csv=report(
            f"{paths.TABLE}.csv",
            caption="../report/overview.rst",
            category="Tables",
            labels={"table": "{table}", "form": "CSV"},
        ),
        md=f"{paths.TABLE}.md",
    log:
        log_of("overview", "{table}"),
    benchmark:
        benchmark_of("overview", "{table}")
    wildcard_constraints:
        table=any_of(targets.overviews),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.overview"),
        settings=lambda w: experiment.settings(jobs.overview_settings, w.table),
        models=copy_of(paths.MODELS),
    shell:
        "ssmrank table overview --settings {params.settings:q} --models {params.models} --tex {output.tex:q}"
        " --csv {output.csv:q} --markdown {output.md:q} --html {output.html:q} 2>&1 | tee {log:q} >&2"


ruleorder: tables_pdf > table_pdf


rule tables_pdf:
    input:
        expand(f"{paths.TABLE}.tex", table=targets.numbered_tables),
    output:
        report(
            paths.TABLES_PDF,
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "all", "form": "PDF"},
        ),
    log:
        log_of("tables_pdf"),
    benchmark:
        benchmark_of("tables_pdf")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.pdf"),
    shell:
        "ssmrank table pdf --tex {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


# Like the rule before, not part of `all`: it needs LaTeX.
rule table_pdf:
    input:
        f"{paths.TABLE}.tex",
    output:
        report(
            f"{paths.TABLE}.pdf",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "PDF"},
        ),
    log:
        log_of("table_pdf", "{table}"),
    benchmark:
        benchmark_of("table_pdf", "{table}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.pdf"),
    shell:
        "ssmrank table pdf --tex {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"
