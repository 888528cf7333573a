"""What CPU loops share: vectors, tiles of a matrix product, threads, and the compiler with its cache on disk."""

LANES = 16
"""Float32 lanes of a vector."""
