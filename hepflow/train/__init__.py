"""Training on the store with PyTorch Lightning.

torch takes compiled code from a folder, which it makes as Lightning is imported. By default its
name in /tmp is known, and another user can make it first. So it is in this user's cache.
"""

import os

import lazy_loader

from hepflow.errors import DataError
from hepflow.system.publishing import scratch
from hepflow.system.storage import user_cache

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_COMPILED = "TORCHINDUCTOR_CACHE_DIR"

if _COMPILED not in os.environ:
    try:
        found = user_cache("torchinductor")
    except (OSError, RuntimeError, DataError):  # no home, or one that is not writable
        found = scratch() / "torchinductor"
    os.environ[_COMPILED] = str(found)
