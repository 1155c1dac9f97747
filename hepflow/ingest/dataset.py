"""data/events/: fragments, the records of the tasks that made them, and ``_hepflow.json``, which says what is in the dataset.

A reader takes the fragments that ``_hepflow.json`` names and no others. It is replaced last and in one rename, so that readers see
the dataset of the run before or of this one, and whatever a run that died left behind is either taken up by its record or removed.

Why not Structured Streaming with ``availableNow``: its file sink keeps the list of valid files in a log that only Spark reads, its
source checkpoint cannot forget a file that was repaired, and a replayed micro-batch gives its files new names. Here the unit of
commit is a task: a fragment named after its content, then a record named after its input. A replay overwrites both with the same
bytes; finished shares are told by their records; one list of fragments serves every reader.
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
from hepflow.ingest.fragment import RECORDS, Settings, TaskRecord
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import RangeRecord
from hepflow.schema import EVENTS_SCHEMA_VERSION
from hepflow.system.files import read_json
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


def manifest(output: Path) -> dict[str, Any] | None:
    """What ``_hepflow.json`` says; None where there is no finished dataset of this schema version."""
    found = read_marker(output)
    return found if found and found.get("schema_version") == EVENTS_SCHEMA_VERSION else None


def listing_hash(splits: Sequence[EntryRange], settings: Settings) -> str:
    """Tells whether a dataset is up to date without looking at its records."""
    return digest(settings.key, [split.key for split in splits])


def check_replaceable(splits: Sequence[EntryRange], settings: Settings) -> None:
    """Refuse to make another dataset of one that is finished; one whose input has changed is brought up to date.

    Raises
    ------
    ConfigError
        It is of other classes, of another tree, or of other files altogether.
    """
    about = manifest(settings.output)
    if about is None:
        return
    refuse_to_replace(
        settings.output,
        "a dataset",
        about,
        {"classes": list(settings.classes), "tree": settings.access.tree},
    )
    there = _names(about)
    if there.isdisjoint(split.file.name for split in splits):
        refuse_to_replace(
            settings.output,
            "a dataset",
            {"files": f"such as {min(there)}"},
            {"files": f"such as {splits[0].file.name}"},
        )


def _names(about: Mapping[str, Any]) -> set[str]:
    return {file["file"] for file in about["files"]}


def finished(
    splits: Sequence[EntryRange], settings: Settings, retry_quarantined: bool
) -> list[TaskRecord]:
    """Records of earlier runs that hold: of present files as they are now, with their fragment, each share once.

    Parameters
    ----------
    splits : sequence of EntryRange
        All that the dataset is to hold.
    settings : Settings
    retry_quarantined : bool
        Forget the tasks that lost something; those that lost it to the file system or a dying worker are forgotten in any case.
    """
    wanted = {split.key for split in splits}
    records = []
    for path in sorted((settings.output / RECORDS).glob("*.json")):
        record = TaskRecord.from_dict(read_json(path))
        keys = {share.range.key for share in record.ranges}
        same_settings = record.key == settings.task_key([share.range for share in record.ranges])
        again = any(
            share.transient or (share.lost and retry_quarantined) for share in record.ranges
        )
        if keys <= wanted and same_settings and _has_fragment(record, settings) and not again:
            records.append(record)
            wanted -= keys
    return records


def prepare(output: Path) -> None:
    """Make the folders, and remove what killed tasks left half-written.

    Raises
    ------
    DataError
        The folder holds something else, which would be swept away.
    """
    records, about = output / RECORDS, read_marker(output)
    ours = records.is_dir() if about is None else "fragments" in about
    if (
        not ours
        and (other := next((path for path in output.glob("*") if path.name[0] not in "._"), None))
        is not None
    ):
        raise DataError(
            f"{output}: not a dataset of `hepflow ingest`, as it holds {other.name}. Give a new or an empty folder as --output."
        )
    records.mkdir(parents=True, exist_ok=True)
    for left_over in (*output.glob("*/.*.part"), *records.glob(".*.now")):
        left_over.unlink(missing_ok=True)


def commit(
    records: Sequence[TaskRecord], splits: Sequence[EntryRange], settings: Settings
) -> dict[str, Any]:
    """Make the records the dataset: replace ``_hepflow.json``, then remove what it does not name.

    Returns
    -------
    dict
        What ``_hepflow.json`` says now.

    Raises
    ------
    DataError
        Nothing passed, every file is bad, or one file is there twice. The dataset of the run before stays.
    """
    files = _files(records)
    _check_identity(files)
    ledger = total(share.ledger for record in records for share in record.ranges).check()
    if ledger.n_out == 0:
        for record in records:
            settings.record_path(record.key).unlink(missing_ok=True)
        raise DataError(_nothing(files, ledger, settings))
    about = {
        "schema_version": EVENTS_SCHEMA_VERSION,
        "classes": list(settings.classes),
        "tree": settings.access.tree,
        "provenance": digest(
            settings.key,
            [
                [f[key] for key in ("file", "class", "uuid", "size", "kept", "reasons")]
                for f in files
            ],
        ),
        "listing": listing_hash(splits, settings),
        "ledger": ledger.to_dict(),
        "n_events": ledger.n_out,
        "fragments": sorted(record.fragment for record in records if record.fragment),
        "files": files,
    }
    before = manifest(settings.output)
    gone = _names(before) - _names(about) if before else set()
    if gone:
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


def remove_empty(output: Path, classes: Iterable[str]) -> None:
    """Remove the folders of a run that wrote nothing; with a fragment there the records' stays, as it tells whose dataset this is."""
    folders = [output / name for name in (*classes, RECORDS)]
    with contextlib.suppress(OSError):  # one holds something
        for folder in folders:
            if folder.is_dir():
                folder.rmdir()


def sweep(about: Mapping[str, Any], output: Path) -> None:
    """Remove fragments that the manifest does not name: of changed files, or of runs that died."""
    live = {output / name for name in about["fragments"]}
    for path in output.glob("*/*.parquet"):
        if path not in live:
            path.unlink(missing_ok=True)


def _has_fragment(record: TaskRecord, settings: Settings) -> bool:
    if record.fragment is None:
        return True
    path = settings.output / record.fragment
    return path.is_file() and path.stat().st_size == record.bytes_written


def _files(records: Iterable[TaskRecord]) -> list[dict[str, Any]]:
    """One row a source file: entries in, kept, rejected and lost, by reason."""
    shares: dict[tuple[str, str], list[RangeRecord]] = defaultdict(list)
    for record in records:
        for share in record.ranges:
            shares[share.range.file.class_name, share.range.file.name].append(share)
    return [
        _file(sorted(group, key=lambda share: share.range.index))
        for _, group in sorted(shares.items())
    ]


def _file(shares: Sequence[RangeRecord]) -> dict[str, Any]:
    file = shares[0].range.file
    ledger = total(share.ledger for share in shares).check()
    told = {(share.uuid, share.n_entries) for share in shares if share.n_entries is not None}
    if len(told) > 1:
        raise DataError(
            f"{file.path}: it changed while it was read. Run the same command again when it is complete."
        )
    uuid, n_entries = told.pop() if told else (None, None)
    reasons: dict[str, int | None] = {}
    for item in ledger.lost:  # every share of a file that does not open says the same
        reasons[item.reason] = (
            None if item.events is None else (reasons.get(item.reason) or 0) + item.events
        )
    if n_entries != ledger.n_in and None not in reasons.values():
        raise AssertionError(
            f"{file.path}: {n_entries} entries, but its {len(shares)} shares cover {ledger.n_in}"
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
        "transient": any(share.transient for share in shares),
        "filled": sorted({name for share in shares for name in share.filled}),
    }


def _check_identity(files: Sequence[Mapping[str, Any]]) -> None:
    """A file and its copy would give the same events twice."""
    first: dict[str, str] = {}
    for file in files:
        if (
            file["uuid"] is not None
            and first.setdefault(file["uuid"], file["file"]) != file["file"]
        ):
            raise DataError(
                f"{file['file']} is a copy of {first[file['uuid']]} (same UUID): its events would count twice. Remove one and run again."
            )


def _nothing(files: Sequence[Mapping[str, Any]], ledger: Ledger, settings: Settings) -> str:
    bad = [file for file in files if file["reason"]]
    if len(bad) == len(files):
        return f"all {len(files)} files are bad, nothing written to {settings.output}; the first, {bad[0]['file']}: {bad[0]['reason']}"
    return f"no event passes, nothing written to {settings.output} ({ledger.summary()}). Are these the right files?"
