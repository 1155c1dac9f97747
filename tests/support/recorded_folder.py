"""A folder of which every change is recorded in order, whoever makes it: a FUSE file system.

It passes each operation on to another folder, one at a time, in a process of its own. So it records
what Python, pyarrow's C++, zarr, torch and all their processes do, and what they sync.

    ("names", ((folder, name, file), ...))    entries of folders, at once; None: the name is gone
    ("data", file, offset, content)
    ("size", file, n_bytes)
    ("folder", file)                          the number is that of a folder
    ("sync", file)                            of a file, or of the entries of a folder

Files and folders are numbers; the top folder is 0. Not recorded are times, owners and modes.
"""

import contextlib
import errno
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Change = tuple[Any, ...]
HIDDEN = ".fuse_hidden"  # name that libfuse gives a file that is removed while it is open


@dataclass
class Recording:
    """Changes of a folder, of which the first ones made what it held before."""

    changes: list[Change] = field(default_factory=list)
    n_before: int = 0


def why_not() -> str | None:
    """Return why this machine cannot record a folder, if so."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse that this user may open"
    if not _fusermount():
        return "no fusermount3 (Debian package fuse3)"
    try:
        import mfusepy  # noqa: F401, PLC0415
    except (ImportError, OSError) as error:  # the package, or the library that it calls
        return f"mfusepy: {error}"
    return None


def _fusermount() -> str | None:
    return shutil.which("fusermount3") or shutil.which("fusermount")


@contextlib.contextmanager
def recorded(kept: Path, seen: Path) -> Iterator[Recording]:
    """Show the folder ``kept`` as ``seen``; the recording is there after the block."""
    recording, log = Recording(), kept.with_name(f"{kept.name}.changes")
    seen.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __name__, str(kept), str(seen), str(log)]
    outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **outputs)
    try:
        deadline = time.monotonic() + 60
        while not seen.is_mount():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no mount"
            time.sleep(0.01)
        yield recording
    finally:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:  # a worker has a file open
            how = "-u" if time.monotonic() < deadline - 5 else "-uz"
            unmount = [str(_fusermount()), how, str(seen)]
            subprocess.run(unmount, check=False, capture_output=True)
            time.sleep(0.05)
        if process.poll() is None:
            process.terminate()
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    with log.open("rb") as file:
        recording.changes, recording.n_before = pickle.load(file)
    log.unlink()


def _serve(kept: Path, seen: str, log: Path) -> None:  # noqa: C901 - an operation each
    import mfusepy as fuse  # noqa: PLC0415 - not on every machine

    def at(path: str) -> Path:
        return kept / path.lstrip("/")

    class Recorder(fuse.Operations):  # type: ignore[misc, name-defined]
        use_ns = True

        def __init__(self) -> None:
            self.changes: list[Change] = []
            self.numbers = {kept.stat().st_ino: 0}
            self.last = 0
            for path in sorted(kept.rglob("*")):
                self._made(f"/{path.relative_to(kept).as_posix()}")
                if path.is_file():
                    self.changes.append(("data", self.last, 0, path.read_bytes()))
            self.changes += [("sync", number) for number in range(self.last + 1)]
            self.n_before = len(self.changes)

        def _number(self, path: str) -> int:
            return self.numbers[at(path).lstat().st_ino]

        def _entry(self, path: str, number: int | None) -> tuple[int, str, int | None]:
            above, _, name = path.rpartition("/")
            return self._number(above), name, number

        def _made(self, path: str) -> None:
            """Record a new file or folder; the number of one that is gone may be used again."""
            self.last += 1
            self.numbers[at(path).lstat().st_ino] = self.last
            if at(path).is_dir():
                self.changes.append(("folder", self.last))
            self.changes.append(("names", (self._entry(path, self.last),)))

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            about = at(path).lstat() if fh is None else os.fstat(fh)
            keys = ("atime_ns", "ctime_ns", "gid", "mode", "mtime_ns", "nlink", "size", "uid")
            return {f"st_{key.removesuffix('_ns')}": getattr(about, f"st_{key}") for key in keys}

        def statfs(self, path: str) -> dict[str, int]:
            about = os.statvfs(at(path))
            keys = ("bavail", "bfree", "blocks", "bsize", "favail", "ffree", "files", "frsize")
            return {f"f_{key}": getattr(about, f"f_{key}") for key in (*keys, "namemax")}

        def opendir(self, path: str) -> int:
            return os.open(at(path), os.O_RDONLY | os.O_DIRECTORY)

        def releasedir(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(fh)]

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            new = not os.path.lexists(at(path))
            opened = os.open(at(path), os.O_RDWR | os.O_CREAT, mode)
            if new:
                self._made(path)
            return opened

        def open(self, path: str, flags: int) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            opened = os.open(at(path), os.O_RDWR if writes else os.O_RDONLY)
            if flags & os.O_TRUNC:
                self._cut(opened, 0)
            return opened

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            number = self.numbers[os.fstat(fh).st_ino]
            self.changes.append(("data", number, offset, bytes(data)))
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            opened = os.open(at(path), os.O_RDWR)
            self._cut(opened, length)
            os.close(opened)
            return 0

        def _cut(self, opened: int, length: int) -> None:
            os.ftruncate(opened, length)
            self.changes.append(("size", self.numbers[os.fstat(opened).st_ino], length))

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            self.changes.append(("sync", self.numbers[os.fstat(fh).st_ino]))
            return 0

        def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
            return self.fsync(path, datasync, fh)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            at(path).mkdir(mode)
            self._made(path)
            return 0

        def rename(self, old: str, new: str) -> int:
            gone, entry = self._entry(old, None), self._entry(new, self._number(old))
            entries = (gone,) if entry[1].startswith(HIDDEN) else (gone, entry)
            at(old).rename(at(new))
            hidden = "names", ((*entry[:2], None),)  # the file that was there, if it is open
            if self.changes[-1] == hidden:
                self.changes.pop()
            self.changes.append(("names", entries))
            return 0

        def link(self, target: str, source: str) -> int:
            at(target).hardlink_to(at(source))
            self.changes.append(("names", (self._entry(target, self._number(target)),)))
            return 0

        def unlink(self, path: str) -> int:
            entry = self._entry(path, None)
            at(path).unlink()
            if not entry[1].startswith(HIDDEN):
                self.changes.append(("names", (entry,)))
            return 0

        def rmdir(self, path: str) -> int:
            entry = self._entry(path, None)
            at(path).rmdir()
            self.changes.append(("names", (entry,)))
            return 0

        def symlink(self, target: str, source: str) -> int:
            raise fuse.FuseOSError(errno.EPERM)

        def chmod(self, path: str, mode: int) -> int:
            at(path).chmod(mode)
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            os.utime(at(path), **({"ns": times} if times else {}))
            return 0

    recorder = Recorder()
    fuse.FUSE(recorder, seen, fsname="hepflow-tests", foreground=True, nothreads=True)
    with log.open("wb") as file:
        pickle.dump((recorder.changes, recorder.n_before), file)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
