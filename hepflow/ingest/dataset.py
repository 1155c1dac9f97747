"""The dataset as ingest keeps it: fragments, the records of their tasks, and ``_hepflow.json``.

``_hepflow.json`` names the fragments and is replaced last, in one rename: readers see the dataset
of the previous run or of this one. A fragment that a dead run left is either reused, by its record,
or removed. The life of a fragment:

    task finishes     CLASS/NAME.parquet renamed into place, then _records/KEY.json
    run finishes      `commit`: _hepflow.json names it
    rerun             `finished`: its record is valid, so its ranges are not read again
    its file changes  other keys: no record is valid, `commit` removes the old fragment

Why not Structured Streaming with ``availableNow``: its file sink keeps the list of valid files in a
log that only Spark reads, its source checkpoint cannot forget a file that was repaired, and a
replayed micro-batch gives its files new names. Here the unit of commit is a task: a fragment named
by its content, then a record named by its input. A replay overwrites both with the same bytes, and
one list of fragments serves every reader.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hepflow.data.ledger import Ledger, total
from hepflow.data.output import read_marker, refuse_to_replace, write_marker
from hepflow.data.provenance import digest
from hepflow.errors import DataError
from hepflow.ingest.task import RECORDS, Settings, TaskRecord
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import RangeRecord
from hepflow.schema import EVENTS_SCHEMA_VERSION
from hepflow.system.files import read_json
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


def manifest(output: Path) -> dict[str, Any] | None:
    """Return ``_hepflow.json``; None without a finished dataset of this schema version."""
    found = read_marker(output)
    return found if found and found.get("schema_version") == EVENTS_SCHEMA_VERSION else None


def listing_hash(ranges: Sequence[EntryRange], settings: Settings) -> str:
    """Return a hash of input and settings, by which an up-to-date dataset is detected."""
    return digest(settings.key, [one.key for one in ranges])


def check_replaceable(ranges: Sequence[EntryRange], settings: Settings) -> None:
    """Refuse to turn a finished dataset into another one; a changed input only updates it.

    Raises
    ------
    ConfigError
        The dataset is of other classes, of another tree, or of entirely different files.
    """
    about = manifest(settings.output)
    if about is None:
        return
    now = {"classes": list(settings.classes), "tree": settings.access.tree}
    refuse_to_replace(settings.output, "a dataset", about, now)
    before = _names(about)
    if before.isdisjoint(one.file.name for one in ranges):
        old, new = ({"files": f"such as {name}"} for name in (min(before), ranges[0].file.name))
        refuse_to_replace(settings.output, "a dataset", old, new)


def _names(about: Mapping[str, Any]) -> set[str]:
    return {file["file"] for file in about["files"]}


def finished(
    ranges: Sequence[EntryRange], settings: Settings, retry_quarantined: bool
) -> list[TaskRecord]:
    """Return the valid records of earlier runs: of unchanged files, with their fragment.

    Parameters
    ----------
    ranges : sequence of EntryRange
        All ranges of the input; each is in one record at most.
    settings : Settings
    retry_quarantined : bool
        Drop the tasks that lost something. Those that lost it to the file system or a dying worker
        are always dropped.
    """
    wanted = {one.key for one in ranges}
    records = []
    for path in sorted((settings.output / RECORDS).glob("*.json")):
        record = TaskRecord.from_dict(read_json(path))
        task = [own.range for own in record.ranges]
        keys = {one.key for one in task}
        retry = any(own.transient or (own.lost and retry_quarantined) for own in record.ranges)
        same_settings = record.key == settings.task_key(task)
        if keys <= wanted and same_settings and not retry and _has_fragment(record, settings):
            records.append(record)
            wanted -= keys
    return records


def _has_fragment(record: TaskRecord, settings: Settings) -> bool:
    if record.fragment is None:
        return True
    path = settings.output / record.fragment
    return path.is_file() and path.stat().st_size == record.bytes_written


def prepare(output: Path) -> None:
    """Create the folders, and remove unfinished files of killed tasks.

    Raises
    ------
    DataError
        The folder holds something else, which would be removed.
    """
    records, about = output / RECORDS, read_marker(output)
    ours = records.is_dir() if about is None else "fragments" in about
    others = [] if ours else [path.name for path in output.glob("*") if path.name[0] not in "._"]
    if others:
        raise DataError(
            f"{output}: not a dataset of `hepflow ingest`, as it holds {others[0]}. Give a new or "
            "an empty folder as --output."
        )
    records.mkdir(parents=True, exist_ok=True)
    for left_over in (*output.glob("*/.*.part"), *records.glob(".*.now")):
        left_over.unlink(missing_ok=True)


def commit(
    records: Sequence[TaskRecord], ranges: Sequence[EntryRange], settings: Settings
) -> dict[str, Any]:
    """Replace ``_hepflow.json``, remove everything it does not name, and return its content.

    Raises
    ------
    DataError
        Nothing passed, every file is bad, or a file is there twice. The previous dataset stays.
    """
    files = _files(records)
    _check_identity(files)
    ledger = total(own.ledger for record in records for own in record.ranges).check()
    if ledger.n_out == 0:
        for record in records:
            settings.record_path(record.key).unlink(missing_ok=True)
        raise DataError(_nothing(files, ledger, settings))
    content = [
        [f[key] for key in ("file", "class", "uuid", "size", "kept", "reasons")] for f in files
    ]
    about = {
        "schema_version": EVENTS_SCHEMA_VERSION,
        "classes": list(settings.classes),
        "tree": settings.access.tree,
        "provenance": digest(settings.key, content),
        "listing": listing_hash(ranges, settings),
        "ledger": ledger.to_dict(),
        "n_events": ledger.n_out,
        "fragments": sorted(record.fragment for record in records if record.fragment),
        "files": files,
    }
    before = manifest(settings.output)
    if before and (gone := _names(before) - _names(about)):
        log.info(
            "no longer in the input: %s, whose events are removed (the first: %s)",
            counted(len(gone), "file"),
            min(gone),
        )
    write_marker(settings.output, about)
    sweep(about, settings.output)
    keys = {record.key for record in records}
    for path in (settings.output / RECORDS).iterdir():
        if path.stem not in keys:
            path.unlink(missing_ok=True)
    return about


def sweep(about: Mapping[str, Any], output: Path) -> None:
    """Remove fragments that are not in the manifest: of changed files, or of runs that died."""
    live = {output / name for name in about["fragments"]}
    for path in output.glob("*/*.parquet"):
        if path not in live:
            path.unlink(missing_ok=True)


def remove_empty(output: Path, classes: Iterable[str]) -> None:
    """Remove the folders of a run that wrote nothing; that of records, a dataset's mark, last."""
    with contextlib.suppress(OSError):  # not empty
        for name in (*classes, RECORDS):
            if (output / name).is_dir():
                (output / name).rmdir()


def _files(records: Iterable[TaskRecord]) -> list[dict[str, Any]]:
    """Return a row per source file: entries in, kept, rejected and lost, by reason."""
    parts: dict[tuple[str, str], list[RangeRecord]] = defaultdict(list)
    for record in records:
        for own in record.ranges:
            parts[own.range.file.class_name, own.range.file.name].append(own)
    return [_file(sorted(own, key=lambda one: one.range.index)) for _, own in sorted(parts.items())]


def _file(parts: Sequence[RangeRecord]) -> dict[str, Any]:
    file = parts[0].range.file
    ledger = total(own.ledger for own in parts).check()
    identities = {(own.uuid, own.n_entries) for own in parts if own.n_entries is not None}
    if len(identities) > 1:
        raise DataError(
            f"{file.path}: the file changed while it was read. Run the same command again when it "
            "is complete."
        )
    uuid, n_entries = identities.pop() if identities else (None, None)
    reasons: dict[str, int | None] = {}
    for item in ledger.lost:  # every range of an unreadable file has the same reason
        known = (reasons.get(item.reason) or 0) + (item.events or 0)
        reasons[item.reason] = None if item.events is None else known
    if n_entries != ledger.n_in and None not in reasons.values():
        raise AssertionError(
            f"{file.path}: {n_entries} entries, but its {len(parts)} ranges cover {ledger.n_in}"
        )
    return {
        "file": file.name,
        "class": file.class_name,
        "size": file.size,
        "uuid": uuid,
        "entries": n_entries,
        "kept": ledger.n_out,
        "rejected": dict(ledger.rejected),
        "lost": ledger.n_lost if n_entries is not None else None,
        "reason": "; ".join(reasons) or None,
        "reasons": reasons,
        "transient": any(own.transient for own in parts),
        "filled": sorted({name for own in parts for name in own.filled}),
    }


def _check_identity(files: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a file and its copy, whose events would count twice."""
    first: dict[str, str] = {}
    for file in files:
        name, uuid = file["file"], file["uuid"]
        if uuid is not None and first.setdefault(uuid, name) != name:
            raise DataError(
                f"{name} is a copy of {first[uuid]} (same UUID): its events would count twice. "
                "Remove one and run again."
            )


def _nothing(files: Sequence[Mapping[str, Any]], ledger: Ledger, settings: Settings) -> str:
    """Return the message for a dataset without events."""
    bad = [file for file in files if file["reason"]]
    if len(bad) < len(files):
        why, advice = (
            f"no event passes ({ledger.summary()})",
            "Check that these are the right files",
        )
    else:
        first = f"the first, {bad[0]['file']}: {bad[0]['reason']}"
        why, advice = f"all {len(files)} files are bad ({first})", "Repair or replace them"
    return f"{settings.output}: nothing written, {why}. {advice}."
