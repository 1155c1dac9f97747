"""The journal of a search, to which all its workers append: a file on a disk.

That of a search on a remote store, which cannot append, is a copy in the work folder that is put
back after every trial.
"""

import json
import logging
import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optuna.storages.journal import JournalFileBackend

from hepflow.config.tools import TuneConfig
from hepflow.errors import ConfigError, DataError
from hepflow.system import seal
from hepflow.system.publishing import put, scratch
from hepflow.system.remote import is_remote
from hepflow.system.storage import read_bytes
from hepflow.system.store_options import WORK_DIR

log = logging.getLogger(__name__)

JOURNAL = "study.journal"


def local_journal(config: TuneConfig, stack: ExitStack) -> Path:
    """Return the journal's path on a disk; the stack puts a copy back and removes it."""
    journal = config.output / JOURNAL
    if not is_remote(journal):
        _cut_damaged_end(journal)
        return journal.absolute()
    if config.cluster.kind != "local" and WORK_DIR not in os.environ:
        why = "the workers of a search write to one journal, and a remote store cannot append"
        advice = "Give --work-dir, a folder on a disk that all nodes share."
        raise ConfigError(f"{config.output}: {why}. {advice}")
    folder = stack.enter_context(TemporaryDirectory(dir=scratch()))
    here = Path(folder) / JOURNAL
    if journal.is_file():
        here.write_bytes(read_bytes(journal))
        _cut_damaged_end(here)
    stack.callback(keep, here, config)
    return here


def keep(journal: Path, config: TuneConfig) -> None:
    """Put a copy back, up to its last whole line: a worker may be writing another."""
    if is_remote(config.output) and journal.is_file():
        lines = journal.read_bytes()
        put(config.output / JOURNAL, lines[: lines.rfind(b"\n") + 1])


class CheckedJournal(JournalFileBackend):
    """Optuna's journal with a checksum in each line; lines of earlier versions have none."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines."""
        plain = json.loads(json.dumps(logs))  # as they will be read
        super().append_logs([{**log, seal.KEY: _checksum(log)} for log in plain])

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield lines."""
        try:
            for log in super().read_logs(log_number_from):
                yield _checked(log)
        except ValueError as error:
            what = f"damaged, or changed since it was written ({error})"
            advice = "Remove it to search from the start, or choose another --output."
            raise DataError(f"{self._file_path}: {what}. {advice}") from error


def _cut_damaged_end(journal: Path) -> None:
    """Remove damaged lines at the end of a journal: a power cut may leave half a line.

    Optuna would ignore such a line, and append the next one to it.
    """
    content = journal.read_bytes() if journal.is_file() else b""
    end = len(content)
    while end and not _is_whole(content[content.rfind(b"\n", 0, end - 1) + 1 : end]):
        end = content.rfind(b"\n", 0, end - 1) + 1
    if end < len(content):
        log.warning("%s: its end is damaged and is cut off; trials in it run again", journal)
        put(journal, content[:end])


def _is_whole(line: bytes) -> bool:
    try:
        _checked(dict(json.loads(line)))
    except (ValueError, TypeError):
        return False
    return line.endswith(b"\n")


def _checked(line: dict[str, Any]) -> dict[str, Any]:
    if line.pop(seal.KEY, None) not in (None, _checksum(line)):
        raise ValueError("the checksum of a line is wrong")
    return line


def _checksum(line: Mapping[str, Any]) -> str:
    content = {name: value for name, value in line.items() if name != seal.KEY}
    return seal.text_of(json.dumps(content, sort_keys=True).encode())
