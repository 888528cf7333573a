"""Adds a loss and takes a few training steps with it; docs/add-a-loss.md says how to make it part of the package."""

from pathlib import Path

import torch

from ssmrank.models import load_reranker
from ssmrank.models.packing import pack
from ssmrank.training.loss import LOSSES, Loss

MODELS = Path(__file__).resolve().parents[1] / "models"
QUERY = "state space models"
# The relevant document first, then its negatives.
GROUP = ["Mamba is a state space model.", "The union's state is good.", "A space station orbits."]


def hinge(scores: torch.Tensor) -> torch.Tensor:
    """Each negative should score at least 1 less than the relevant document; [G, 1 + n] to float32 [G]."""
    return (1 - (scores[:, :1] - scores[:, 1:])).clamp(min=0).mean(dim=-1)


def main() -> None:
    LOSSES["hinge"] = Loss(hinge)
    reranker = load_reranker(MODELS / "minis" / "bert")
    torch.nn.init.zeros_(reranker.head.weight)  # so that there is something to learn
    template = reranker.template
    [query] = template.tokenize_queries([QUERY])
    batch = pack([template.join(query, text, 64, QUERY) for text in template.tokenize_documents(GROUP)], "cpu")
    optimizer = torch.optim.AdamW(reranker.parameters(), lr=3e-4)
    for step in range(8):
        loss = LOSSES["hinge"](reranker(batch).view(1, -1)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
