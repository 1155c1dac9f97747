"""Trained nets at work on raw events: batch, live, and inside a program of your own (`hepflow.score.scorer.Scorer`)."""
