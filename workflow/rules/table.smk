rule all_tables:
    input:
        expand("results/tables/{table}.{format}", table=experiment.tables(), format=["tex", "csv", "md"]),


rule table:
    input:
        lambda w: expand("results/metrics/{key}.json", key=experiment.table_keys(w.table)),
    output:
        multiext("results/tables/{table}", tex=".tex", csv=".csv", md=".md"),
    log:
        "results/logs/table/{table}.log",
    benchmark:
        "results/benchmarks/table/{table}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.evaluation.command"),
        settings=lambda w: experiment.table_settings(w.table),
    shell:
        "ssmrank table --settings {params.settings:q} --metrics results/metrics --tex {output.tex:q}"
        " --csv {output.csv:q} --markdown {output.md:q} 2>&1 | tee {log:q} >&2"
