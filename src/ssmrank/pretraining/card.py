"""The model card of a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmrank.config.pretraining import CardSettings
from ssmrank.models.card import FOLDER, FOLDER_NOTE

_AUTO_MODEL = f"""\
Without ssmrank, its states are transformers'{FOLDER_NOTE}:

```python
from transformers import AutoModel, AutoTokenizer

model, tokenizer = AutoModel.from_pretrained("{FOLDER}"), AutoTokenizer.from_pretrained("{FOLDER}")
states = model(**tokenizer("state space models", return_tensors="pt")).last_hidden_state
```
"""

_RERANKER = f"""
transformers says that it does not use `head.weight` and `head.bias`: they are the layer that scores. It needs ssmrank:

```python
from ssmrank import Reranker

reranker = Reranker.from_pretrained("{FOLDER}")
scores = reranker.score("state space models", ["Mamba is one of them.", "Boats on a river."])
```
"""


def model_card(
    facts: Mapping[str, Any],
    card: CardSettings,
    command: str,
    outcome: Mapping[str, Any] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The README.md of a model's folder.

    facts: contents of its `pretraining.json`.
    card: what the settings add.
    command: the command that made the model.
    outcome: contents of `outcome.json`, if the model was then trained as a reranker.
    scores: the means in each metrics file that the settings name, from 0 to 1.
    """
    settings, parameters = facts["settings"], facts["parameters"]
    masked = facts["objective"] == "masked tokens"
    predicted = f"{settings['masked_share']:.0%} of the tokens, masked" if masked else "the next token"
    steps, tokens, loss = facts["curve"]["held_out"][-1]
    rows = [
        ("Architecture", f"{card.label} ({settings['config']['model_type']} of transformers)"),
        ("Parameters", f"{parameters['parameters']:,}, {parameters['non_embedding_parameters']:,} without embeddings"),
        ("Weights", "bfloat16 (trained in float32)"),
        ("Data", f"{card.corpus}: {facts['training_texts']:,} texts, titles with abstracts, English"),
        ("Held out", f"{facts['held_out_tokens']:,} tokens of other texts of the corpus, for the loss below"),
        ("Licence of the data", card.corpus_license or "not stated"),
        ("Licence of the weights", "Apache-2.0, as the project's"),
        ("Tokenizer", f"byte-level BPE, {settings['vocabulary']:,} entries, lower case, trained on the same texts"),
        ("Objective", f"predict {predicted}"),
        ("Tokens", f"{tokens:,} ({facts['passes']:.2f} passes)"),
        ("Steps", f"{steps:,} of {settings['step_tokens']:,} tokens, texts cut at {settings['max_length']}"),
        (
            "Optimizer",
            f"AdamW, learning rate {facts['learning_rate']:g} (the best of a sweep), weight decay "
            f"{settings['weight_decay']:g}, warm-up over {settings['warmup_ratio']:.0%} of the steps, linear decay",
        ),
        ("Loss on held-out text", f"{loss:.4f} nats a predicted token"),
        (
            "Time",
            f"{facts['curve']['seconds']:,.0f} s on {facts['device']}, {facts['tokens_per_second']:,.0f} tokens/s",
        ),
        *([] if outcome is None else [_training(outcome, card)]),
        ("Made by", f"`{command}`"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    trained = "" if outcome is None else ", then trained as a reranker"
    return (
        f"# {card.label}, pretrained here\n\n"
        "A small language model, one of several architectures that were trained on the same text in the same order, "
        f"with as many tokens, steps and non-embedding parameters{trained}. It is made to be fine-tuned as a reranker "
        "of short scientific texts; it knows little beyond them.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"{card_scores(card, scores or {})}"
        "The loss of a masked language model (BERT) cannot be compared with that of models which predict the next "
        "token.\n\n"
        f"## How to load it\n\n{_AUTO_MODEL if outcome is None else _AUTO_MODEL + _RERANKER}\n"
        "Settings and the curve of the loss are in `pretraining.json`, the sweep of learning rates in `sweep.json`.\n"
    )


def card_scores(card: CardSettings, scores: Mapping[str, Mapping[str, float]]) -> str:
    """The section of scores, times 100; empty where the settings name none."""
    if not card.scores:
        return ""
    systems = list(card.scores[0].files)
    lines = [f"| Test | Metric | {' | '.join(systems)} |", "| --- | --- |" + " --: |" * len(systems)]
    for row in card.scores:
        values = [f"{100 * scores[row.files[system]][row.metric]:.1f}" for system in systems]
        lines.append(f"| {row.test} | {row.metric} | {' | '.join(values)} |")
    table = "\n".join(lines)
    return f"## Scores\n\nOf the first stage and of its documents, reranked; times 100.\n\n{table}\n\n"


def _training(outcome: Mapping[str, Any], card: CardSettings) -> tuple[str, str]:
    loss = outcome["loss"]
    last = loss[-max(1, len(loss) // 20) :]
    return (
        "Training as a reranker",
        f"{card.training}; {outcome['steps']:,} steps, {outcome['tokens']:,} tokens, {outcome['seconds']:,.0f} s on "
        f"{outcome['device']}, loss {loss[0]:.3f} at the first step and {sum(last) / len(last):.3f} over the last 5%",
    )
