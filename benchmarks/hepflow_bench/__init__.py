"""Measures the stages as commands, from outside: how fast, on how many cores, and what that means for more events."""
