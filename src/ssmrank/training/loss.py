"""Losses over groups: scores [G, 1 + n], the relevant document first.

A new loss is one function, one entry in `LOSSES` and its name in `config.LOSS_NAMES`; `trainings.NAME.loss` in
params.yaml selects it. The function takes the model's scores and, if it distils, a teacher's scores of the same shape.
It returns one loss for each group, float32 [G], and a step takes their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

LAMBDA_MU = 10.0
"""The weight of NDCG-Loss2 in NDCG-Loss2++; Wang et al. 2018 found 10."""


def cross_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Eq. 7 of the paper: -log softmax of the relevant document's score."""
    return -F.log_softmax(scores.float(), dim=-1)[:, 0]


def ranknet(scores: torch.Tensor) -> torch.Tensor:
    """RankNet (Burges et al. 2005): the mean over the negatives j of log(1 + exp(s_j - s_0)).

    Negatives are not ranked among themselves, so only pairs with the relevant document count.
    """
    return F.softplus(_margins(scores).neg()).mean(dim=-1)


def lambda_loss(scores: torch.Tensor) -> torch.Tensor:
    """LambdaLoss with the weights of NDCG-Loss2++ (Wang et al. 2018) and sigma 1; ranks follow the scores.

    It is the sum over the negatives j of (rho_j + mu delta_j) |G_0 - G_j| log2(1 + exp(s_j - s_0)). With
    D(k) = log2(1 + k), rho_j = |1 / D(rank 0) - 1 / D(rank j)| is LambdaRank's weight, and
    delta_j = 1 / D(d) - 1 / D(d + 1) is the weight of the distance d between the ranks. mu is `LAMBDA_MU`. With one
    relevant document the gains G are 1 and 0. Ranks are constants for the gradient. Among equal scores the first
    document ranks first.
    """
    ranks = scores.detach().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1
    discount = 1.0 / torch.log2(1.0 + ranks)
    distance = (ranks[:, 1:] - ranks[:, :1]).abs()
    rho = (discount[:, 1:] - discount[:, :1]).abs()
    delta = 1.0 / torch.log2(1.0 + distance) - 1.0 / torch.log2(2.0 + distance)
    pairs = F.softplus(_margins(scores).neg()) / math.log(2.0)
    return ((rho + LAMBDA_MU * delta) * pairs).sum(dim=-1)


def margin_mse(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """MarginMSE (Hofstätter et al. 2020): squared error of s_0 - s_j to the teacher's, averaged over negatives j."""
    return (_margins(scores) - _margins(teacher)).square().mean(dim=-1)


def kl_divergence(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax of the teacher's scores || softmax of the model's scores) over a group, with temperature 1."""
    target = F.log_softmax(teacher.float(), dim=-1)
    return (target.exp() * (target - F.log_softmax(scores.float(), dim=-1))).sum(dim=-1)


def _margins(scores: torch.Tensor) -> torch.Tensor:
    """The relevant document's score minus each negative's, float32 [G, n]."""
    scores = scores.float()
    return scores[:, :1] - scores[:, 1:]


@dataclass(frozen=True)
class Loss:
    """A loss in `LOSSES`; distils: whether its function takes a teacher's scores."""

    function: Callable[..., torch.Tensor]
    distils: bool = False

    def __call__(self, scores: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of each group, float32 [G]."""
        return self.function(scores, teacher) if self.distils else self.function(scores)


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy),
    "ranknet": Loss(ranknet),
    "lambda_loss": Loss(lambda_loss),
    "margin_mse": Loss(margin_mse, distils=True),
    "kl_divergence": Loss(kl_divergence, distils=True),
}
