"""flash-linear-attention in tests: where there is no GPU, Triton's interpreter runs its kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ssmrank.models.gated_deltanet import GatedDeltaNetConfig, GatedDeltaNetForCausalLM, GatedDeltaNetModel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def ready(patch: pytest.MonkeyPatch) -> None:
    """Imports the library; skips the test without it."""
    pytest.importorskip("fla", reason="needs flash-linear-attention")
    # It makes its own models known to transformers, whose Auto classes the other tests ask for ours.
    kinds: list[tuple[Any, type]] = [(AutoModel, GatedDeltaNetModel), (AutoModelForCausalLM, GatedDeltaNetForCausalLM)]
    AutoConfig.register("gated_deltanet", GatedDeltaNetConfig, exist_ok=True)
    for auto, model in kinds:
        auto.register(GatedDeltaNetConfig, model, exist_ok=True)
    if INTERPRETED:
        _interpret(patch)


def _interpret(patch: pytest.MonkeyPatch) -> None:
    from fla.ops.common import chunk_delta_h
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.interpreter import interpreter_semantic

    def numbers(*bounds: Any) -> Iterator[Any]:
        return map(interpreter_semantic.to_tensor, range(*map(int, bounds)))

    # There is nothing to time, so the first configuration of each kernel is as good as any.
    patch.setattr(Autotuner, "_bench", lambda *_, **__: [0.0])
    # Compiled kernels count in Triton's numbers, which can be widened, and interpreted ones in Python's.
    patch.setattr(chunk_delta_h, "range", numbers, raising=False)
