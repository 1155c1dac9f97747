"""Compiled kernels of the GRU for CPUs."""
