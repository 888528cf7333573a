# Targets of their own, outside `all` unless a table has a model of kind pretrained: they need the corpus, and hours of a
# CPU or minutes of a GPU.
rule all_pretrain:
    input:
        fill("results/pretraining/{pretraining}/models/{model}", experiment.pretrained()),
        expand("results/figures/pretraining-{pretraining}.pdf", pretraining=experiment.params.pretraining),


rule all_publish:
    input:
        fill("results/pretraining/{pretraining}/published/{model}", experiment.pretrained()),


rule corpus_tokenizer:
    output:
        directory("data/pretraining/{pretraining}/tokenizer"),
    log:
        "results/logs/corpus_tokenizer/{pretraining}.log",
    benchmark:
        "results/benchmarks/corpus_tokenizer/{pretraining}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.pretrain.tokenizer"),
        corpus=lambda w: experiment.corpus_settings(experiment.params.pretraining[w.pretraining].corpus),
        files=lambda w: digests(experiment.corpus_files(experiment.params.pretraining[w.pretraining].corpus)),
        vocabulary=lambda w: experiment.params.pretraining[w.pretraining].vocabulary,
        texts=lambda w: experiment.params.pretraining[w.pretraining].vocabulary_texts,
        max_length=lambda w: experiment.params.pretraining[w.pretraining].max_length,
    shell:
        "ssmrank pretrain tokenizer --corpus {params.corpus:q} --vocabulary {params.vocabulary} --texts {params.texts}"
        " --max-length {params.max_length} --output {output:q} 2>&1 | tee {log:q} >&2"


rule corpus_tokens:
    input:
        "data/pretraining/{pretraining}/tokenizer",
    output:
        directory("data/pretraining/{pretraining}/tokens"),
    log:
        "results/logs/corpus_tokens/{pretraining}.log",
    benchmark:
        "results/benchmarks/corpus_tokens/{pretraining}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.pretrain.tokens", without=["ssmrank.kernels", "ssmrank.models.attention"]),
        corpus=lambda w: experiment.corpus_settings(experiment.params.pretraining[w.pretraining].corpus),
        files=lambda w: digests(experiment.corpus_files(experiment.params.pretraining[w.pretraining].corpus)),
        max_length=lambda w: experiment.params.pretraining[w.pretraining].max_length,
    shell:
        "ssmrank pretrain tokens --corpus {params.corpus:q} --tokenizer {input:q} --max-length {params.max_length}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


# A killed pretraining goes on from its state, as a training does (train.smk).
rule pretrain_sweep:
    input:
        tokenizer="data/pretraining/{pretraining}/tokenizer",
        tokens="data/pretraining/{pretraining}/tokens",
    output:
        "results/pretraining/{pretraining}/sweeps/{model}.json",
    log:
        "results/logs/pretrain_sweep/{pretraining}/{model}.log",
    benchmark:
        "results/benchmarks/pretrain_sweep/{pretraining}/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.pretrain.sweep"),
        settings=lambda w: experiment.pretrain_settings(w.pretraining, w.model),
        sweep=lambda w: experiment.sweep_settings(w.pretraining),
        state=state_of("sweep"),
    shell:
        "ssmrank pretrain sweep --settings {params.settings:q} --tokenizer {input.tokenizer:q} --tokens {input.tokens:q}"
        " --sweep {params.sweep:q} --state {params.state:q}/{wildcards.pretraining}/{wildcards.model}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule pretrain:
    input:
        tokenizer="data/pretraining/{pretraining}/tokenizer",
        tokens="data/pretraining/{pretraining}/tokens",
        sweep="results/pretraining/{pretraining}/sweeps/{model}.json",
    output:
        directory("results/pretraining/{pretraining}/models/{model}"),
    log:
        "results/logs/pretrain/{pretraining}/{model}.log",
    benchmark:
        "results/benchmarks/pretrain/{pretraining}/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.pretrain.run"),
        settings=lambda w: experiment.pretrain_settings(w.pretraining, w.model),
        state=state_of("pretrain"),
    shell:
        "ssmrank pretrain run --settings {params.settings:q} --tokenizer {input.tokenizer:q} --tokens {input.tokens:q}"
        " --sweep {input.sweep:q} --state {params.state:q}/{wildcards.pretraining}/{wildcards.model}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule publish_model:
    input:
        pretrained="results/pretraining/{pretraining}/models/{model}",
        sweep="results/pretraining/{pretraining}/sweeps/{model}.json",
        checkpoint=lambda w: experiment.published_checkpoint(w.pretraining, w.model),
        scores=lambda w: experiment.card_inputs(w.pretraining, w.model),
    output:
        directory("results/pretraining/{pretraining}/published/{model}"),
    log:
        "results/logs/publish_model/{pretraining}/{model}.log",
    benchmark:
        "results/benchmarks/publish_model/{pretraining}/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.pretrain.publish", without=["ssmrank.kernels", "ssmrank.models.attention"]),
        settings=lambda w: experiment.card_settings(w.pretraining, w.model),
        checkpoint=lambda w: [
            f"--checkpoint {path}" for path in experiment.published_checkpoint(w.pretraining, w.model)
        ],
        command=lambda w, output: experiment.command(str(output)),
    shell:
        "ssmrank pretrain publish --settings {params.settings:q} --pretrained {input.pretrained:q} --sweep {input.sweep:q}"
        " {params.checkpoint}"
        " --command {params.command:q}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule pretraining_figure:
    input:
        lambda w: fill(
            "results/pretraining/{pretraining}/models/{model}",
            [item for item in experiment.pretrained() if item.pretraining == w.pretraining],
        ),
    output:
        report("results/figures/pretraining-{pretraining}.pdf", caption="../report/pretraining.rst", category="Figures"),
    log:
        "results/logs/pretraining_figure/{pretraining}.log",
    benchmark:
        "results/benchmarks/pretraining_figure/{pretraining}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.pretraining"),
        models=lambda w: [f"--models={word}" for word in experiment.pretraining_labels(w.pretraining)],
    shell:
        "ssmrank figure pretraining {params.models:q} --output {output:q} 2>&1 | tee {log:q} >&2"
