"""What a search shows: the table of the best trials, trials.csv with all, and a plot of their course and of each option."""

import csv
import logging
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from hepflow.system.files import whole

log = logging.getLogger(__name__)

TOP = 10
REASON = "reason"
"""Why a trial could not be trained, among its attributes."""
CSV_FILE, PLOT_FILE = "trials.csv", "trials.png"


def report(study: optuna.Study, folder: Path) -> None:
    """Print the best trials, and write trials.csv and trials.png.

    Parameters
    ----------
    study : Study
        With one complete trial at least.
    folder : Path
        Where to write.
    """
    complete = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=_value)
    names = list(complete[0].params)
    _print(complete[:TOP], names)
    with whole(folder / CSV_FILE) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "val_loss", "seconds", *names, REASON])
        for trial in study.trials:
            value = "" if trial.value is None else trial.value
            options = (trial.params.get(name, "") for name in names)
            writer.writerow(
                [
                    trial.number,
                    trial.state.name.lower(),
                    value,
                    _seconds(trial),
                    *options,
                    trial.user_attrs.get(REASON, ""),
                ]
            )
    _plot(complete, names, folder / PLOT_FILE)
    log.info("all trials: %s, %s", folder / CSV_FILE, folder / PLOT_FILE)


def _print(best: list[FrozenTrial], names: list[str]) -> None:
    table = Table(title="best trials")
    for column in ("trial", "val_loss", "seconds", *(name.rpartition(".")[2] for name in names)):
        table.add_column(column, justify="right")
    for trial in best:
        shown = (
            f"{value:.4g}" if isinstance(value, float) else str(value)
            for value in (trial.params[name] for name in names)
        )
        table.add_row(str(trial.number), f"{_value(trial):.4f}", _seconds(trial), *shown)
    Console().print(table)


def _plot(complete: list[FrozenTrial], names: list[str], path: Path) -> None:
    figure = Figure(figsize=(4 * (1 + len(names)), 3.2), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    _plot_course(first, sorted(complete, key=lambda trial: trial.number))
    for axes, name in zip(others, names, strict=True):
        values = [trial.params[name] for trial in complete]
        axes.plot(values, [_value(trial) for trial in complete], "o", alpha=0.7)
        axes.set_xlabel(name)
        distribution = complete[0].distributions[name]
        if getattr(distribution, "log", False):
            axes.set_xscale("log")
    with whole(path) as part:
        figure.savefig(part, format="png", dpi=150)


def _plot_course(axes: Axes, trials: list[FrozenTrial]) -> None:
    values = [_value(trial) for trial in trials]
    numbers = [trial.number for trial in trials]
    axes.plot(numbers, values, "o", alpha=0.7, label="trial")
    axes.step(
        numbers,
        [min(values[: i + 1]) for i in range(len(values))],
        where="post",
        label="best so far",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel("val_loss")
    axes.legend()


def _seconds(trial: FrozenTrial) -> str:
    return "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # it is complete
    return trial.value
