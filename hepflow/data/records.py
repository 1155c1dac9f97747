"""Records of the parts of a feature store: what a part holds, and what it was made of.

    _parts/N.json         record of part N, from its writer
    _parts/finished.json  N -> record, of all parts when the store was last finished
    _parts/plan.json      N -> sources of parts that are being made

A record has the ranges of events (split, class, events, particles) in the order of their rows, the
bytes of each array's shard, a ledger, the moments of the training split, and the fingerprint of
each source.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hepflow.data.blocks import Range
from hepflow.data.layout import ARRAYS
from hepflow.data.ledger import Ledger
from hepflow.schema import SPLITS
from hepflow.system.files import plain_name, read_json, recorded, write_json
from hepflow.system.storage import listed, remove, remove_all

PARTS = "_parts"
_FINISHED, _PLAN = f"{PARTS}/finished.json", f"{PARTS}/plan.json"

Record = Mapping[str, Any]
Sources = Mapping[str, str]  # name -> fingerprint


def record_path(store: Path, number: int) -> Path:
    """Return the place of the record of a part."""
    return store / PARTS / f"{number:06d}.json"


def read_records(store: Path) -> dict[int, Record]:
    """Return the records of all parts, by number."""
    with recorded(store / _FINISHED):
        records = _by_number(store / _FINISHED)
        records = {number: _checked(record) for number, record in records.items()}
    paths = [path for path in listed(store / PARTS, "*.json") if path.stem.isdecimal()]
    with ThreadPoolExecutor(16) as pool:  # a remote store answers in tens of milliseconds
        for path, record in zip(paths, pool.map(read_json, paths), strict=True):
            with recorded(path):
                records[int(path.stem)] = _checked(record)
    return dict(sorted(records.items()))


def merge_records(store: Path, records: Mapping[int, Record]) -> None:
    """Put all records into one file."""
    write_json(store / _FINISHED, {f"{number:06d}": dict(own) for number, own in records.items()})


def remove_single_records(store: Path, numbers: Iterable[int]) -> None:
    """Remove the files of the records of some parts, which are merged or outdated."""
    remove_all(record_path(store, number) for number in numbers)


def read_plan(store: Path) -> dict[int, Sources]:
    """Return the parts that were planned, and what they are to be made of."""
    with recorded(store / _PLAN):
        return {number: dict(sources) for number, sources in _by_number(store / _PLAN).items()}


def write_plan(store: Path, plan: Mapping[int, Sources]) -> None:
    """Record what parts will be made of, for a later run if this one does not end."""
    write_json(store / _PLAN, {f"{number:06d}": dict(own) for number, own in plan.items()})


def remove_plan(store: Path) -> None:
    """Remove the plan: all parts are made."""
    remove(store / _PLAN)


def read_old_records(store: Path) -> dict[int, Record]:
    """Return the records of a store of version 1, whose arrays are in a group per range.

    There, a part of the name of a fragment has groups ``SPLIT/CLASS/NAME``, and the record
    ``_parts/NAME.json``.
    """
    paths = listed(store / PARTS, "*.json")
    with ThreadPoolExecutor(16) as pool:
        return dict(enumerate(pool.map(_old_record, paths)))


def _by_number(path: Path) -> dict[int, Any]:
    return {int(name): own for name, own in (read_json(path) if path.is_file() else {}).items()}


def _checked(record: Record) -> Record:
    """Return a record, or raise an error if hepflow has not written it."""
    for split, class_name, *sizes_and_group in record["ranges"]:
        Range(split, class_name, 0, *sizes_and_group)
        if split not in SPLITS:
            raise ValueError(f"{split!r} is no split")
    if unknown := record["bytes"].keys() - set(ARRAYS):
        raise ValueError(f"{unknown} are no arrays")
    Ledger.from_dict(record["ledger"])
    dict(record["sources"])
    return record


def _old_record(path: Path) -> Record:
    with recorded(path):
        old = read_json(path)
        ranges = []
        for row in old["parts"]:
            place = row["split"], row["class_name"]
            sizes = row["n_events"], row["n_particles"]
            ranges.append((*place, *sizes, "/".join([*place, plain_name(row["name"])])))
        record = {key: old[key] for key in ("ledger", "moments")} | {"ranges": ranges, "bytes": {}}
        return _checked({**record, "sources": {path.stem: old.get("source", "")}})
