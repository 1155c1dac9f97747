"""From Delphes ROOT files to a trained event-topology trigger, on Spark, Dask and Lightning.

The public names are listed in ``__init__.pyi``, and each is imported when it is first used:
``import hepflow`` loads neither torch nor Spark, Dask or numba.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
