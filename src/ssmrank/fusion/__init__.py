"""Fusion of several runs of the same queries into one."""
