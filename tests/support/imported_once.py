"""What commands import: the server that is forked for each of them has it already.

Imported here without the garbage collector, and frozen, so that no command looks at it again.
"""

import gc
from contextlib import suppress
from importlib import import_module

gc.disable()
for name in (
    "numba",
    "pandas",
    "pytorch_lightning",
    "tensorboard.summary.writer.event_file_writer",
    "distributed",
    "pyspark.sql",
    "hepflow.train.cli",
    "hepflow.features.job",
    "hepflow.ingest.job",
):
    with suppress(ImportError):  # a command that needs it says so
        import_module(name)
with suppress(ImportError):  # the first compiled function imports the rest of numba
    import_module("numba").njit(lambda: 0)()
gc.freeze()
gc.enable()
