"""flash-linear-attention in tests: where there is no GPU, Triton's interpreter runs its kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ssmrank.models import gated_deltanet, mamba3_modules

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def forget_models() -> None:
    """Makes transformers' Auto classes know no models of the library any more.

    With its models it takes the place of transformers' Mambas and of ours there, which other tests ask for those.
    transformers imports it with Qwen3.5, and `dispatch` when it first looks for its kernels on a GPU.
    """
    for name, kind in list(CONFIG_MAPPING._extra_content.items()):
        if kind.__module__.startswith("fla."):
            del CONFIG_MAPPING._extra_content[name]
    gated_deltanet.register()
    mamba3_modules.register()


def ready(patch: pytest.MonkeyPatch) -> None:
    """Imports the library; skips the test without it."""
    pytest.importorskip("fla", reason="needs flash-linear-attention")
    forget_models()
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
