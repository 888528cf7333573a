"""AdamW, what its weight decay applies to, and the number format of its two moments of each weight."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from typing_extensions import override

from ssmrank.training.eight_bit import eight_bit_adamw

States = Literal["float32", "bfloat16", "8bit"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter besides the number of steps, by PyTorch's names."""

STATE_BYTES: dict[States, float] = {"float32": 8, "bfloat16": 4, "8bit": 2}
"""Of the two moments of a weight; those of 8 bits have a float32 scale for each 256 of them besides."""

_LOW_BITS = 16
"""How many bits bfloat16 has less than float32."""


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: only matrices decay, not biases, norms and Mamba's A and D."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decayed = [p for n, p in trained.items() if decays(n, p)]
    others = [p for n, p in trained.items() if not decays(n, p)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter of this name."""
    return parameter.ndim >= 2 and not name.endswith(("A_log", "B_bias", "C_bias"))


def make_adamw(groups: list[dict[str, Any]], learning_rate: float, states: States) -> torch.optim.Optimizer:
    """AdamW whose moments have this format; it computes in float32."""
    if states == "bfloat16":
        return RoundedAdamW(groups, lr=learning_rate)
    if states == "8bit":
        return eight_bit_adamw(groups, learning_rate)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class RoundedAdamW(torch.optim.AdamW):
    """AdamW with moments in bfloat16.

    A moment is rounded to one of its two neighbours at random, to the nearer one more often, so that it is right in the
    mean. Rounded to the nearest, the second moment would never fall: a step takes a thousandth of it, and bfloat16's
    spacing is some thousandths. The random bits depend on the step alone: they are the same in all processes, and
    after a resume.
    """

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)

    @torch.no_grad()
    @override
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes a step with the parameters' gradients."""
        random: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                weight = _local(parameter)
                if parameter.grad is None or weight.numel() == 0:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state |= {name: torch.zeros_like(weight, dtype=torch.bfloat16) for name in MOMENTS}
                if weight.device not in random:
                    random[weight.device] = torch.Generator(weight.device).manual_seed(int(state["step"]))
                moments = [state[name].float() for name in MOMENTS]
                self._update(group, weight, _local(parameter.grad), moments, state["step"])
                for name, moment in zip(MOMENTS, moments, strict=True):
                    state[name].copy_(_rounded_at_random(moment, random[weight.device]))

    def _update(
        self, group: dict[str, Any], weight: Tensor, gradient: Tensor, moments: list[Tensor], step: Tensor
    ) -> None:
        taken = step.to(weight.device, copy=True)
        step += 1
        beta1, beta2 = group["betas"]
        adamw(
            *([weight], [gradient], [moments[0]], [moments[1]], [], [taken]),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which makes moments what the weights are."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state.update({name: state[name].bfloat16() for name in MOMENTS})


def _rounded_at_random(x: Tensor, random: torch.Generator) -> Tensor:
    """Float32 as bfloat16: one of the two neighbours, with probabilities whose mean is the number itself."""
    noise = torch.randint(1 << _LOW_BITS, x.shape, dtype=torch.int32, device=x.device, generator=random)
    cut = (x.view(torch.int32) + noise) >> _LOW_BITS << _LOW_BITS
    return cut.view(torch.float32).bfloat16()


class Moments:
    """An optimizer's moments in float32, as one vector for each parameter: what this process has of them.

    They are its own tensors where these are in float32, else copies on the CPU, which `put_back` rounds again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._copies: list[tuple[Tensor, Tensor]] = []

    def of(self, parameter: Tensor, name: str) -> Tensor:
        """A moment; zeros if the optimizer has not changed the parameter yet."""
        found = self._optimizer.state[parameter].get(name) if parameter in self._optimizer.state else None
        if found is None:
            return torch.zeros_like(_local(parameter)).view(-1)
        found = _local(found)
        if found.dtype == torch.float32:
            return found.view(-1)
        wide = torch.empty(found.shape).copy_(found)
        self._copies.append((found, wide))
        return wide.view(-1)

    def put_back(self) -> None:
        """Makes the optimizer's moments what has been written into those that `of` gave."""
        for found, wide in self._copies:
            found.copy_(wide)


def begin(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Gives an optimizer without a state that after this many steps, with moments of zero.

    Gradients must be zero or None. A step with them and a learning rate of zero changes no weight.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    without, rates = [p for p in parameters if p.grad is None], [group["lr"] for group in optimizer.param_groups]
    for parameter in without:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for parameter in without:
        parameter.grad = None
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a DTensor, whose import takes a second
