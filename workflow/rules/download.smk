rule all_download:
    input:
        expand(paths.COLLECTION, collection=targets.collections),
        expand(paths.MODEL, model=targets.models),


rule download_collection:
    input:
        texts=lambda w: lookups.collection_texts(w.collection),
    output:
        directory(paths.COLLECTION),
    log:
        log_of("download/collections", "{collection}"),
    benchmark:
        benchmark_of("download/collections", "{collection}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code("ssmrank.commands.download.collection"),
        settings=lambda w: experiment.settings(jobs.collection_settings, w.collection),
        corpus=lambda w: experiment.collection_corpus(w.collection),
        texts=lambda w: [f"--texts {copy_of(folder)}" for folder in lookups.collection_texts(w.collection)],
        files=lambda w: digests(lookups.collection_files(w.collection)),
        archives=paths.ARCHIVES,
    shell:
        "ssmrank download collection --settings {params.settings:q} {params.corpus:q} {params.texts} --archives {params.archives}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"


rule download_model:
    input:
        unpack(lambda w: lookups.parents(w.model)),
    output:
        directory(paths.MODEL),
    log:
        log_of("download/models", "{model}"),
    benchmark:
        benchmark_of("download/models", "{model}")
    conda:
        "../envs/ssmrank.yaml"
    params:
        *code(
            "ssmrank.commands.download.model",
            without=["ssmrank.kernels", "ssmrank.models.attention", "ssmrank.models.packing"],
        ),
        settings=lambda w: experiment.settings(jobs.model_settings, w.model),
        files=lambda w: digests(lookups.model_files(w.model)),
        parents=lambda w: [f"--{option}-from {copy_of(path)}" for option, path in lookups.parents(w.model).items()],
        archives=paths.ARCHIVES,
    shell:
        "ssmrank download model --settings {params.settings:q} --archives {params.archives} {params.parents}"
        " --output {output:q} 2>&1 | tee {log:q} >&2"
