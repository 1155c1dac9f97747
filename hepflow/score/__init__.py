"""Scoring of raw events with a trained net: in files, as they arrive, or inside a program."""
