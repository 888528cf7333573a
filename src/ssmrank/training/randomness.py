"""The states of torch's random generators, which dropout depends on."""

from __future__ import annotations

import torch


def snapshot(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators of the CPU and of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restores the generators' states from a `snapshot`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
