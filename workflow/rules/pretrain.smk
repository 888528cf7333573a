# Not part of `all` unless a table has a model of kind pretrained: these targets need the corpus, and hours of a CPU or
# minutes of a GPU.
rule all_pretrain:
    input:
        fill(paths.PRETRAINED, targets.pretrained),
        expand(paths.PRETRAINING_FIGURE, pretraining=experiment.params.pretraining),


rule all_publish:
    input:
        fill(paths.PUBLISHED, targets.pretrained),


rule corpus_tokenizer:
    output:
        directory(paths.TOKENIZER),
    log:
        log_of("corpus_tokenizer", "{pretraining}"),
    benchmark:
        benchmark_of("corpus_tokenizer", "{pretraining}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.pretrain.tokenizer"),
        corpus=lambda w: experiment.settings(jobs.corpus_settings, lookups.corpus(w.pretraining)),
        files=lambda w: digests(lookups.corpus_files(lookups.corpus(w.pretraining))),
        vocabulary=lambda w: experiment.params.pretraining[w.pretraining].vocabulary,
        texts=lambda w: experiment.params.pretraining[w.pretraining].vocabulary_texts,
        max_length=lambda w: experiment.params.pretraining[w.pretraining].max_length,
    shell:
        "ssmrank pretrain tokenizer --corpus {params.corpus:q} --vocabulary {params.vocabulary} --texts {params.texts}"
        " --max-length {params.max_length} --output {output:q} 2>&1 | tee {log:q} >&2"


rule corpus_tokens:
    input:
        paths.TOKENIZER,
    output:
        directory(paths.TOKENS),
    log:
        log_of("corpus_tokens", "{pretraining}"),
    benchmark:
        benchmark_of("corpus_tokens", "{pretraining}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    params:
        *code("ssmrank.commands.pretrain.tokens", without=["ssmrank.kernels", "ssmrank.models.attention"]),
        corpus=lambda w: experiment.settings(jobs.corpus_settings, lookups.corpus(w.pretraining)),
        files=lambda w: digests(lookups.corpus_files(lookups.corpus(w.pretraining))),
        max_length=lambda w: experiment.params.pretraining[w.pretraining].max_length,
    shell:
        "ssmrank pretrain tokens --corpus {params.corpus:q} --tokenizer {input:q} --max-length {params.max_length}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


# A killed pretraining resumes from its state, as a training does (train.smk).
rule pretrain_sweep:
    input:
        tokenizer=paths.TOKENIZER,
        tokens=paths.TOKENS,
    output:
        paths.SWEEP,
    log:
        log_of("pretrain_sweep", "{pretraining}/{model}"),
    benchmark:
        benchmark_of("pretrain_sweep", "{pretraining}/{model}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.pretrain.sweep"),
        settings=lambda w: experiment.settings(jobs.pretrain_settings, w.pretraining, w.model),
        sweep=lambda w: experiment.settings(jobs.sweep_settings, w.pretraining),
        state=state_of("sweep"),
    shell:
        "ssmrank pretrain sweep --settings {params.settings:q} --tokenizer {input.tokenizer:q} --tokens {input.tokens:q}"
        " --sweep {params.sweep:q} --state {params.state:q}/{wildcards.pretraining}/{wildcards.model}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule pretrain:
    input:
        tokenizer=paths.TOKENIZER,
        tokens=paths.TOKENS,
        sweep=paths.SWEEP,
    output:
        directory(paths.PRETRAINED),
    log:
        log_of("pretrain", "{pretraining}/{model}"),
    benchmark:
        benchmark_of("pretrain", "{pretraining}/{model}")
    conda:
        "../envs/ssmrank.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        *code("ssmrank.commands.pretrain.run"),
        settings=lambda w: experiment.settings(jobs.pretrain_settings, w.pretraining, w.model),
        state=state_of("pretrain"),
    shell:
        "ssmrank pretrain run --settings {params.settings:q} --tokenizer {input.tokenizer:q} --tokens {input.tokens:q}"
        " --sweep {input.sweep:q} --state {params.state:q}/{wildcards.pretraining}/{wildcards.model}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule publish_model:
    input:
        pretrained=paths.PRETRAINED,
        sweep=paths.SWEEP,
        checkpoint=lambda w: lookups.published_checkpoint(w.pretraining, w.model),
        scores=lambda w: lookups.card_inputs(w.pretraining, w.model),
    output:
        directory(paths.PUBLISHED),
    log:
        log_of("publish_model", "{pretraining}/{model}"),
    benchmark:
        benchmark_of("publish_model", "{pretraining}/{model}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.pretrain.publish", without=["ssmrank.kernels", "ssmrank.models.attention"]),
        settings=lambda w: experiment.settings(jobs.card_settings, w.pretraining, w.model, storage_of_outputs.places),
        checkpoint=lambda w: [
            f"--checkpoint {copy_of(path)}" for path in lookups.published_checkpoint(w.pretraining, w.model)
        ],
        command=lambda w: experiment.command(paths.PUBLISHED.format(pretraining=w.pretraining, model=w.model)),
    shell:
        "ssmrank pretrain publish --settings {params.settings:q} --pretrained {input.pretrained:q} --sweep {input.sweep:q}"
        " {params.checkpoint}"
        " --command {params.command:q}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule pretraining_figure:
    input:
        lambda w: fill(paths.PRETRAINED, lookups.pretrained_by(w.pretraining)),
    output:
        report(paths.PRETRAINING_FIGURE, caption="../report/pretraining.rst", category="Figures"),
    log:
        log_of("pretraining_figure", "{pretraining}"),
    benchmark:
        benchmark_of("pretraining_figure", "{pretraining}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.figure.pretraining"),
        models=lambda w: [
            f"--models={label}={copy_of(folder)}" for label, folder in lookups.pretraining_labels(w.pretraining)
        ],
    shell:
        "ssmrank figure pretraining {params.models:q} --output {output:q} 2>&1 | tee {log:q} >&2"
