"""Losses over groups: scores [G, 1 + n], the relevant document first.

A new loss is one function, one entry in `LOSSES` and its name in `config.LOSS_NAMES`; `trainings.NAME.loss` in
params.yaml names it. A function takes the model's scores and, where it distils, a teacher's scores of the same shape;
it gives one loss for each group, float32 [G], of which a step takes the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

LAMBDA_MU = 10.0
"""Weight of NDCG-Loss2's part in NDCG-Loss2++; Wang et al. 2018 found 10."""


def cross_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Eq. 7 of the paper: -log softmax of the relevant document's score."""
    return -F.log_softmax(scores.float(), dim=-1)[:, 0]


def ranknet(scores: torch.Tensor) -> torch.Tensor:
    """RankNet (Burges et al. 2005): log(1 + exp(s_j - s_0)), the mean over the pairs of relevant document and negative.

    The negatives are not ranked among themselves, so no other pair counts.
    """
    return F.softplus(_margins(scores).neg()).mean(dim=-1)


def lambda_loss(scores: torch.Tensor) -> torch.Tensor:
    """LambdaLoss with the weights of NDCG-Loss2++ (Wang et al. 2018), sigma 1, in the order of the scores.

    The sum over the negatives j of (rho_j + mu delta_j) |G_0 - G_j| log2(1 + exp(s_j - s_0)), with D(k) = log2(1 + k):
    rho_j = |1 / D(rank 0) - 1 / D(rank j)| is LambdaRank's weight, delta_j = 1 / D(d) - 1 / D(d + 1) is that of the
    ranks' distance d, mu is `LAMBDA_MU`. With one relevant document the gains G are 1 and 0. Ranks are constants to
    the gradient; among equal scores the first document ranks first.
    """
    ranks = scores.detach().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1
    discount = 1.0 / torch.log2(1.0 + ranks)
    distance = (ranks[:, 1:] - ranks[:, :1]).abs()
    rho = (discount[:, 1:] - discount[:, :1]).abs()
    delta = 1.0 / torch.log2(1.0 + distance) - 1.0 / torch.log2(2.0 + distance)
    pairs = F.softplus(_margins(scores).neg()) / math.log(2.0)
    return ((rho + LAMBDA_MU * delta) * pairs).sum(dim=-1)


def margin_mse(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """MarginMSE (Hofstätter et al. 2020): squared error of s_0 - s_j against the teacher's, the mean over negatives."""
    return (_margins(scores) - _margins(teacher)).square().mean(dim=-1)


def kl_divergence(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax of the teacher's scores || softmax of the model's) over a group, temperature 1."""
    target = F.log_softmax(teacher.float(), dim=-1)
    return (target.exp() * (target - F.log_softmax(scores.float(), dim=-1))).sum(dim=-1)


def _margins(scores: torch.Tensor) -> torch.Tensor:
    """The relevant document's score less each negative's, [G, n]."""
    scores = scores.float()
    return scores[:, :1] - scores[:, 1:]


@dataclass(frozen=True)
class Loss:
    """A loss of `LOSSES`; `distils` where its function takes a teacher's scores."""

    function: Callable[..., torch.Tensor]
    distils: bool = False

    def __call__(self, scores: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """Loss of each group, float32 [G]."""
        return self.function(scores, teacher) if self.distils else self.function(scores)


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy),
    "ranknet": Loss(ranknet),
    "lambda_loss": Loss(lambda_loss),
    "margin_mse": Loss(margin_mse, distils=True),
    "kl_divergence": Loss(kl_divergence, distils=True),
}
