"""Spark's daemon of Python workers for a stream: it imports once, and its workers are forks of it.

Each worker would otherwise import and load the compiled physics itself, four of them on two cores.
Threads do not survive a fork: what starts some (onnxruntime) is left to the workers.
"""

import gc

import pandas as pd  # noqa: F401 - pyspark's workers import it
from pyspark import daemon

from hepflow.data.events import empty_events
from hepflow.physics.columns import columns
from hepflow.physics.features import compute_columns

if __name__ == "__main__":
    compute_columns(columns(empty_events()))
    gc.collect()
    gc.freeze()
    daemon.manager()
