"""Pythia8 events and a parametric detector, written as Delphes-layout ROOT files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
