rule all_tables:
    input:
        expand(
            "results/tables/{table}.{format}",
            table=[*experiment.tables(), *experiment.overviews()],
            format=["tex", "csv", "md", "html"],
        ),


rule significance:
    input:
        lambda w: expand("results/per-query/{key}.json", key=experiment.table_keys(w.table)),
    output:
        "results/tables/significance/{table}.csv",
    log:
        "results/logs/significance/{table}.log",
    benchmark:
        "results/benchmarks/significance/{table}.tsv"
    wildcard_constraints:
        table=any_of(experiment.tested_tables()),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.significance"),
        settings=lambda w: experiment.significance_settings(w.table),
    shell:
        "ssmrank table significance --settings {params.settings:q} --per-query results/per-query --output {output:q}"
        " 2>&1 | tee {log:q} >&2"


rule costs:
    input:
        lambda w: experiment.cost_inputs(w.table),
    output:
        "results/tables/costs/{table}.json",
    log:
        "results/logs/costs/{table}.log",
    benchmark:
        "results/benchmarks/costs/{table}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.measure.costs"),
        settings=lambda w: experiment.cost_settings(w.table),
    shell:
        "ssmrank measure costs --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule table:
    input:
        metrics=lambda w: expand("results/metrics/{key}.json", key=experiment.table_keys(w.table)),
        tests=lambda w: expand("results/tables/significance/{table}.csv", table=experiment.significance(w.table)),
        costs=lambda w: experiment.costs(w.table),
    output:
        html=report(
            "results/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "page"},
        ),
        tex=report(
            "results/tables/{table}.tex",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "LaTeX"},
        ),
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "CSV"},
        ),
        md="results/tables/{table}.md",
    log:
        "results/logs/table/{table}.log",
    benchmark:
        "results/benchmarks/table/{table}.tsv"
    wildcard_constraints:
        table=any_of(experiment.tables()),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.results"),
        settings=lambda w: experiment.table_settings(w.table),
        tests=lambda w: expand(
            "--significance results/tables/significance/{table}.csv", table=experiment.significance(w.table)
        ),
        costs=lambda w: [f"--costs {path}" for path in experiment.costs(w.table)],
    shell:
        "ssmrank table results --settings {params.settings:q} --metrics results/metrics {params.tests} {params.costs}"
        " --tex {output.tex:q} --csv {output.csv:q} --markdown {output.md:q} --html {output.html:q} 2>&1 | tee {log:q} >&2"


rule overview:
    input:
        lambda w: expand("data/models/{model}", model=experiment.overview_models(w.table)),
    output:
        html=report(
            "results/tables/{table}.html",
            caption="../report/overview.rst",
            category="Tables",
            labels={"table": "{table}", "form": "page"},
        ),
        tex=report(
            "results/tables/{table}.tex",
            caption="../report/overview.rst",
            category="Tables",
            labels={"table": "{table}", "form": "LaTeX"},
        ),
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/overview.rst",
            category="Tables",
            labels={"table": "{table}", "form": "CSV"},
        ),
        md="results/tables/{table}.md",
    log:
        "results/logs/overview/{table}.log",
    benchmark:
        "results/benchmarks/overview/{table}.tsv"
    wildcard_constraints:
        table=any_of(experiment.overviews()),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.overview"),
        settings=lambda w: experiment.overview_settings(w.table),
    shell:
        "ssmrank table overview --settings {params.settings:q} --models data/models --tex {output.tex:q}"
        " --csv {output.csv:q} --markdown {output.md:q} --html {output.html:q} 2>&1 | tee {log:q} >&2"


rule tables_pdf:
    input:
        expand("results/tables/{table}.tex", table=experiment.numbered_tables()),
    output:
        report(
            "results/tables.pdf",
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "all", "form": "PDF"},
        ),
    log:
        "results/logs/tables_pdf.log",
    benchmark:
        "results/benchmarks/tables_pdf.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.pdf"),
    shell:
        "ssmrank table pdf --tex {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


# Like the one before, a target of its own outside `all`, because it needs LaTeX.
rule table_pdf:
    input:
        "results/tables/{table}.tex",
    output:
        report(
            "results/tables/{table}.pdf",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "form": "PDF"},
        ),
    log:
        "results/logs/table_pdf/{table}.log",
    benchmark:
        "results/benchmarks/table_pdf/{table}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.pdf"),
    shell:
        "ssmrank table pdf --tex {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"
