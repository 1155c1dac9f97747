"""The results of a search: a table of the best trials, trials.csv with all, and a plot.

Optuna's own table needs pandas, and its plots need plotly or are experimental.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from hepflow.system.files import write_csv
from hepflow.system.publishing import whole
from hepflow.system.terminal import show, table

log = logging.getLogger(__name__)

TOP = 10
REASON = "reason"  # attribute of a trial: why it could not be trained
CSV_FILE, PLOT_FILE = "trials.csv", "trials.png"


def report(study: optuna.Study, folder: Path) -> None:
    """Print the best trials, and write trials.csv and trials.png."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    names = list(complete[0].params)

    def row(trial: FrozenTrial, loss: Any, show_option: Any) -> list[Any]:
        duration = trial.duration
        seconds = "" if duration is None else f"{duration.total_seconds():.1f}"
        return [trial.number, loss, seconds, *(show_option(trial.params.get(n, "")) for n in names)]

    def short(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    best = sorted(complete, key=lambda trial: trial.value or 0.0)[:TOP]
    heads = ["trial", "val_loss", "seconds", *(name.rpartition(".")[2] for name in names)]
    show(table(heads, [row(trial, f"{trial.value:.4f}", short) for trial in best], "best trials"))
    rows = [["trial", "state", "val_loss", "seconds", *names, REASON]]
    for trial in study.trials:
        number, *rest = row(trial, "" if trial.value is None else trial.value, lambda x: x)
        rows.append([number, trial.state.name.lower(), *rest, trial.user_attrs.get(REASON, "")])
    write_csv(folder / CSV_FILE, rows)
    figure = Figure(figsize=(4 * (1 + len(names)), 3.2), layout="constrained")
    course, *others = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    numbers = [trial.number for trial in complete]
    losses = [trial.value for trial in complete]
    course.plot(numbers, losses, "o", alpha=0.7, label="trial")
    course.step(numbers, np.minimum.accumulate(losses), where="post", label="best so far")
    course.xaxis.set_major_locator(MaxNLocator(integer=True))
    course.set(xlabel="trial", ylabel="val_loss")
    course.legend()
    for axes, name in zip(others, names, strict=True):
        axes.plot([trial.params[name] for trial in complete], losses, "o", alpha=0.7)
        log_scale = getattr(complete[0].distributions[name], "log", False)
        axes.set(xlabel=name, xscale="log" if log_scale else axes.get_xscale())
    with whole(folder / PLOT_FILE) as part:
        figure.savefig(part, format="png", dpi=150)
    log.info("all trials: %s, %s", folder / CSV_FILE, folder / PLOT_FILE)
