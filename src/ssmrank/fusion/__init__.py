"""Fusion of runs: several rankings of the same queries become one."""
