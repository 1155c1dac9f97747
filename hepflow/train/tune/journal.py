"""The journal of a search, to which all its workers append: a file on a disk.

That of a search on a remote store, which cannot append, is a copy in the work folder that is put
back after every trial.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from hepflow.config.tools import TuneConfig
from hepflow.errors import ConfigError
from hepflow.system.publishing import put, scratch
from hepflow.system.remote import is_remote
from hepflow.system.storage import read_bytes
from hepflow.system.store_options import WORK_DIR

JOURNAL = "study.journal"


def local_journal(config: TuneConfig, stack: ExitStack) -> Path:
    """Return the journal's path on a disk; the stack puts a copy back and removes it."""
    journal = config.output / JOURNAL
    if not is_remote(journal):
        return journal.absolute()
    if config.cluster.kind != "local" and WORK_DIR not in os.environ:
        why = "the workers of a search write to one journal, and a remote store cannot append"
        advice = "Give --work-dir, a folder on a disk that all nodes share."
        raise ConfigError(f"{config.output}: {why}. {advice}")
    folder = stack.enter_context(TemporaryDirectory(dir=scratch()))
    here = Path(folder) / JOURNAL
    if journal.is_file():
        here.write_bytes(read_bytes(journal))
    stack.callback(keep, here, config)
    return here


def keep(journal: Path, config: TuneConfig) -> None:
    """Put a copy back, up to its last whole line: a worker may be writing another."""
    if is_remote(config.output) and journal.is_file():
        lines = journal.read_bytes()
        put(config.output / JOURNAL, lines[: lines.rfind(b"\n") + 1])
