"""A cross entropy over a vocabulary and its gradient by the logits."""
