"""Spark's checkpoint of a query, as a power cut may leave it: Spark flushes none of its files.

    offsets/N     what micro-batch N reads, written before it begins
    commits/N     written after its end
    .N.crc        checksum of N, in the same folder

What a micro-batch reads is flushed here before its record is written. So a file that was torn is
the last one of its folder, and of a micro-batch without a record, or a commit: without it, Spark
plans that micro-batch again, or gives it to a sink that has its record and skips it.
"""

import json
import logging
from pathlib import Path

from hepflow.system import durable
from hepflow.system.storage import listed, remove_all

log = logging.getLogger(__name__)
_FOLDERS = ("offsets", "commits")


def flush_all(checkpoint: Path) -> None:
    """Return when all files of a checkpoint are on the disk."""
    for folder in (checkpoint, *(path for path in checkpoint.rglob("*") if path.is_dir())):
        durable.flush_below(folder)


def flush_plan(checkpoint: Path, number: int) -> None:
    """Return when the plan of a micro-batch, and the commit of the one before, are on the disk."""
    for name, own in zip(_FOLDERS, (number, number - 1), strict=True):
        for path in (checkpoint / name / str(own), checkpoint / name / f".{own}.crc"):
            if path.is_file():
                durable.flush_file(path)
        if (checkpoint / name).is_dir():
            durable.flush_folder(checkpoint / name)


def repair(checkpoint: Path, last: int) -> None:
    """Remove the torn files of a checkpoint, whose last micro-batch with a record is ``last``."""
    for name in _FOLDERS:
        numbers = [int(path.name) for path in listed(checkpoint / name) if path.name.isdecimal()]
        if not numbers:
            continue
        path = checkpoint / name / str(max(numbers))
        checksum = path.with_name(f".{path.name}.crc")
        if not _is_whole(path) and (name == "commits" or max(numbers) > last):
            log.warning("%s: incomplete, after a power cut; it is removed", path)
            remove_all([path, checksum])
        elif checksum.is_file() and not checksum.read_bytes().startswith(b"crc\0"):
            remove_all([checksum])


def _is_whole(path: Path) -> bool:
    """Return whether a file is a line with a version, and lines of JSON."""
    try:
        version, *lines = path.read_text().splitlines()
        return version == "v1" and bool(lines) and all(map(_is_json, lines))
    except ValueError:  # empty, or zeros
        return False


def _is_json(line: str) -> bool:
    if line == "-":  # a source without offsets
        return True
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
