"""Gradient-boosted trees on the high-level features, kept as a run: the baseline a net has to beat.

LightGBM rather than XGBoost: a few megabytes to install instead of a hundred.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from hepflow.config.tools import TreesConfig
from hepflow.errors import MissingDependency
from hepflow.system import processes
from hepflow.system.terminal import bar
from hepflow.train.trees.run import Fitted, TreeData, balanced, keep

try:
    import lightgbm
except OSError as error:  # the package is installed, but not the system's OpenMP
    advice = "Install the OpenMP library: `apt install libgomp1`, or with conda `libgomp`."
    raise MissingDependency(f"LightGBM does not load: {error}. {advice}") from error

log = logging.getLogger(__name__)

PATIENCE = 20  # rounds without a lower loss on the validation split to stop after


def run(config: TreesConfig) -> None:
    """Fit on the training split, stop by the validation split, and predict the test split."""
    own = {"rounds": config.rounds, "learning_rate": config.learning_rate, "seed": config.seed}
    keep(config, {"engine": "LightGBM", **own}, partial(_fit, config))


def _fit(config: TreesConfig, tables: Mapping[str, TreeData]) -> Fitted:
    cores = processes.cores()
    n_classes = len(np.unique(tables["train"].label))
    settings: dict[str, Any] = {"objective": "multiclass", "num_class": n_classes}
    settings |= {"learning_rate": config.learning_rate, "seed": config.seed}
    # Not forced to rows, it times both ways, and the faster one may round otherwise.
    settings |= {"deterministic": True, "force_row_wise": True}
    settings |= {"num_threads": cores, "verbosity": -1}
    events = [tables[split] for split in ("train", "val")]
    train, val = (lightgbm.Dataset(x, label, weight=balanced(label)) for x, label, _ in events)
    n_rounds = 0
    start = time.perf_counter()
    with bar("trees", config.rounds) as progress:

        def show(state: lightgbm.callback.CallbackEnv) -> None:
            nonlocal n_rounds
            n_rounds = state.iteration + 1
            progress.advance(note=f"val_loss {state.evaluation_result_list[0][2]:.4f}")

        called = [show, lightgbm.early_stopping(PATIENCE, verbose=False)]
        judged = {"valid_sets": [val], "valid_names": ["val"]}
        trees = lightgbm.train(settings, train, config.rounds, **judged, callbacks=called)
    wall_s, n_kept = time.perf_counter() - start, trees.best_iteration
    if n_rounds < config.rounds:
        text = "stopped after %d rounds: no lower val_loss for %d; the first %d are kept"
        log.info(text, n_rounds, PATIENCE, n_kept)
    probability = trees.predict(tables["test"].x, num_iteration=n_kept, num_threads=cores)
    name = "gradient-boosted trees"
    return Fitted(probability, name, n_kept, "round", wall_s, "lightgbm", ("val",))
