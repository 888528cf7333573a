rule all_download:
    input:
        expand("data/collections/{collection}", collection=experiment.collections()),
        expand("data/models/{model}", model=experiment.models()),


rule download_collection:
    input:
        texts=lambda w: experiment.collection_texts(w.collection),
    output:
        directory("data/collections/{collection}"),
    log:
        "results/logs/download/collections/{collection}.log",
    benchmark:
        "results/benchmarks/download/collections/{collection}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.download.collection"),
        settings=lambda w: experiment.collection_settings(w.collection),
        corpus=lambda w: experiment.collection_corpus(w.collection),
        texts=lambda w: [f"--texts {folder}" for folder in experiment.collection_texts(w.collection)],
        files=lambda w: digests(experiment.collection_files(w.collection)),
    shell:
        "ssmrank download collection --settings {params.settings:q} {params.corpus:q} {params.texts} --archives data/archives"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule download_model:
    input:
        unpack(lambda w: experiment.parents(w.model)),
    output:
        directory("data/models/{model}"),
    log:
        "results/logs/download/models/{model}.log",
    benchmark:
        "results/benchmarks/download/models/{model}.tsv"
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code(
            "ssmrank.commands.download.model",
            without=["ssmrank.kernels", "ssmrank.models.attention", "ssmrank.models.packing"],
        ),
        settings=lambda w: experiment.model_settings(w.model),
        files=lambda w: digests(experiment.model_files(w.model)),
        parents=lambda w: [f"--{option}-from {path}" for option, path in experiment.parents(w.model).items()],
    shell:
        "ssmrank download model --settings {params.settings:q} --archives data/archives {params.parents}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
