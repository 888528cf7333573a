# Figures of results are targets of their own, outside `all`: `snakemake all_figures`, or `make report`.
rule all_figures:
    input:
        expand("results/figures/differences/{table}.svg", table=experiment.compared_tables()),
        expand("results/figures/training/{training}.svg", training=experiment.training_names()),


rule differences:
    input:
        lambda w: expand("results/per-query/{key}.json", key=experiment.table_keys(w.table)),
    output:
        report(
            "results/figures/differences/{table}.svg",
            caption="../report/differences.rst",
            category="Figures",
            subcategory="Per-query differences",
            labels={"table": "{table}"},
        ),
        "results/figures/differences/{table}.pdf",
    log:
        "results/logs/differences/{table}.log",
    benchmark:
        "results/benchmarks/differences/{table}.tsv"
    wildcard_constraints:
        table=any_of(experiment.compared_tables()),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.differences"),
        settings=lambda w: experiment.table_settings(w.table),
    shell:
        "ssmrank figure differences --settings {params.settings:q} --per-query results/per-query --output {output:q}"
        " 2>&1 | tee {log:q} >&2"


rule training_curves:
    input:
        lambda w: fill("results/checkpoints/{training}/{model}", experiment.trained_by(w.training)),
    output:
        report(
            "results/figures/training/{training}.svg",
            caption="../report/training.rst",
            category="Figures",
            subcategory="Training curves",
            labels={"training": "{training}"},
        ),
        "results/figures/training/{training}.pdf",
    log:
        "results/logs/training_curves/{training}.log",
    benchmark:
        "results/benchmarks/training_curves/{training}.tsv"
    wildcard_constraints:
        training=any_of(experiment.training_names()),
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.curves"),
        checkpoints=lambda w: [
            f"--checkpoints={word}" for word in experiment.checkpoint_labels(w.training, "results/checkpoints")
        ],
    shell:
        "ssmrank figure curves --title {wildcards.training} {params.checkpoints:q} --output {output:q}"
        " 2>&1 | tee {log:q} >&2"


# Targets of their own, outside `all`: what they show depends on the machine, and measuring takes it for minutes.
rule training_throughput:
    output:
        "results/throughput/training.csv",
    log:
        "results/logs/training_throughput.log",
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
        "results/throughput/training.csv",
    output:
        report("results/figures/figure1.pdf", caption="../report/figure1.rst", category="Figures"),
    log:
        "results/logs/figure1.log",
    benchmark:
        "results/benchmarks/figure1.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.throughput"),
    shell:
        "ssmrank figure throughput --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule inference_speed:
    output:
        "results/throughput/{suite}.csv",
    log:
        "results/logs/inference_speed/{suite}.log",
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
        "results/throughput/table5.csv",
    output:
        report(
            multiext("results/tables/table5", ".html", ".tex", ".csv"),
            caption="../report/table5.rst",
            category="Tables",
            labels={"table": "table5", "form": "{ext}"},
        ),
        "results/tables/table5.md",
    log:
        "results/logs/table5.log",
    benchmark:
        "results/benchmarks/table5.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.speed"),
    shell:
        "ssmrank table speed --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule table6:
    input:
        "results/throughput/lengths.csv",
    output:
        report(
            multiext("results/tables/table6", ".html", ".tex", ".csv"),
            caption="../report/table6.rst",
            category="Tables",
            labels={"table": "table6", "form": "{ext}"},
        ),
        "results/tables/table6.md",
    log:
        "results/logs/table6.log",
    benchmark:
        "results/benchmarks/table6.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.table.complexity"),
    shell:
        "ssmrank table complexity --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"


rule efficiency:
    input:
        experiment.efficiency_inputs(),
    output:
        report("results/figures/efficiency.pdf", caption="../report/efficiency.rst", category="Figures"),
    log:
        "results/logs/efficiency.log",
    benchmark:
        "results/benchmarks/efficiency.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.efficiency"),
        settings=lambda w: experiment.efficiency_settings(),
    shell:
        "ssmrank figure efficiency --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q} >&2"
