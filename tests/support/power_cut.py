"""What may be left of a folder if its writers die, or the power is cut, after any of its changes.

For each prefix of the recorded changes (`tests.support.recorded_folder`), the folders are made that
three kinds of death may leave, each of them once:

    kind      names of files and folders                 data of a file
    killed    as they were                               as it was
    journal   as they were                               until its last fsync; what came after it is
                                                         missing, torn in the middle, or zeros
    posix     those in folders that were synced since;   until its last fsync, or as it was
              of a few others every choice is lost,
              of more all, or each alone

*Killed* is `kill -9` of all processes: the kernel has all changes. *Journal* is a power cut on
ext4, XFS and alike, which record names in order, and data when they like: a rename may be on the
disk before the data of the file, which is the classic empty file. That names are older than data is
the state of an earlier prefix. *Posix* is the least that is promised: a name is on the disk once
its folder was synced; a rename, once one of its two folders was.

Writes to one file that follow each other are one change, which may be torn.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from tests.support.recorded_folder import Change, Recording

Tree = Mapping[str, bytes | None]
"""Path -> content; None: a folder."""
Names = Sequence[tuple[int, str, int | None]]
FEW = 4
DRAFT = re.compile(r"\.[0-9a-f]{32}\.part$")


class _File:
    """Content of a file, and what of it is on the disk."""

    def __init__(self) -> None:
        self.synced, self.since = b"", list[tuple[int, bytes] | int]()
        self._left: dict[str, bytes] = {}

    def change(self, change: tuple[int, bytes] | int) -> None:
        self.since.append(change)
        self._left.clear()

    def sync(self) -> None:
        self.synced, self.since = self.left("whole"), []
        self._left.clear()

    def left(self, how: str) -> bytes:
        if not self.since:
            return self.synced
        if how not in self._left:
            self._left[how] = self._made(how)
        return self._left[how]

    def _made(self, how: str) -> bytes:
        if how == "missing":
            return self.synced
        if how == "zeros":
            whole = self.left("whole")
            return self.synced[: len(whole)].ljust(len(whole), b"\0")
        n_bytes = sum(len(one[1]) for one in self.since if not isinstance(one, int))
        room, content = n_bytes if how == "whole" else n_bytes // 2, bytearray(self.synced)
        for one in self.since:
            if isinstance(one, int):
                content = content[:one].ljust(one, b"\0")
                continue
            offset, data = one[0], one[1][:room]
            room -= len(data)
            if data:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
        return bytes(content)


class Disk:
    """A folder after some changes, and what of it would survive."""

    def __init__(self) -> None:
        self.files: dict[int, _File] = {}
        self.folders = {0}
        self.names: list[tuple[Names, bool]] = []  # and whether they are on the disk

    def change(self, change: Change) -> None:
        """Make a change."""
        kind, what, *rest = change
        if kind == "names":
            self.names.append((what, False))
        elif kind == "folder":
            self.folders.add(what)
        elif kind == "data":
            self._file(what).change((rest[0], rest[1]))
        elif kind == "size":
            self._file(what).change(rest[0])
        else:
            self._file(what).sync()
            self.names = [
                (entries, done or any(folder == what for folder, _, _ in entries))
                for entries, done in self.names
            ]

    def _file(self, number: int) -> _File:
        return self.files.setdefault(number, _File())

    def left(self) -> Iterator[tuple[str, Tree]]:
        """Yield what each kind of death may leave."""
        every = [entries for entries, _ in self.names]
        yield "killed", self._tree(every, "whole")
        if any(file.since for file in self.files.values()):
            for how in ("missing", "torn", "zeros"):
                yield f"journal, data {how}", self._tree(every, how)
        loose = [i for i, (_, done) in enumerate(self.names) if not done]
        for lost in _choices(loose):
            names = [entries for i, entries in enumerate(every) if i not in lost]
            for how in ("missing", "whole"):
                yield f"posix, {len(lost)} names lost, data {how}", self._tree(names, how)

    def _tree(self, names: Iterable[Names], how: str) -> Tree:
        folders: dict[int, dict[str, int]] = {}
        for entries in names:
            for folder, name, number in entries:
                if number is None:
                    folders.setdefault(folder, {}).pop(name, None)
                else:
                    folders.setdefault(folder, {})[name] = number
        tree: dict[str, bytes | None] = {}

        def enter(folder: int, above: str) -> None:
            for name, number in folders.get(folder, {}).items():
                path = f"{above}{name}"
                if number in self.folders:
                    tree[path] = None
                    enter(number, f"{path}/")
                else:
                    tree[path] = self._file(number).left(how)

        enter(0, "")
        return tree


def _choices(loose: Sequence[int]) -> Iterator[set[int]]:
    """Yield which names are lost: each choice of a few; of many all, or each alone."""
    n = len(loose)
    for size in range(1, n + 1) if n <= FEW else (1, n):
        yield from map(set, combinations(loose, size))


class CrashStates(NamedTuple):
    """What deaths of a stage may leave."""

    n_deaths: int
    """Number of them: moments, and choices of what is lost."""
    left: list[tuple[str, Tree]]
    """The first death that leaves a folder, and the folder: each one once."""


def crash_states(recording: Recording, *, drafts: bool) -> CrashStates:
    """Return what may be left at any moment.

    Without ``drafts``, folders that differ only in these are one: a run removes them first.
    """
    changes, disk, n_deaths = recording.changes, Disk(), 0
    found: dict[frozenset[tuple[str, bytes | None]], tuple[str, Tree]] = {}
    for k, change in enumerate(changes):
        disk.change(change)
        after = changes[k + 1][:2] if k + 1 < len(changes) else None
        if change[0] == "folder" or k + 1 < recording.n_before:
            continue
        if change[0] == "data" and after == change[:2]:
            continue  # torn, if it is not whole
        for how, tree in disk.left():
            n_deaths += 1
            key = frozenset(one for one in tree.items() if drafts or not DRAFT.search(one[0]))
            found.setdefault(key, (f"change {k + 1 - recording.n_before}, {how}", tree))
    return CrashStates(n_deaths, list(found.values()))


def last_state(recording: Recording) -> Tree:
    """Return what is there after all changes."""
    disk = Disk()
    for change in recording.changes:
        disk.change(change)
    return next(tree for _, tree in disk.left())


def write_tree(tree: Tree, folder: Path) -> Path:
    """Make a folder of that content."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    return folder


def tree_of(folder: Path) -> Tree:
    """Return the content of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
