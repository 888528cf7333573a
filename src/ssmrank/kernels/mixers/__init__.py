"""Whole mixers of Mamba-1 and Mamba-2 as one differentiable function, on a GPU."""
