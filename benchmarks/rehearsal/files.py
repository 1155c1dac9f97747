"""``rehearsal://``: a file system of any number of small ROOT files, which count as large ones.

All are a template with another UUID, so that a listing of 100,000 takes no disk, and each file has
events of its own. Behind the template's end come zeros up to the stated size. One file in a hundred
may be damaged, in the ways of `DAMAGES`.

    rehearsal://raw/qcd/000000.root ... rehearsal://raw/wjets/099999.root

Each process reads it in its own memory. `installed` makes fsspec find it in all processes that
inherit an environment: drivers, Spark's Python workers, and Dask's.
"""

import io
import json
import os
import time
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import awkward as ak
import fsspec
import generated
import uproot

from hepflow.simulate.writer import write_events

DAMAGES = ("truncated", "empty", "no ROOT", "no tree", "a corrupt basket")
ONE_IN = 100
"""One file of so many is damaged."""
TEMPLATE = "template"
_PAGE, _PAGE_S = 1000, 0.03  # names per answer of a listing, and its time, as on S3
_TIMES = 1_790_000_000.0


class RehearsalFiles(fsspec.AbstractFileSystem):
    """The files, read-only.

    Parameters
    ----------
    folder : str
        Folder of the template, see `write_template`.
    n_files : int
        Number of files.
    stated_bytes : int
        Size of an undamaged file.
    classes : Mapping[str, int] | None
        Share of each class in the files; default: equal ones.
    damaged : bool
        Whether one file in a hundred is damaged.
    """

    protocol = "rehearsal"
    cachable = True

    def __init__(
        self,
        folder: str,
        n_files: int,
        stated_bytes: int = 100_000_000,
        classes: Mapping[str, int] | None = None,
        damaged: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._folder, self._n_files, self._bytes = Path(folder), n_files, stated_bytes
        self._damaged = damaged
        shares = classes or dict.fromkeys(generated.CLASSES, 1)
        first, before, total = 0, 0, sum(shares.values())
        self._numbers: dict[str, range] = {}
        for name, share in shares.items():
            before += share
            last = n_files * before // total
            self._numbers[name], first = range(first, last), last

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder, in pages that take time."""
        path = self._strip_protocol(path)
        top, *below = path.split("/")
        if not below:
            kinds = {"size": 0, "type": "directory"}
            found = [{"name": f"{top}/{name}", **kinds} for name in self._numbers]
        elif below[0] in self._numbers and len(below) == 1:
            numbers = self._numbers[below[0]]
            time.sleep(_PAGE_S * -(-len(numbers) // _PAGE))
            found = [self._info(f"{path}/{i:06d}.root", i) for i in numbers]
        else:
            found = [self.info(path)]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Describe a file or folder."""
        path = self._strip_protocol(path)
        parts = path.split("/")
        if len(parts) == 3:
            number = self.number_of(path)
            if number in self._numbers.get(parts[1], ()):
                return self._info(path, number)
        if len(parts) == 1 or (len(parts) == 2 and parts[1] in self._numbers):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def number_of(self, path: str) -> int:
        """Return the number of a file."""
        return int(path.rpartition("/")[2].removesuffix(".root"))

    def identity_of(self, path: str) -> bytes:
        """Return the UUID of a file."""
        return self.number_of(path).to_bytes(16, "big")

    def damage_of(self, number: int) -> str:
        """Return the damage of a file, or nothing."""
        every, own = divmod(number, ONE_IN)
        return DAMAGES[every % len(DAMAGES)] if self._damaged and own == 0 else ""

    def _info(self, path: str, number: int) -> dict[str, Any]:
        size, damage = max(self._bytes, len(_template(self._folder)[0])), self.damage_of(number)
        if damage in DAMAGES[:3]:
            size = len(self._content(path))
        changed = _TIMES + bool(damage)  # later than the whole file
        return {"name": path, "size": size, "type": "file", "mtime": changed}

    def _content(self, path: str) -> bytes:
        content, about = _template(self._folder)
        content = content.replace(bytes.fromhex(about["uuid"]), self.identity_of(path))
        damage = self.damage_of(self.number_of(path))
        if damage == "truncated":
            return content[: len(content) // 2]
        if damage == "empty":
            return b""
        if damage == "no ROOT":
            return b"<html>404</html>" * 100
        if damage == "no tree":
            return content.replace(b"Delphes", b"Delphis")
        if damage:
            start, stop = about["basket"]
            return content[:start] + b"\xff" * (stop - start) + content[stop:]
        return content

    def _open(self, path: str, mode: str = "rb", **_: Any) -> "_Padded":
        assert mode == "rb"
        return _Padded(self._content(path), self.info(path)["size"])


class _Padded(io.BytesIO):
    """Content, then zeros up to a size."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self._size = size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset, whence = self._size + offset, io.SEEK_SET
        return super().seek(offset, whence)

    def read(self, n: int | None = -1) -> bytes:
        left = max(0, self._size - self.tell())
        wanted = left if n is None or n < 0 else min(n, left)
        found = super().read(wanted)
        self.seek(wanted - len(found), io.SEEK_CUR)
        return found + bytes(wanted - len(found))


@cache
def _template(folder: Path) -> tuple[bytes, dict[str, Any]]:
    content = (folder / f"{TEMPLATE}.root").read_bytes()
    return content, json.loads((folder / f"{TEMPLATE}.json").read_text())


def n_damaged(n_files: int) -> int:
    """Return the number of damaged files, if some are damaged."""
    return -(-n_files // ONE_IN)


def write_template(folder: Path, n_events: int) -> None:
    """Write the template: events of three particles per kind, three in four with a hard lepton."""
    folder.mkdir(parents=True, exist_ok=True)
    found = generated.events(n_events)
    few = {name: found[name][:, :3] for name in found.fields}
    n_hard, electrons = -(-3 * n_events // 4), few["Electron"]
    few["Electron"] = ak.concatenate([electrons[:n_hard], electrons[n_hard:, :0]])
    path, identity = folder / f"{TEMPLATE}.root", uuid.UUID(int=0xBEEF << 64)
    write_events(path, few, identity)
    with uproot.open(path) as file:
        branch = file["Delphes"]["EFlowTrack.PT"]
        first, n_bytes = (int(branch.member(f"fBasket{what}")[0]) for what in ("Seek", "Bytes"))
    about = {"uuid": identity.hex, "basket": [first, first + n_bytes]}
    path.with_suffix(".json").write_text(json.dumps(about))


def installed(folder: Path) -> dict[str, str]:
    """Return an environment whose processes find the file system, as that of a package."""
    package = folder / "rehearsal-1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: rehearsal\nVersion: 1\n")
    entry = "[fsspec.specs]\nrehearsal = rehearsal.files:RehearsalFiles\n"
    (package / "entry_points.txt").write_text(entry)
    path = (str(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
