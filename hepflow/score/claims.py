"""Claims: which of several files with the same identity is scored. The others are its copies.

    _claims/UUID              name of the file, by the worker that came first
    _claims/RUN-000000.json   UUID -> name of the files that were scored before the run
    _claims/RUN-000001.json   of those scored since; null: nobody has the events any more

The driver merges the claims of finished tasks now and then: the merged file comes first, then the
claims in it go. So a worker claims first, and then reads merged files that it has not read: they
take precedence. After a run there are no claims, as its records have the identities.

The first merged file is also the mark of a run: a worker that has outlived its run does not find it
and writes nothing.
"""

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from hepflow.errors import DataError
from hepflow.system.files import read_json, write_json
from hepflow.system.publishing import claim
from hepflow.system.storage import listed, read_text, remove, remove_all

CLAIMS = "_claims"


def merged_path(output: Path, run: str, number: int) -> Path:
    """Return the path of a merged file of a run."""
    return output / CLAIMS / f"{run}-{number:06d}.json"


def remove_claims(output: Path) -> None:
    """Remove all claims and the mark of the run: workers that are left write nothing more."""
    remove_all(listed(output / CLAIMS))


class MergedClaims:
    """Claims of a run that the driver has merged."""

    def __init__(self, output: Path, run: str) -> None:
        self.output, self.run = output, run
        self._n = 0
        self._since: dict[str, str | None] = {}

    def __len__(self) -> int:
        return len(self._since)

    def __setitem__(self, identity: str, name: str | None) -> None:
        self._since[identity] = name

    def write(self) -> None:
        """Write what was set since the last time, and remove these claims."""
        write_json(merged_path(self.output, self.run, self._n), self._since)
        if self._n:  # the first one is written when there are no others
            remove_all(self.output / CLAIMS / identity for identity in self._since)
        self._n += 1
        self._since = {}


class Claims:
    """Claims of a run, as its workers make them."""

    def __init__(self, output: Path, run: str) -> None:
        self.output, self.run = output, run
        self._n = 0
        self._merged: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def owner(self, identity: str, name: str) -> str:
        """Claim the events of a file for ``name``, and return who has them: it, or another file."""
        path = self.output / CLAIMS / identity
        while True:
            if claimed := claim(path, name):
                said = name
            else:
                try:
                    said = read_text(path)
                except OSError:  # XRootD's has no type for a missing file
                    if path.exists():
                        raise
                    continue  # it was merged
            owner = self._read_merged().get(identity) or said
            if claimed and owner != name:
                remove(path)
            return owner

    def require_run(self) -> None:
        """Raise a DataError if the run of this worker is over."""
        if not merged_path(self.output, self.run, 0).exists():
            what = "another run has begun, or removed the scores, and this worker is of an earlier"
            raise DataError(f"{self.output}: {what}. Run the same command again.")

    def _read_merged(self) -> Mapping[str, str | None]:
        with self._lock:
            while (path := merged_path(self.output, self.run, self._n)).exists():
                self._merged |= read_json(path)
                self._n += 1
            if not self._n:
                self.require_run()
            return self._merged


@lru_cache(maxsize=1)
def claims_of(output: Path, run: str) -> Claims:
    """Return the claims of this process."""
    return Claims(output, run)
