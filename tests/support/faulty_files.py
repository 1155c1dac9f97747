"""``faulty://``: the files of this machine, of which reads fail, take long, or come back short.

``HEPFLOW_TEST_FAULTS`` says which, in all processes that inherit it: every so many of
those that were not asked for before, and byte ranges that always fail.
"""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractBufferedFile
from upath.registry import register_implementation

from hepflow.system.places import ServerPath

FAULTS = "HEPFLOW_TEST_FAULTS"
SLOW_S = 0.3
met = Counter[str]()
"""Kind of fault -> how often it happened in this process."""
_of_file = Counter[str]()
_asked = set[tuple[str, Any, Any]]()


def described(
    kind: str = "fail", rate: float = 0.0, most: int = 3, always: dict[str, Any] | None = None
) -> str:
    """Return the value of `FAULTS`.

    Parameters
    ----------
    kind : str
        fail, slow or short.
    rate : float
        Share of the reads.
    most : int
        Faults per file at most.
    always : dict
        End of a path -> first byte, and the one past the last, that cannot be read.
    """
    return json.dumps({"kind": kind, "rate": rate, "most": most, "always": always or {}})


def forget() -> None:
    """Begin again in this process."""
    met.clear()
    _asked.clear()
    _of_file.clear()


class FaultyFiles(AsyncFileSystem):
    """The files, read-only."""

    protocol = "faulty"
    root_marker = "/"

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        about = os.stat(path)  # noqa: PTH116 - a path of the store
        kind = "directory" if Path(path).is_dir() else "file"
        return {"name": path, "size": about.st_size, "type": kind, "mtime": about.st_mtime}

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        names = [f"{path}/{name}" for name in sorted(os.listdir(path))]  # noqa: PTH208
        return [await self._info(name) for name in names] if detail else names

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        content = Path(path).read_bytes()[start:end]
        about = json.loads(os.environ.get(FAULTS, "null"))
        return await _with_fault(about, path, start, end, content) if about else content

    def _open(self, path: str, mode: str = "rb", **options: Any) -> "_Stream":
        return _Stream(self, path, mode, **options)


class _Stream(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start=start, end=end))


async def _with_fault(
    about: dict[str, Any], path: str, start: int | None, end: int | None, content: bytes
) -> bytes:
    first = start or 0
    for name, (low, high) in about["always"].items():
        if path.endswith(name) and first < high and low < first + len(content):
            met["always"] += 1
            raise OSError("the server hung up")
    key = path, start, end
    new = key not in _asked
    _asked.add(key)
    every = round(1 / about["rate"]) if about["rate"] else 0
    chosen = new and every and len(_asked) % every == min(every // 2, 10)
    if about["kind"] == "short" and start is None:  # the clients of stores compare the length
        chosen = False
    if not chosen or _of_file[path] >= about["most"]:
        return content
    _of_file[path] += 1
    met[about["kind"]] += 1
    if about["kind"] == "fail":
        raise OSError("the server hung up")
    if about["kind"] == "short":
        return content[: len(content) // 2]
    await asyncio.sleep(SLOW_S)
    return content


fsspec.register_implementation("faulty", FaultyFiles, clobber=True)
register_implementation("faulty", ServerPath, clobber=True)  # whose paths workers unpickle


def installed(folder: Path) -> str:
    """Return a PYTHONPATH whose processes find the file system, as that of a package."""
    package = folder / "faulty-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    entry = "[fsspec.specs]\nfaulty = tests.support.faulty_files:FaultyFiles\n"
    (package / "entry_points.txt").write_text(entry)
    root = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (str(folder), root, os.environ.get("PYTHONPATH", ""))))
