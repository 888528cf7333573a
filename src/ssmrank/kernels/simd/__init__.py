"""What CPU loops share: vectors, threads, and the compiler with its cache."""
