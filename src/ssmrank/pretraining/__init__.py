"""Pretraining of small language models of several architectures on the same texts."""
