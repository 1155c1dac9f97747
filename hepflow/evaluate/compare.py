"""Runs beside each other: paired differences, the ablation of the definitions, and what may not be concluded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from hepflow.evaluate.runs import Run, common_events, same_events
from hepflow.evaluate.text import joined as listed
from hepflow.statistics.metrics import log_odds, predicted
from hepflow.statistics.pairs import (
    PASSING,
    RESOLVED,
    Difference,
    accuracy_difference,
    auc_differences,
    holm,
    pass_differences,
)
from hepflow.statistics.working_points import Selection, against_rest

MIN_COMMON = 50
"""Common events below which two models are not compared."""


def compare(
    runs: Sequence[Run], chosen: Mapping[str, Selection], *, target: float, exact_below: int
) -> list[dict[str, Any]]:
    """Paired differences of every two runs: what passes the headline's working point at ``target``, the AUC of each class, the accuracy.

    The runs are taken on the events that both were tested on.
    """
    wanted = against_rest(chosen)
    if len(runs) < 2:
        return []
    groups = [tuple(runs)] if same_events(runs) else list(combinations(runs, 2))
    found = [
        difference
        for group in groups
        for difference in _differences(group, [chosen["headline"], *wanted], target, exact_below)
    ]
    adjusted = holm([difference.p_value for difference in found])
    return [
        {**asdict(difference), "p_adjusted": p, "resolved": p < RESOLVED}
        for difference, p in zip(found, adjusted, strict=True)
    ]


def _differences(
    runs: Sequence[Run], wanted: Sequence[Selection], target: float, exact_below: int
) -> list[Difference]:
    """Of two runs on their common events, or of any number on the same ones."""
    rows: list[Any] = [slice(None)] * len(runs)
    if not same_events(runs):
        rows = list(common_events(runs[0].predictions.event_id, runs[1].predictions.event_id))
    label_N = runs[0].predictions.label[rows[0]]
    n_classes = len(runs[0].predictions.classes)
    if len(label_N) < MIN_COMMON or len(np.unique(label_N)) < n_classes:
        return []
    logits = [run.predictions.logits[own] for run, own in zip(runs, rows, strict=True)]
    names = [run.name for run in runs]
    found = []
    for selection in wanted:
        scores = [log_odds(own, selection.signal, selection.background) for own in logits]
        if selection.name == "headline":
            found += pass_differences(
                names, scores, label_N, selection, target=target, exact_below=exact_below
            )
        else:
            found += auc_differences(names, scores, label_N, selection, exact_below=exact_below)
    right = [predicted(own) == label_N for own in logits]
    for first, second in combinations(range(len(runs)), 2):
        found.append(
            accuracy_difference(
                (names[first], names[second]), (right[first], right[second]), label_N, n_classes
            )
        )
    return found


def ablation(
    runs: Sequence[Run],
    entries: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Models that were trained under more than one definition of the features, and what the definition changed.

    Returns
    -------
    list of rows
        ``model``, ``definitions`` -> names of runs, ``differences``: the paired ones between those runs.
    """
    by_model: dict[str, dict[str, list[str]]] = {}
    of_run = {}
    for run in runs:
        if run.definitions:
            by_model.setdefault(str(entries[run.name]["model"]), {}).setdefault(
                run.definitions, []
            ).append(run.name)
            of_run[run.name] = (entries[run.name]["model"], run.definitions)

    def changed(pair: Mapping[str, Any]) -> bool:
        first, second = of_run.get(pair["first"]), of_run.get(pair["second"])
        return (
            first is not None
            and second is not None
            and first[0] == second[0]
            and first[1] != second[1]
        )

    return [
        {
            "model": model,
            "definitions": definitions,
            "differences": [
                pair for pair in pairs if changed(pair) and of_run[pair["first"]][0] == model
            ],
        }
        for model, definitions in sorted(by_model.items())
        if len(definitions) > 1
    ]


def cautions(
    pairs: Sequence[Mapping[str, Any]], entries: Mapping[str, Mapping[str, Any]], best: str
) -> list[str]:
    """What the statistics are too small for, in sentences."""
    found = []
    passing = [
        pair
        for pair in pairs
        if pair["quantity"].startswith(PASSING) and best in {pair["first"], pair["second"]}
    ]
    if equals := [
        pair["second"] if pair["first"] == best else pair["first"]
        for pair in passing
        if not pair["resolved"]
    ]:
        found.append(
            f"By the background that passes, this sample is too small to tell {best} from {listed(equals, 'or')}."
        )
    compared = {(pair["first"], pair["second"]) for pair in pairs}
    if missing := [
        f"{first} and {second}"
        for first, second in combinations(entries, 2)
        if (first, second) not in compared
    ]:
        found.append(
            f"Fewer than {MIN_COMMON} common test events, or none of some class, so not compared: {'; '.join(missing)}."
        )
    unresolved = [pair for pair in pairs if not pair["resolved"] and pair["error"] > 0]
    if unresolved:
        found.append(
            f"{len(unresolved)} of the {len(pairs)} differences between models could be chance on this test sample "
            "(“cannot tell” below): do not rank the models by those."
        )
    few = sorted(
        {
            name
            for name, entry in entries.items()
            if any(p["few_events"] for p in entry["selections"]["headline"]["working_points"])
        }
    )
    if few:
        found.append(
            f"Fewer than ten background test events pass some of the working points of {listed(few)} (marked † below): "
            "their rejections are rough numbers. A larger test split would make them better."
        )
    return found
