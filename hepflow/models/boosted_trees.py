"""LightGBM, with the settings by which the same events give the same trees.

LightGBM rather than XGBoost: a few megabytes to install instead of a hundred.
"""

from typing import Any

from hepflow.errors import MissingDependency
from hepflow.system import processes

try:
    import lightgbm
except OSError as error:  # the package is installed, but not the system's OpenMP
    advice = "Install the OpenMP library: `apt install libgomp1`, or with conda `libgomp`."
    raise MissingDependency(f"LightGBM does not load: {error}. {advice}") from error


__all__ = ["lightgbm", "settings"]


def settings(seed: int, learning_rate: float) -> dict[str, Any]:
    """Return parameters of LightGBM, without those of the task."""
    found: dict[str, Any] = {"learning_rate": learning_rate, "seed": seed}
    # Not forced to rows, it times both ways, and the faster one may round otherwise.
    found |= {"deterministic": True, "force_row_wise": True}
    return found | {"num_threads": processes.cores(), "verbosity": -1}
