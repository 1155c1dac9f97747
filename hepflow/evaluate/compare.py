"""Paired differences of runs, the ablation of the definitions, and warnings about both."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from hepflow.evaluate.measure import Chosen
from hepflow.evaluate.runs import Run, common_events, same_events
from hepflow.statistics import pairs as paired
from hepflow.statistics.metrics import log_odds, predicted
from hepflow.statistics.numbers import listed
from hepflow.statistics.working_points import Selection, against_rest

Entries = Mapping[str, Mapping[str, Any]]
Pairs = Sequence[Mapping[str, Any]]

MIN_COMMON = 50  # common events below which two models are not compared


def compare(
    runs: Sequence[Run], chosen: Chosen, *, target: float, exact_below: int
) -> list[dict[str, Any]]:
    """Return paired differences of every two runs, on the events that both were tested on.

    They are of the background efficiency of the headline at ``target``, the AUC of each class, and
    the accuracy.
    """
    if len(runs) < 2:
        return []
    wanted = [chosen["headline"], *against_rest(chosen)]
    groups = [tuple(runs)] if same_events(runs) else list(combinations(runs, 2))
    found = [pair for group in groups for pair in _differences(group, wanted, target, exact_below)]
    adjusted = paired.holm([difference.p_value for difference in found])
    rows = zip(found, adjusted, strict=True)
    return [{**asdict(one), "p_adjusted": p, "resolved": p < paired.RESOLVED} for one, p in rows]


def _differences(
    runs: Sequence[Run], wanted: Sequence[Selection], target: float, exact_below: int
) -> list[paired.Difference]:
    """Compare two runs on their common events, or any number on the same ones."""
    rows: list[Any] = [slice(None)] * len(runs)
    if not same_events(runs):
        rows = list(common_events(*(run.predictions.event_id for run in runs)))
    first = runs[0].predictions
    label_N, n_classes = first.label[rows[0]], len(first.classes)
    if len(label_N) < MIN_COMMON or len(np.unique(label_N)) < n_classes:
        return []
    logits = [run.predictions.logits[own] for run, own in zip(runs, rows, strict=True)]
    names = [run.name for run in runs]
    found = []
    for one in wanted:
        scores = [log_odds(own, one.signal, one.background) for own in logits]
        given = names, scores, label_N, one
        if one.name == "headline":
            found += paired.pass_differences(*given, target=target, exact_below=exact_below)
        else:
            found += paired.auc_differences(*given, exact_below=exact_below)
    right = [predicted(own) == label_N for own in logits]
    return found + paired.accuracy_differences(names, right, label_N, n_classes)


def ablation(runs: Sequence[Run], entries: Entries, pairs: Pairs) -> list[dict[str, Any]]:
    """Return the models that were trained under more than one definition of the features.

    Each with its names of runs by definitions, and the differences between those.
    """
    by_model: dict[str, dict[str, list[str]]] = {}  # model -> definitions -> runs
    for run in runs:
        if run.definitions:
            names = by_model.setdefault(str(entries[run.name]["model"]), {})
            names.setdefault(run.definitions, []).append(run.name)
    rows = []
    for model, names in sorted(by_model.items()):
        of_run = {run: definitions for definitions, own in names.items() for run in own}
        changed = []
        for pair in pairs:
            a, b = of_run.get(pair["first"]), of_run.get(pair["second"])
            if a and b and a != b:
                changed.append(pair)
        if len(names) > 1:
            rows.append({"model": model, "definitions": names, "differences": changed})
    return rows


def cautions(pairs: Pairs, entries: Entries, best: str) -> list[str]:
    """Return what the sample is too small for, in sentences."""
    equals = []
    for pair in pairs:
        names = [pair["first"], pair["second"]]
        if pair["quantity"].startswith(paired.PASSING) and best in names and not pair["resolved"]:
            names.remove(best)
            equals += names
    found = []
    if equals:
        both = f"{best} from {listed(equals, 'or')}"
        found = [f"This sample is too small to distinguish {both} by background efficiency."]
    compared = {(pair["first"], pair["second"]) for pair in pairs}
    missing = [f"{a} and {b}" for a, b in combinations(entries, 2) if (a, b) not in compared]
    if missing:
        why = f"Fewer than {MIN_COMMON} common test events, or none of some class"
        found.append(f"{why}, so not compared: {'; '.join(missing)}.")
    if unresolved := sum(not pair["resolved"] and pair["error"] > 0 for pair in pairs):
        found.append(
            f"{unresolved} of the {len(pairs)} differences between models could be chance on this "
            "test sample (“cannot tell” below): do not rank the models by those."
        )
    few = []
    for name, entry in sorted(entries.items()):
        points = entry["selections"]["headline"]["working_points"]
        if any(point["few_events"] for point in points):
            few.append(name)
    if few:
        found.append(
            "Fewer than ten background test events pass some of the working points of "
            f"{listed(few)} (marked † below): their rejections are rough numbers. "
            "A larger test split would improve them."
        )
    return found
