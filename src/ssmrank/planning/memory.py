"""What a training holds on each GPU besides activations: weights, gradients and AdamW's moments.

`docs/adapters.md` has the formulas. Only as many layers keep their activations as there is memory for.
"""

from __future__ import annotations

from ssmrank.config.models import Model
from ssmrank.config.trainings import Training
from ssmrank.planning.speeds import parameters

MOMENT_BYTES = {"float32": 8, "bfloat16": 4, "8bit": 2}
"""Of both moments of a weight."""


def width_of(weights: float) -> float:
    """The width of a decoder with 12 width² weights in each of width / 128 layers, as Llama-2-7B nearly has."""
    return (weights * 128 / 12) ** (1 / 3)


def adapter_weights(weights: float, rank: int) -> float:
    """At most the weights of adapters for all linear layers, whose sides are at least as long as the model is wide.

    An adapter has rank (m + n) weights for the m n of its layer.
    """
    return weights * 2 * rank / width_of(weights)


def training_bytes(training: Training, model: Model) -> float | None:
    """Bytes on each GPU in bf16, without activations; None where the model has no size."""
    weights = parameters(model.size)
    if weights is None:
        return None
    processes = training.processes or 1 if training.parallel == "fsdp2" else 1
    moments = MOMENT_BYTES[training.optimizer_states]
    frozen = 0.0 if training.lora is None else 2 * weights
    trained = weights if training.lora is None else adapter_weights(weights, training.lora.rank)
    if training.parallel == "fsdp2" and training.gather == "layer":
        return (frozen + (4 + 4 + moments) * trained) / processes
    if training.parallel == "fsdp2":  # a rounded copy is whole, and so are gradients
        return frozen + (2 + 4) * trained + (4 + moments) * trained / processes
    return frozen + (4 + 4 + moments) * trained
