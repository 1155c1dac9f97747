"""Everything that a running command writes, shows and serves, to search it for a secret."""

import json
import re
import time
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.commands import Command

_LARGEST = 50 << 20


class Watched(Command):
    """A command; ``seen`` holds the command lines of its processes, and the pages of Spark."""

    def __init__(self, *arguments: str, folder: Path, env: dict[str, str] | None = None) -> None:
        self.began, self.seen = time.time(), dict[str, str]()
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        own = {"TMPDIR": str(self.temporary), "HOME": str(folder)}
        super().__init__(*arguments, cwd=folder, env=own | (env or {}))

    def look(self) -> None:
        """Note the command lines and the pages of this moment."""
        children = psutil.Process(self.pid).children(recursive=True)
        for process in children:
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                self.seen[f"command line: {line[:80]}"] = line
        if uis := re.findall(r"UI at (http\S+)", self.printed()):
            with suppress(OSError, ValueError):  # it may have ended by now
                self.seen |= pages(uis[-1])
        for dashboard in re.findall(r"Dask dashboard: (http\S+)/status", self.printed()):
            for path in ("status", "info/main/workers.html", "info/main/logs.html"):
                with suppress(OSError):
                    self.seen[f"/{path}"] = got(f"{dashboard}/{path}")

    def search(self, mark: str, *given: Path) -> list[str]:
        """Run it to its end, and return where the mark was, besides in the files that it got."""
        while self.poll() is None:
            with suppress(psutil.NoSuchProcess):
                self.look()
            time.sleep(0.2)
        done = self.finish()
        self.returncode, self.text = done.returncode, done.stdout + done.stderr
        found = [name for name, text in self.seen.items() if mark in text]
        found += ["output"] if mark in self.text else []
        written = {*self.temporary.parent.rglob("*"), *recent(self.began)} - {*given}
        return found + holding(mark, written)


def recent(since: float) -> list[Path]:
    """Return the files in /tmp that are newer than a time, but those in folders of tests."""
    found = []
    for path in Path("/tmp").glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime >= since and not path.name.startswith(("pytest", "command-")):
                found += [path, *(path.rglob("*") if path.is_dir() else ())]
    return found


def holding(mark: str, paths: Iterable[Path]) -> list[str]:
    """Return the files that hold a mark, in bytes or in their names."""
    found = []
    for path in paths:
        with suppress(OSError):  # it has just gone
            small = path.is_file() and path.stat().st_size < _LARGEST
            if mark in str(path) or (small and mark.encode() in path.read_bytes()):
                found.append(str(path))
    return found


def pages(ui: str) -> dict[str, str]:
    """Return Spark's pages, and what its REST interface tells of jobs, queries and properties."""
    (application,) = json.loads(got(f"{ui}/api/v1/applications"))
    rest = f"/api/v1/applications/{application['id']}"
    plans = got(f"{ui}{rest}/sql?details=true&planDescription=true&length=1000")
    paths = [f"/{name}/" for name in ("jobs", "stages", "environment", "executors", "SQL")]
    paths += [f"/SQL/execution/?id={one['id']}" for one in json.loads(plans)[:5]]
    paths += [f"{rest}/environment", f"{rest}/jobs", f"{rest}/stages"]
    return {"plans": plans, **{path: got(f"{ui}{path}") for path in paths}}


def got(url: str) -> str:
    """Return the text of a page."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()
