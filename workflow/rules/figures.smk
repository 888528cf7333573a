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
        *code("ssmrank.models.backbones"),
        scripts=digests(map(Path, ["benchmarks/training.py", "benchmarks/measure.py", "benchmarks/shapes.py"])),
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
        *code("ssmrank.reporting.figure_command"),
    shell:
        "ssmrank figure1 --csv {input:q} --output {output:q} 2>&1 | tee {log:q} >&2"
