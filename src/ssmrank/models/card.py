"""The model card of a trained reranker, made from the files of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmrank.io.model_files import TRAINING_FILE
from ssmrank.models.origin import origin_of, read_if_there
from ssmrank.models.reading import reading

if TYPE_CHECKING:
    from ssmrank.models.reranker import Reranker

CARD_FILE = "README.md"
FOLDER = "FOLDER"
"""The word that stands for the model's name in a card's code, until the card is published under a name."""
FOLDER_NOTE = f" (`{FOLDER}` is this folder)"
"""Says so; a published card does without it."""

Scores = Mapping[str, Mapping[str, float]]
"""Values of metrics from 0 to 1, by test and metric: `{"SciFact, test": {"nDCG@10": 0.587}}`."""

_LOAD = f"""\
## How to load it

```python
from ssmrank import Reranker

reranker = Reranker.from_pretrained("{FOLDER}")
for index, score, text in reranker.rank("state space models", ["Boats on a river.", "Mamba is one of them."]):
    print(f"{{score:.2f}}  {{text}}")
```

The backbone alone loads with `transformers.AutoModel`; `head.weight` and `head.bias` are the layer that scores.
"""
_INPUTS = {
    "sentence-pair": "query, then document, as a sentence pair",
    "document-first": "`document: {document}; query: {query};`",
    "query-first": "`query: {query}; document: {document}`",
    "query-document-query": "`query: {query}; document: {document}; query: {query};`",
    "document-document-query": "`document: {document}; document: {document}; query: {query};`",
}
_SCORED = {"first": "the first token", "last": "the last token", "mean": "the mean over all tokens"}


def model_card(folder: Path, reranker: Reranker, scores: Scores | None = None, license: str | None = None) -> str:
    """The text of README.md for a checkpoint, with the hub's metadata before it.

    A checkpoint that has a README.md keeps it, and gets the metadata and the scores. Else the card is made from the
    checkpoint's config and from what its training recorded; facts that are not recorded are left out.

    folder: the checkpoint; reranker: what was loaded from it; license: an identifier of the hub, such as apache-2.0.
    """
    file = folder / CARD_FILE
    with reading(f"{folder}: its files do not say how it was made as `ssmrank train` writes it"):
        text = file.read_text(encoding="utf-8") if file.is_file() else _made(folder, reranker)
        if scores:
            text = f"{text.rstrip()}\n\n{_scores(scores)}"
        return _with_metadata(text, folder, reranker, license)


def published(card: str, name: str) -> str:
    """The card of a checkpoint that is loaded by this name, such as OWNER/NAME of the hub."""
    return card.replace(FOLDER_NOTE, "").replace(FOLDER, name)


def _with_metadata(text: str, folder: Path, reranker: Reranker, license: str | None) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    if text.startswith("---"):
        card = ModelCard(text, ignore_metadata_errors=True)
        if license is not None:
            card.data["license"] = license
        return str(card)
    base = _start(folder).get("hub", {})
    data = ModelCardData(
        license=license,
        base_model=sorted(base) or None,
        library_name="ssmrank",
        pipeline_tag="text-ranking",
        tags=["reranker", reranker.backbone.config.model_type],
    )
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _made(folder: Path, reranker: Reranker) -> str:
    training, outcome = read_if_there(folder, TRAINING_FILE), read_if_there(folder, "outcome.json")
    rows = [*_architecture(reranker), *_before(_start(folder)), *_training(training, outcome)]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    name = training.get("model") or f"{reranker.backbone.config.model_type} reranker"
    return (
        f"# {name}\n\n"
        "A reranker: it scores how relevant a document is to a query. Scores are comparable within one query.\n\n"
        f"| | |\n|---|---|\n{table}\n\n{_LOAD}"
    )


def _architecture(reranker: Reranker) -> list[tuple[str, str]]:
    config, settings = reranker.backbone.config, reranker.settings
    kind = {"E": "encoder", "ED": "encoder-decoder", "D": "decoder"}[settings.kind]
    layers = "linear layer" if settings.head is None else f"two linear layers with {settings.head.activation} between"
    return [
        ("Architecture", f"{config.model_type} of transformers, {kind}, {config.num_hidden_layers} layers"),
        ("Parameters", f"{sum(parameter.numel() for parameter in reranker.parameters()):,}"),
        ("Input", f"{_INPUTS[reranker.template.order]}, at most {settings.max_length} tokens"),
        ("Score", f"{layers} over {_SCORED[settings.pooled]}"),
    ]


def _start(folder: Path) -> dict[str, Any]:
    """What is known of the model that the training started from, or of a checkpoint that was not trained here."""
    training = read_if_there(folder, TRAINING_FILE)
    return training["from"] if training else origin_of(folder)


def _before(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("Started from", f"{id} at commit {commit}") for id, commit in start.get("hub", {}).items()]
    if "pretraining" in start:
        facts = start["pretraining"]
        rows.append(
            ("Pretraining", f"{facts['tokens']:,} tokens of {facts['corpus']}, predicting {facts['objective']}")
        )
    if "training" in start:
        rows += _before(start["training"]["from"])
        settings = start["training"]["settings"]
        rows.append(("First trained on", f"{settings['collection']} ({settings['split']}), loss {settings['loss']}"))
    return rows


def _training(training: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if training:
        settings = training["settings"]
        rows = [
            (
                "Training data",
                f"{settings['collection']} ({settings['split']}): {training['groups']:,} groups of a query, a "
                f"relevant document and {settings['negatives_count']} negatives ({settings['negatives']})",
            ),
            *([("Teacher", settings["teacher"])] if settings["teacher"] else []),
            ("Loss", settings["loss"]),
            *([("Adapters", _adapters(settings["lora"]))] if settings.get("lora") else []),
            (
                "Optimizer",
                f"AdamW, learning rate {settings['learning_rate']:g}, weight decay {settings['weight_decay']:g}, "
                f"warm-up over {settings['warmup_ratio']:.0%} of the steps, {settings['batch_groups']} groups a step, "
                f"{settings['epochs']:g} epochs, seed {settings['seed']}",
            ),
        ]
    if outcome.get("status") == "ok":
        losses = outcome["loss"]
        last = losses[-max(1, len(losses) // 20) :]
        rows += [
            ("Tokens", f"{outcome['tokens']:,} in {outcome['steps']:,} steps"),
            ("Training loss", f"{losses[0]:.3f} at the first step, {sum(last) / len(last):.3f} over the last 5%"),
            ("Time", f"{outcome['seconds']:,.0f} s on {outcome['device']}, {outcome['precision']}"),
        ]
        rows += _validation(training, outcome)
    return rows


def _adapters(lora: Mapping[str, Any]) -> str:
    layers = "all linear layers" if lora["modules"] == "all" else ", ".join(lora["modules"])
    return f"LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g}, of {layers}; merged"


def _validation(training: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The best value on held-out queries, if there was a validation."""
    values, settings = dict(outcome.get("validation", [])), training.get("settings", {}).get("validation")
    if not values or not settings:
        return []
    best = outcome["best_step"]
    tested = f"{settings['metric']} {100 * values[best]:.1f} (times 100) on held-out queries of {settings['split']}"
    return [("Validation", f"{tested}, at step {best:,}")]


def _scores(scores: Scores) -> str:
    metrics = list(dict.fromkeys(metric for values in scores.values() for metric in values))
    lines = [f"| Test | {' | '.join(metrics)} |", "| --- |" + " --: |" * len(metrics)]
    for test, values in scores.items():
        cells = [f"{100 * values[metric]:.1f}" if metric in values else "–" for metric in metrics]
        lines.append(f"| {test} | {' | '.join(cells)} |")
    return "## Scores\n\nTimes 100.\n\n" + "\n".join(lines) + "\n"
