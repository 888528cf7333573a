rule all_tables:
    input:
        expand("results/tables/{table}.{format}", table=experiment.tables(), format=["tex", "csv", "md"]),


rule table:
    input:
        lambda w: expand("results/metrics/{key}.json", key=experiment.table_keys(w.table)),
    output:
        tex=report("results/tables/{table}.tex", caption="../report/table.rst", category="Tables"),
        csv=report("results/tables/{table}.csv", caption="../report/table.rst", category="Tables"),
        md="results/tables/{table}.md",
    log:
        "results/logs/table/{table}.log",
    benchmark:
        "results/benchmarks/table/{table}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.reporting.command"),
        settings=lambda w: experiment.table_settings(w.table),
        metrics=lambda w: expand("{key}=results/metrics/{key}.json", key=experiment.table_keys(w.table)),
    shell:
        "ssmrank table --settings {params.settings:q} --metrics {params.metrics:q} --tex {output.tex:q}"
        " --csv {output.csv:q} --markdown {output.md:q} 2>&1 | tee {log:q} >&2"


# A target of its own, outside `all`, because it needs LaTeX.
rule table_pdf:
    input:
        "results/tables/{table}.tex",
    output:
        report("results/tables/{table}.pdf", caption="../report/table.rst", category="Tables"),
    log:
        "results/logs/table_pdf/{table}.log",
    benchmark:
        "results/benchmarks/table_pdf/{table}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.reporting.pdf_command"),
    shell:
        "ssmrank pdf --tex {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"
