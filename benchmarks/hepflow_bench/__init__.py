"""Measure the stages as commands: their speed, scaling, and cost for more events."""
