# The experiment of params.yaml. `snakemake` makes its tables; runs, metrics, checkpoints and indexes are targets too.
include: "workflow/rules/common.smk"


check_file("params.yaml")


configfile: "params.yaml"


report: "workflow/report/workflow.rst"


experiment = read_experiment(config, ["params.yaml", *workflow.configfiles])
targets, lookups = experiment.targets, experiment.lookups
prepare(experiment.params.tracking)


include: "workflow/rules/download.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/retrieve.smk"
include: "workflow/rules/negatives.smk"
include: "workflow/rules/teach.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/rerank.smk"
include: "workflow/rules/fuse.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/table.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/provenance.smk"


rule all:
    default_target: True
    input:
        rules.all_tables.input,
        rules.all_evaluate.input,
