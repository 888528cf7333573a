"""Reranking: a planner decides which tokens are computed, and an engine computes them."""
