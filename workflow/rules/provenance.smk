# Outputs of each phase, in the order of the workflow. dvc.yaml has a stage for each, except that pretraining is part of
# its stage `download`, which needs it if a model is of kind pretrained.
PHASES = {
    "pretrain": [
        rules.corpus_tokenizer,
        rules.corpus_tokens,
        rules.pretrain_sweep,
        rules.pretrain,
        rules.publish_model,
        rules.pretraining_figure,
    ],
    "download": [rules.download_collection, rules.download_model],
    "index": [rules.index, rules.encode, rules.vector_index],
    "retrieve": [
        *(rules.retrieve, rules.retrieve_dense, rules.import_run),
        *(rules.fuse_first_stage, rules.fuse_first_stage_weights),
    ],
    "negatives": [rules.negatives],
    # A teacher may be a trained reranker, so teaching and training are one phase.
    "train": [rules.teach, rules.train],
    "rerank": [rules.rerank, rules.rerank_speed, rules.rerank_tokens, rules.fuse, rules.fuse_weights],
    "evaluate": [rules.evaluate_first_stage, rules.evaluate, rules.evaluate_fused],
    "tables": [
        *(rules.significance, rules.comparison, rules.costs, rules.table, rules.overview, rules.table_pdf),
        rules.tables_pdf,
        *(rules.table5, rules.table6, rules.differences, rules.training_curves, rules.efficiency, rules.tokens),
        rules.figure1,
    ],
}
OUTPUTS = {phase: [str(output) for rule in made for output in rule.output] for phase, made in PHASES.items()}


provenance = Provenance(OUTPUTS, contents, storage_of_outputs.has)


if workflow.is_main_process:
    storage_of_outputs.check()
    alone_while_running(workflow, deliver_journals, storage_of_outputs.copies)
    provenance.watch()


onsuccess:
    provenance.close()


onerror:
    provenance.close()
    repeat_errors(STARTED)
