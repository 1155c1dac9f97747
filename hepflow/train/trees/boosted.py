"""Gradient-boosted trees on the high-level features, kept as a run: nets are compared with them."""

import logging
import time
from collections.abc import Mapping
from functools import partial

import numpy as np

from hepflow.config.tools import TreesConfig
from hepflow.models import boosted_trees
from hepflow.models.boosted_trees import lightgbm
from hepflow.system.terminal import bar
from hepflow.train.trees.run import Fitted, TreeData, balanced, keep

log = logging.getLogger(__name__)

PATIENCE = 20  # rounds without a lower loss on the validation split to stop after


def run(config: TreesConfig) -> None:
    """Fit on the training split, stop by the validation split, and predict the test split."""
    own = {"rounds": config.rounds, "learning_rate": config.learning_rate, "seed": config.seed}
    keep(config, {"engine": "LightGBM", **own}, partial(_fit, config))


def _fit(config: TreesConfig, tables: Mapping[str, TreeData]) -> Fitted:
    n_classes = len(np.unique(tables["train"].label))
    settings = boosted_trees.settings(config.seed, config.learning_rate)
    settings |= {"objective": "multiclass", "num_class": n_classes}
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
    how = {"num_iteration": n_kept, "num_threads": settings["num_threads"]}
    probability = trees.predict(tables["test"].x, **how)
    name = "gradient-boosted trees"
    return Fitted(probability, name, n_kept, "round", wall_s, "lightgbm", ("val",))
