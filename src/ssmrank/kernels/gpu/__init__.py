"""What GPU kernels share."""
