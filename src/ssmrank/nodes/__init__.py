"""One training on several nodes: what Slurm says of its tasks, and how their launchers stay together."""
