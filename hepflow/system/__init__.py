"""The program and its machine: files, locks, terminal, processes, compiled code. No physics."""
