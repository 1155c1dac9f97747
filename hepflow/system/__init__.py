"""The running program and its machine: files, locks, terminal, processes, compiled code. Knows no physics and no format."""
