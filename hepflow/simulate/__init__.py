"""Pythia8 events and a parametric detector, written as Delphes-layout ROOT files."""
