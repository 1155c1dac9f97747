"""The dataset as ingest keeps it: fragments, their catalogue, records of tasks, ``_hepflow.json``.

``_hepflow.json`` names the fragments and is replaced last, in one rename: readers see the dataset
of the previous run or of this one. A fragment that a dead run left is either reused, by its record,
or removed. The life of a fragment:

    task finishes     CLASS/NAME.parquet renamed into place, then _records/KEY.json
    run finishes      `commit`: the records are merged, _hepflow.json names it, single records go
    rerun             `finished`: its record is valid, so its ranges are not read again
    its file changes  other keys: no record is valid, `commit` removes the old fragment

Why not Structured Streaming with ``availableNow``: its file sink keeps the list of valid files in a
log that only Spark reads, its checkpoint cannot forget a file that was repaired, and a replayed
micro-batch gives its files new names. Here a task that is replayed overwrites fragment and record
with the same bytes, and one list of fragments serves every reader.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hepflow.data.catalog import whole_fragments, write_catalog
from hepflow.data.file_lists import LOST, write_lost
from hepflow.data.ledger import total
from hepflow.data.output import read_marker, refuse_to_replace, write_marker
from hepflow.data.provenance import digest
from hepflow.data.task_records import (
    RECORDS,
    merge_records,
    read_merged,
    read_records,
    remove_single_records,
)
from hepflow.errors import DataError
from hepflow.ingest.task import Settings, TaskRecord
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import RangeRecord, Retry, is_retried, lost_in
from hepflow.schema import EVENTS_SCHEMA_VERSION
from hepflow.system.publishing import remove_drafts
from hepflow.system.storage import file_sizes, listed, make_folder, remove_all, remove_empty_folder
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


def manifest(output: Path) -> dict[str, Any] | None:
    """Return ``_hepflow.json``; None without a finished dataset of this schema version."""
    found = read_marker(output)
    return found if found and found.get("schema_version") == EVENTS_SCHEMA_VERSION else None


def listing_hash(ranges: Sequence[EntryRange], settings: Settings) -> str:
    """Return a hash of input and settings, by which an up-to-date dataset is detected."""
    return digest(settings.key, [one.key for one in ranges])


def is_up_to_date(
    about: Mapping[str, Any],
    ranges: Sequence[EntryRange],
    settings: Settings,
    retry_quarantined: Retry,
) -> bool:
    """Return whether a manifest is of these ranges and settings, and all its fragments are whole.

    It is not if a file should be read again, see `finished`.
    """
    if about["listing"] != listing_hash(ranges, settings) or any(
        is_retried(file["file"], bool(file["reason"]), file["transient"], retry_quarantined)
        for file in about["files"]
    ):
        return False
    return set(about["fragments"]) <= whole_fragments(settings.output, about["fragments"]).keys()


def check_settings(about: Mapping[str, Any], settings: Settings) -> None:
    """Refuse to turn a finished dataset into one of other classes or another tree."""
    now = {"classes": list(settings.classes), "tree": settings.access.tree}
    refuse_to_replace(settings.output, "a dataset", about, now)


def check_replaceable(
    about: Mapping[str, Any], ranges: Sequence[EntryRange], settings: Settings
) -> None:
    """Refuse to turn a finished dataset into one of other settings or other files."""
    check_settings(about, settings)
    before = {file["file"] for file in about["files"]}
    if before.isdisjoint(one.file.name for one in ranges):
        old, new = ({"files": f"such as {name}"} for name in (min(before), ranges[0].file.name))
        refuse_to_replace(settings.output, "a dataset", old, new)


def finished(
    ranges: Sequence[EntryRange], settings: Settings, retry_quarantined: Retry
) -> tuple[list[TaskRecord], list[EntryRange]]:
    """Return the valid records of earlier runs, and the ranges without one.

    Valid: of unchanged files, with their fragment, and not to be read again (see `is_retried`).
    Each range is in one record at most.
    """
    wanted = {one.key: one for one in ranges}
    found, records = list(read_records(settings.output, TaskRecord.from_dict, skip=True)), []
    sizes = file_sizes(settings.output, (one.fragment for one in found if one.fragment))
    for record in found:
        task = [own.range for own in record.ranges]
        keys = {one.key for one in task}
        retry = any(
            is_retried(own.range.file.name, bool(own.lost), own.transient, retry_quarantined)
            for own in record.ranges
        )
        same_settings = record.key == settings.task_key(task)
        whole = record.fragment is None or sizes.get(record.fragment) == record.bytes_written
        if keys <= wanted.keys() and same_settings and whole and not retry:
            records.append(record)
            for key in keys:
                del wanted[key]
    return records, list(wanted.values())


def tasks_of(about: Mapping[str, Any], settings: Settings) -> list[list[EntryRange]]:
    """Return the entry ranges of a finished dataset, by task."""
    try:
        records = list(read_merged(settings.output, TaskRecord.from_dict))
    except FileNotFoundError:  # of version 0.1
        records = list(read_records(settings.output, TaskRecord.from_dict))
    tasks = [[own.range for own in record.ranges] for record in records]
    if listing_hash(sorted(one for task in tasks for one in task), settings) != about["listing"]:
        what = "its records are of another run, of other settings or another version"
        raise DataError(f"{settings.output}: {what}. Run the command once without --only.")
    return tasks


def write_missing_list(about: Mapping[str, Any], output: Path) -> None:
    """Write the list of lost entries if there are any, and the dataset is of an earlier version."""
    if about["ledger"]["lost"] and not (output / LOST).is_file():
        records = read_records(output, TaskRecord.from_dict)
        write_lost(output, lost_in(own for record in records for own in record.ranges))


def prepare(output: Path, about: Mapping[str, Any] | None = None) -> None:
    """Create the folders, and remove unfinished files of killed tasks; refuse other folders.

    ``about`` is the manifest, if there is one.
    """
    records, about = output / RECORDS, about or read_marker(output)
    ours = records.is_dir() if about is None else "fragments" in about
    others = [] if ours else [path.name for path in listed(output) if path.name[0] not in "._"]
    if others:
        what = f"not a dataset of `hepflow ingest`, as it holds {others[0]}"
        raise DataError(f"{output}: {what}. Give a new or an empty folder as --output.")
    make_folder(records)
    remove_drafts(output)
    remove_all(listed(output, f"{RECORDS}/.*.now", links=False))


def commit(
    records: Sequence[TaskRecord],
    ranges: Sequence[EntryRange],
    settings: Settings,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Replace ``_hepflow.json``, remove everything it does not name, and return its content.

    If nothing passed, every file is bad, or a file is there twice, the dataset ``before`` stays.
    """
    ordered = sorted((own for record in records for own in record.ranges), key=lambda o: o.range)
    by_file = groupby(ordered, key=lambda own: (own.range.file.class_name, own.range.file.name))
    files = [_file(list(parts)) for _, parts in by_file]
    first: dict[str, str] = {}
    for file in files:
        name, uuid = file["file"], file["uuid"]
        if uuid is not None and first.setdefault(uuid, name) != name:
            what = f"{name} is a copy of {first[uuid]} (same UUID): its events would count twice"
            raise DataError(f"{what}. Remove one and run again.")
    ledger = total(own.ledger for own in ordered).check()
    if ledger.n_out == 0:
        singles, now = listed(settings.output / RECORDS, "*.json"), {one.key for one in records}
        remove_all(path for path in singles if path.stem in now)
        why = f"no event passes ({ledger.summary()}). Check that these are the right files."
        if all(file["reason"] for file in files):
            example = f"the first, {files[0]['file']}: {files[0]['reason']}"
            why = f"all {len(files)} files are bad ({example}). Repair or replace them."
        raise DataError(f"{settings.output}: nothing written, {why}")
    keys = ("file", "class", "uuid", "size", "kept", "reasons")
    content = [[file[key] for key in keys] for file in files]
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
    old = {file["file"] for file in before["files"]} if before else set()
    if gone := old - {file["file"] for file in files}:
        message = "no longer in the input: %s, whose events are removed (the first: %s)"
        log.info(message, counted(len(gone), "file"), min(gone))
    merge_records(settings.output, records)
    described = {one.fragment: one.file for one in records if one.fragment and one.file}
    write_catalog(settings.output, described)
    write_lost(settings.output, lost_in(ordered))
    write_marker(settings.output, about)
    sweep(about, settings.output)
    return about


def sweep(about: Mapping[str, Any], output: Path) -> None:
    """Remove fragments that are not in the manifest: of changed files, or of runs that died.

    Of records, the merged ones stay.
    """
    live, found = set(about["fragments"]), listed(output, "*/*.parquet", links=False)
    remove_all(path for path in found if f"{path.parent.name}/{path.name}" not in live)
    remove_single_records(output)


def remove_empty(output: Path, classes: Iterable[str]) -> None:
    """Remove the folders of a run that wrote nothing; that of records, a dataset's mark, last."""
    for name in (*classes, RECORDS):
        if not remove_empty_folder(output / name):
            return


def _file(parts: Sequence[RangeRecord]) -> dict[str, Any]:
    """Return the row of a source file: entries in, kept, rejected and lost, by reason."""
    file = parts[0].range.file
    ledger = total(own.ledger for own in parts).check()
    identities = {(own.uuid, own.n_entries) for own in parts if own.n_entries is not None}
    if len(identities) > 1:
        raise DataError(f"{file.path}: changed while it was read. Run again when it is complete.")
    uuid, n_entries = identities.pop() if identities else (None, None)
    reasons: dict[str, int | None] = {}
    for item in ledger.lost:  # every range of an unreadable file has the same reason
        known = (reasons.get(item.reason) or 0) + (item.events or 0)
        reasons[item.reason] = None if item.events is None else known
    in_part = [list(own.range.entries) for own in parts if own.range.entries]
    if n_entries != ledger.n_in and None not in reasons.values() and not in_part:
        what = f"{n_entries} entries, but its {len(parts)} ranges cover {ledger.n_in}"
        raise AssertionError(f"{file.path}: {what}")
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
        **({"only": in_part} if in_part else {}),
    }
