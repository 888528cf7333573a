"""Reranking: a planner that decides which tokens are computed, an engine that computes them."""
