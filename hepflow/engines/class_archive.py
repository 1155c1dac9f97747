"""Java's archive of Spark's classes: unpacked, checked and laid out once, mapped at later starts.

Without it Java does that for 17,000 classes per start, in half of its CPU time. A stream writes it
while it runs, at the lowest priority (35 CPU seconds and 1 GB of memory for 190 MB), and all
sessions of the same user, Java and Spark map it. One that does not fit or is damaged is ignored.
"""

import atexit
import hashlib
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_QUIET = "-Xlog:cds*=off"  # about an archive that does not fit
_CHECKED = ("-XX:+UnlockDiagnosticVMOptions", "-XX:+VerifySharedSpaces", _QUIET)  # its checksums
_MAIN = "org.apache.spark.deploy.SparkSubmit"
_KEPT = 2  # archives per user: an update of Java or Spark makes the older ones useless
_UNFINISHED_S = 3600.0  # after which no process writes a file any more


class ClassArchive:
    """The archive of a Java and a Spark in the user's cache."""

    def __init__(self, java_home: Path, jars: Path) -> None:
        release, files = java_home / "release", sorted(jars.glob("*.jar"))
        about: list[object] = [release.read_text() if release.is_file() else java_home, jars]
        about += [(file.name, (now := file.stat()).st_size, now.st_mtime_ns) for file in files]
        key = hashlib.blake2b(repr(about).encode(), digest_size=8).hexdigest()
        home = os.environ.get("HOME", "")  # none: no archive
        cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache")
        self.path = cache / "hepflow" / "java" / f"spark-{key}"
        self._part = self.path.with_suffix(f".{os.getpid()}.part")
        self._lists: tempfile.TemporaryDirectory[str] | None = None
        self._writer: subprocess.Popen[bytes] | None = None

    def options(self, *, lists: bool) -> Sequence[str]:
        """Return options of Java: to map the archive, or (``lists``) to list classes for one."""
        for found in self.path.parent.glob(f"{self.path.name}-*.jsa"):
            # Java checks sums, but crashes if the end of the file is missing.
            is_whole = found.stem == f"{self.path.name}-{found.stat().st_size}"
            if is_whole and _is_private(self.path.parent) and _is_private(found):
                with suppress(OSError):
                    os.utime(found)  # it is in use
                return [*_CHECKED, f"-XX:SharedArchiveFile={found}"]
        if not lists:
            return []
        self._lists = tempfile.TemporaryDirectory(prefix="hepflow-java-")
        return [f"-XX:DumpLoadedClassList={self._lists.name}/classes", _QUIET]

    def write(self, java: int) -> None:
        """Start to write the archive, with the classes that a process of Java has loaded.

        It is renamed into place, with its size in the name, so several processes may do so at once.
        The end of this process ends it.
        """
        if self._lists is None or self._writer is not None:
            return
        with suppress(OSError):  # no room, no /proc
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(self.path.parent):
                return
            self._remove_others()
            words = Path(f"/proc/{java}/cmdline").read_text().split("\0")
            own = words[: words.index(_MAIN)]
            own = [word for word in own if not word.startswith("-XX:DumpLoadedClassList=")]
            own += ["-Xshare:dump", f"-XX:SharedClassListFile={self._lists.name}/classes"]
            own.append(f"-XX:SharedArchiveFile={self._part}")
            move = 'to=$1; shift; "$@" && sync "$0" && mv -f "$0" "$to-$(wc -c < "$0").jsa"'
            renamed = ["sh", "-c", move]
            renamed += [str(self._part), str(self.path)]
            self._writer = subprocess.Popen(
                ["nice", "-n", "19", *renamed, *own],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(self._give_up, self._writer)

    def _give_up(self, writer: "subprocess.Popen[bytes]") -> None:
        with suppress(ProcessLookupError):
            os.killpg(writer.pid, signal.SIGKILL)
        writer.wait()
        self._part.unlink(missing_ok=True)

    def _remove_others(self) -> None:
        """Remove archives of earlier versions, and those that died in their making."""
        found = [(path.stat().st_mtime, path) for path in self.path.parent.iterdir()]
        archives = sorted(item for item in found if item[1].suffix == ".jsa")
        old = {path for _, path in archives[: -_KEPT + 1]}
        for time_s, path in found:
            if path in old or (path.suffix == ".part" and time.time() - time_s > _UNFINISHED_S):
                path.unlink(missing_ok=True)


def _is_private(path: Path) -> bool:
    """Return whether only this user can write there: Java runs the code in an archive."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
