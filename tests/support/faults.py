"""Kill the work of this process at its k-th change of the file system, for every k.

Python announces each change (a file opened for writing, a folder made, a rename, a removal) to
audit hooks before it happens. From the k-th change in a folder on, the hook raises `Died`, also
for the clean-up that would follow: so the folder is left as after ``kill -9``.

Files that Arrow writes are opened in C++ and not seen; they are drafts that a rename, which is
seen, puts in their place.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

CHANGES = {
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
}


class Died(BaseException):
    """The process is dead: nothing may be done after it, and nothing may catch it."""


class Fault:
    """The state of the one hook, as hooks cannot be removed."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.left = 0
        self.made: list[tuple[str, Path]] | None = None
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)):  # not the number of an open file
            place = os.fsdecode(path)
            # or a name in an open folder, as rmtree removes them
            if place.startswith(self.root) or not Path(place).is_absolute():
                if self.made is not None:
                    at = arguments[1] if event in {"os.rename", "os.link"} else path
                    self.made.append((event, Path(os.fsdecode(at))))
                    return
                if self.left <= 0:
                    raise Died(f"{event} {place}")
                self.left -= 1


FAULT = Fault()


def dies(work: Callable[[Path], object], folder: Path, k: int) -> bool:
    """Do the work on a folder until its change number ``k``; return whether there was one."""
    FAULT.root, FAULT.left = str(folder), k
    try:
        work(folder)
    except Died:
        return True
    finally:
        FAULT.root = None
        for link in Path("/proc/self/fd").iterdir():  # the kernel drops the locks of the dead
            with suppress(OSError):
                if link.readlink().suffix == ".lock" and link.readlink().is_relative_to(folder):
                    os.close(int(link.name))
    return False


def changes_of(work: Callable[[Path], object], folder: Path) -> list[tuple[str, Path]]:
    """Do the work, and return its renames, links and removals in a folder, in order."""
    FAULT.root, FAULT.made = str(folder), []
    try:
        work(folder)
        return [one for one in FAULT.made if one[0] in {"os.rename", "os.link", "os.remove"}]
    finally:
        FAULT.root = FAULT.made = None


def deaths(work: Callable[[Path], object], place: Path, step: int = 1) -> Iterator[Path]:
    """Yield a folder for every k, in which the work died at its change k, to try it again.

    Parameters
    ----------
    step : int
        Distance of the k, where to try all takes too long.
    """
    for k in count(0, step):
        folder = place / f"{k:04d}"
        folder.mkdir(parents=True)
        if not dies(work, folder, k):
            return
        yield folder
