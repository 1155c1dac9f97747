"""A dataset of many fragments: seconds and requests of the driver, here and on a distant store.

The fragments are copies of a tiny one, as only their number matters. The distant store is fsspec's
memory, which answers after ``--delay-ms``; a listing has pages of 1,000 names, as on S3.
"""

import argparse
import json
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import generated
import pyarrow.parquet as pq
from fsspec.implementations.memory import MemoryFileSystem

from hepflow.data.catalog import Footer
from hepflow.data.events import open_events
from hepflow.data.task_records import record_path
from hepflow.ingest import dataset
from hepflow.ingest.task import Settings, TaskRecord
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.reading.reader import Access
from hepflow.reading.record import RangeRecord
from hepflow.system.files import write_json
from hepflow.system.places import place
from hepflow.system.terminal import show, table

_PAGE = 1000  # names per request of a listing
_EVENTS = 3  # per fragment


class Distant(MemoryFileSystem):
    """Memory whose answers take time; requests are counted."""

    delay_s = 0.0
    n_requests = 0
    _state = threading.local()
    _lock = threading.Lock()

    @contextmanager
    def _request(self) -> Iterator[Callable[[int], None]]:
        """Count a request, which is answered later; not those that it makes itself."""

        def pages(n: int) -> None:
            with Distant._lock:
                Distant.n_requests += n
            time.sleep(self.delay_s * n)

        if getattr(self._state, "inside", False):
            yield lambda n: None
            return
        self._state.inside = True
        try:
            yield pages
        finally:
            self._state.inside = False

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        with self._request() as request:
            found = list(super().ls(path, detail, **kwargs))
            request(max(1, math.ceil(len(found) / _PAGE)))
            return found

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        with self._request() as request:
            found = super().find(path, *args, **kwargs)
            request(max(1, math.ceil(len(found) / _PAGE)))
            return found


def _counted(name: str) -> Callable[..., Any]:
    def method(self: Distant, *args: Any, **kwargs: Any) -> Any:
        with self._request() as request:
            request(1)
            return getattr(super(Distant, self), name)(*args, **kwargs)

    return method


_METHODS = (
    "info",
    "isfile",
    "isdir",
    "exists",
    "cat_file",
    "put_file",
    "get_file",
    "rm_file",
    "mv",
)
for _name in (*_METHODS, "pipe_file", "_open"):
    setattr(Distant, _name, _counted(_name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 fragments")
    parser.add_argument("--delay-ms", type=float, default=30.0, help="per request")
    arguments = parser.parse_args()
    logging.getLogger("hepflow").setLevel(logging.ERROR)
    fsspec.register_implementation("memory", Distant, clobber=True)
    sizes = (100, 1000) if arguments.quick else (1000, 10_000)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for where in ("disk", "distant"):
            base = Path(folder) if where == "disk" else place("memory://benchmark")
            found = [measure(base / str(n), n, arguments.delay_ms / 1000) for n in sizes]
            rows = []
            for name, (seconds, requests) in found[1].items():
                before, before_requests = found[0][name]
                powers = [
                    f"{math.log(now / then, sizes[1] / sizes[0]):.2f}" if then else "-"
                    for now, then in ((seconds, before), (requests, before_requests))
                ]
                rows.append((name, f"{before:.2f}", f"{seconds:.2f}", powers[0]))
                rows[-1] += (f"{before_requests:,}", f"{requests:,}", powers[1])
                result[f"{where}_{name}_s"] = round(seconds, 3)
                result[f"{where}_{name}_requests"] = requests
            head = ("", "s", "s", "exponent", "requests", "requests", "exponent")
            title = f"{where}: {sizes[0]:,} and {sizes[1]:,} fragments"
            show(table(head, rows, title))
    print(json.dumps(result))


def measure(output: Path, n: int, delay_s: float) -> dict[str, tuple[float, int]]:
    """Return the seconds and requests of each step of the driver on ``n`` fragments."""
    Distant.delay_s = 0.0
    settings = Settings(output, generated.CLASSES, Access())
    ranges, records = write(settings, n)
    steps: dict[str, tuple[float, int]] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        Distant.n_requests, started = 0, time.perf_counter()
        found = work()
        steps[name] = time.perf_counter() - started, Distant.n_requests
        return found

    Distant.delay_s = delay_s
    dataset.prepare(output)
    left = step("finished_singles", lambda: dataset.finished(ranges, settings, False))[1]
    assert not left
    about = step("commit", lambda: dataset.commit(records, ranges, settings))
    left = step("finished", lambda: dataset.finished(ranges, settings, False))[1]
    assert not left
    assert step("is_up_to_date", lambda: dataset.is_up_to_date(about, ranges, settings, False))
    assert len(step("open_events", lambda: open_events(output)).fragments) == n
    return steps


def write(settings: Settings, n: int) -> tuple[list[EntryRange], list[TaskRecord]]:
    """Write the fragments and records of ``n`` tasks, of one file each."""
    with tempfile.TemporaryDirectory() as folder:
        generated.write(Path(folder), generated.events(_EVENTS), 1)
        (path,) = Path(folder).rglob("*.parquet")
        content, facts = path.read_bytes(), Footer.read(path).describe()
        assert pq.read_metadata(path).num_rows == _EVENTS

    def one(i: int) -> TaskRecord:
        class_name = settings.classes[i % len(settings.classes)]
        source = f"{class_name}/run_{i:06d}.root"
        file = SourceFile(class_name, source, f"/raw/{source}", 128 << 20, "1790000000000000000")
        own = RangeRecord(EntryRange(file), f"{i:032x}", _EVENTS, 0, _EVENTS, _EVENTS)
        name = f"{class_name}/run_{i:06d}-0000-{i:016x}.parquet"
        (settings.output / class_name).mkdir(parents=True, exist_ok=True)
        (settings.output / name).write_bytes(content)
        key = settings.task_key([own.range])
        record = TaskRecord(key, name, _EVENTS, len(content), (own,), facts)
        write_json(record_path(settings.output, key), record.to_dict())
        return record

    (settings.output / "_records").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(one, range(n)))
    return sorted(own.range for record in records for own in record.ranges), records


if __name__ == "__main__":
    main()
