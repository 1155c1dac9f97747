"""Two datasets -> compare.json and compare.html, one file that needs no other and no network.

A comparison that is up to date is left alone; the same events give the same bytes.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hepflow.config.compare import CompareConfig
from hepflow.data.provenance import PACKAGE, code_hash, digest
from hepflow.errors import ConfigError, DataError, LimitExceeded
from hepflow.evaluate.datasets import charts, tables, text
from hepflow.evaluate.datasets.measure import (
    SIDES,
    edges,
    measure_class,
    measure_trees,
    ordered,
    sets_of,
)
from hepflow.evaluate.datasets.pair import Pair, open_pair
from hepflow.evaluate.datasets.sample import Sample, take
from hepflow.evaluate.datasets.trees import FOLDS, LEARNING_RATE, LEAVES, ROUNDS
from hepflow.evaluate.figures import AnyFigure
from hepflow.evaluate.report import rendered
from hepflow.evaluate.tables import for_terminal
from hepflow.schema import COMPARISON_SCHEMA_VERSION
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.system.publishing import put
from hepflow.system.storage import make_folder, remove
from hepflow.system.terminal import bar, counted, show

log = logging.getLogger(__name__)
NUMBERS, PAGE = "compare.json", "compare.html"
LEAST_EVENTS = 50
"""Events per class and dataset below which trees and distances mean nothing."""


def run(config: CompareConfig) -> None:
    """Compare, unless that is up to date; raise `LimitExceeded` if a limit was set and is."""
    pair = open_pair(config)
    _check_left_out(config, pair)
    inputs, page = inputs_hash(config, pair), config.output / PAGE
    if comparison := _up_to_date(config.output, inputs):
        done = f"{page} is up to date: same datasets, same options"
    else:
        with locks.exclusive(config.output):
            comparison = compare_datasets(pair, config)
            _write(config.output, {**comparison, "inputs": inputs})
        entries, both = comparison["classes"].values(), []
        for side, name in zip(SIDES, pair.names, strict=True):
            n_events = sum(entry["events"][side] for entry in entries)
            both.append(f"{counted(n_events, 'event')} of {name}")
        done = f"compared {' and '.join(both)}: {page}"
    for caution in comparison["cautions"]:
        log.info("%s", caution)
    if config.json:
        print(json.dumps(read_json(config.output / NUMBERS), indent=1, sort_keys=True))
    else:
        show(*map(for_terminal, (tables.overview(comparison), tables.trees(comparison))))
    log.info("%s", done)
    if found := [*text.exceeded(comparison, config)]:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise LimitExceeded(f"{found[0]}{more}; see {page}")


def inputs_hash(config: CompareConfig, pair: Pair) -> str:
    """Return a hash of all that the comparison depends on; its folder and limits are not."""
    same: Any = {"output": Path(), "json": False, "max_auc": 1.0, "max_ks": 1.0}
    origins = [(one.provenance, one.definitions, one.physics) for one in pair.sources]
    code = [code_hash(PACKAGE / name) for name in ("evaluate", "statistics", "physics")]
    return digest(replace(config, **same), origins, code, COMPARISON_SCHEMA_VERSION)


def _up_to_date(output: Path, inputs: str) -> dict[str, Any] | None:
    if not ((output / NUMBERS).is_file() and (output / PAGE).is_file()):
        return None
    written: dict[str, Any] = read_json(output / NUMBERS)
    return written if written.get("inputs") == inputs else None


def _check_left_out(config: CompareConfig, pair: Pair) -> None:
    names = [feature.name for feature in pair.quantities]
    if unknown := [name for name in config.leave_out if name not in names]:
        what = f"--leave-out names {', '.join(unknown)}, but the quantities of these datasets are"
        raise ConfigError(f"{what} {', '.join(names)}")
    if {*names} == {*config.leave_out}:
        raise ConfigError("--leave-out names every quantity: keep at least one")


def compare_datasets(pair: Pair, config: CompareConfig) -> dict[str, Any]:
    """Return the content of compare.json; the output of the configuration is not used."""
    samples = _samples(pair, config)
    ranges = edges(samples, len(pair.quantities))
    sets = sets_of(pair, config.leave_out)
    n_groups = len(samples) + (len(samples) > 1)
    with bar("trees", n_groups * len(sets) * FOLDS, transient=True) as row:
        trees = measure_trees(pair, samples, sets, config.seed, row.advance)
    keys = ("path", "kind", "definitions", "physics", "provenance")
    about = [{key: str(getattr(source, key)) for key in keys} for source in pair.sources]
    found: dict[str, Any] = {
        "schema_version": COMPARISON_SCHEMA_VERSION,
        "hepflow": version("hepflow"),
        "names": list(pair.names),
        "datasets": dict(zip(SIDES, about, strict=True)),
        "quantities": [
            {"name": feature.name, "unit": feature.unit, "edges": own.tolist()}
            for feature, own in zip(pair.quantities, ranges, strict=True)
        ],
        "classes": {name: measure_class(pair, both, ranges) for name, both in samples.items()},
        "trees": trees,
        "settings": {
            "events": config.events,
            "seed": config.seed,
            "classes": list(samples),
            "leave_out": list(config.leave_out),
            "trees": {"folds": FOLDS, "rounds": ROUNDS, "leaves": LEAVES, "rate": LEARNING_RATE},
        },
    }
    return found | {"cautions": [*pair.notes, *text.cautions(found)]}


def _samples(pair: Pair, config: CompareConfig) -> dict[str, tuple[Sample, Sample]]:
    there = [
        (name, source.path, sum(piece.n_events for piece in source.pieces(name)))
        for name in pair.classes
        for source in pair.sources
    ]
    for name, path, n_events in there:
        _require(path, name, n_events)
    samples, n_read = {}, sum(min(n_events, config.events) for _, _, n_events in there)
    with bar("reading", n_read, transient=True) as row:
        for name in pair.classes:
            first, second = (
                take(source, name, config.events, config.seed, row.advance)
                for source in pair.sources
            )
            for source, sample in zip(pair.sources, (first, second), strict=True):
                _require(source.path, name, len(sample.rows))
            samples[name] = first, second
    return samples


def _require(path: Path, class_name: str, n_events: int) -> None:
    if n_events < LEAST_EVENTS:
        what = f"{counted(n_events, 'event')} of class {class_name} passing the trigger"
        advice = "Give more, or name the other classes with --classes."
        raise DataError(f"{path}: {what}, and {LEAST_EVENTS} are needed. {advice}")


def page_of(comparison: Mapping[str, Any]) -> str:
    """Return compare.html."""
    per_class: dict[str, Sequence[AnyFigure]] = {
        name: charts.distributions(comparison, name) for name in ordered(comparison)
    }
    figures = {"ratios": charts.ratios(comparison), "importances": charts.importances(comparison)}
    shown: Any = {"comparison": comparison, "figures": figures, "per_class": per_class}
    return rendered("compare.html.j2", {**shown, "texts": text, "own": tables, "folder": ""})


def _write(output: Path, comparison: Mapping[str, Any]) -> None:
    """Write compare.json last: if it is there, the page is complete."""
    make_folder(output)
    remove(output / NUMBERS, flush=True)
    put(output / PAGE, page_of(comparison).encode())
    write_json(output / NUMBERS, comparison)
