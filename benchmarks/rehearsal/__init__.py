"""The rehearsal of `benchmarks/scale.py`: each stage as its command, on inputs of three sizes."""
