"""The sequence mixers of Mamba-1 and Mamba-2 over packed sequences, for CPUs and NVIDIA GPUs."""
