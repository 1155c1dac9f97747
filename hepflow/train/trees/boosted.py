"""Gradient-boosted trees on the high-level features: the baseline a net has to beat, as a run folder that evaluate reads like any other.

LightGBM rather than XGBoost: a few megabytes to install instead of a hundred.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hepflow.config.tools import TreesConfig
from hepflow.errors import MissingDependency
from hepflow.system import processes
from hepflow.system.terminal import MESSAGES
from hepflow.train.trees.run import Fitted, Table, balanced, keep

try:
    import lightgbm
except OSError as error:  # the package is there, the system's OpenMP is not
    raise MissingDependency(
        f"LightGBM does not load: {error}. Install the OpenMP library: `apt install libgomp1`, or with conda `libgomp`."
    ) from error

log = logging.getLogger(__name__)

ENGINE = "LightGBM"
PATIENCE = 20
"""Rounds without a lower loss on the validation split after which boosting ends."""


def run(config: TreesConfig) -> None:
    """Fit on the training split, stop by the validation split, and predict the test split."""
    settings = {
        "engine": ENGINE,
        "rounds": config.rounds,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
    }
    keep(config, settings, partial(_fit, config))


def _fit(config: TreesConfig, tables: Mapping[str, Table]) -> Fitted:
    cores = processes.cores()
    settings = {
        "objective": "multiclass",
        "num_class": len(np.unique(tables["train"].label)),
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,  # else it times both ways, and the faster one may round otherwise
        "num_threads": cores,
        "verbosity": -1,
    }
    train, val = (
        lightgbm.Dataset(x, label, weight=balanced(label))
        for x, label, _ in (tables["train"], tables["val"])
    )
    start = time.perf_counter()
    columns = (
        TextColumn("trees"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=MESSAGES) as progress:
        bar = progress.add_task("trees", total=config.rounds, loss="")

        def show(round_: lightgbm.callback.CallbackEnv) -> None:
            progress.update(
                bar, advance=1, loss=f"val_loss {round_.evaluation_result_list[0][2]:.4f}"
            )

        callbacks = [show, lightgbm.early_stopping(PATIENCE, verbose=False)]
        trees = lightgbm.train(
            settings,
            train,
            config.rounds,
            valid_sets=[val],
            valid_names=["val"],
            callbacks=callbacks,
        )
    wall_s = time.perf_counter() - start
    n_rounds = progress.tasks[bar].completed
    if n_rounds < config.rounds:
        log.info(
            "stopped after %d rounds: no lower val_loss for %d; the first %d are kept",
            n_rounds,
            PATIENCE,
            trees.best_iteration,
        )
    probability = trees.predict(
        tables["test"].x, num_iteration=trees.best_iteration, num_threads=cores
    )
    return Fitted(
        probability,
        "gradient-boosted trees",
        trees.best_iteration,
        "round",
        wall_s,
        ENGINE,
        "lightgbm",
        ("val",),
    )
