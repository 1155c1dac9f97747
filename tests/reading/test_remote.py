"""Files at URLs: the same events, and errors of a server are retried."""

import errno
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import fsspec
import pyarrow.parquet as pq
import pytest
import uproot

from hepflow.cli import parse
from hepflow.config.stages import IngestConfig
from hepflow.errors import DataError, NoCredentials
from hepflow.ingest.job import run
from hepflow.reading import ends
from hepflow.reading.delphes import DelphesFile
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.reading.reader import Access, RangeReader
from hepflow.system.files import read_json
from hepflow.system.publishing import put
from hepflow.system.storage import make_folder
from tests.support.hadoop_cluster import Hadoop
from tests.support.root_files import write_delphes

pytestmark = pytest.mark.slow

pytest.importorskip("aiohttp")
SAMPLES = {"qcd": ("qcd",)}


class RangeHandler(SimpleHTTPRequestHandler):
    """A file server with byte ranges that answers 503 while ``failures`` are left."""

    failures = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        ranges = self.headers.get("Range")
        if type(self).failures > 0 and path.suffix == ".root":
            type(self).failures -= 1
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        elif ranges and path.is_file():
            first, _, last = ranges.removeprefix("bytes=").partition("-")
            content = path.read_bytes()
            part = content[int(first) : int(last) + 1 if last else None]
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Length", str(len(part)))
            self.send_header(
                "Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            )
            self.end_headers()
            self.wfile.write(part)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote")
    write_delphes(root / "qcd" / "a.root", [30, 40], seed=1)
    content = write_delphes(root / "qcd" / "b.root", [20], seed=2).read_bytes()
    (root / "_bad").mkdir()  # not listed
    for name, n_bytes in {"empty": 0, "short": 100, "truncated": 5000}.items():
        (root / "_bad" / f"{name}.root").write_bytes(content[:n_bytes])
    return root


@pytest.fixture(scope="module")
def web(raw: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(raw)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def bucket(raw: Path, s3: str) -> str:
    """Files in the S3 of moto."""
    fsspec.filesystem("s3").put(f"{raw}/", f"{s3}/raw/", recursive=True)
    return f"{s3}/raw"


@pytest.fixture(scope="module")
def served(raw: Path, xrootd: tuple[str, Path]) -> str:
    """Files on a data server of XRootD."""
    url, folder = xrootd
    shutil.copytree(raw, folder / "raw")
    for path in (folder / "raw", *(folder / "raw").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return f"{url}/raw"


@pytest.fixture(scope="module")
def hadoop(raw: Path, hdfs: Hadoop) -> str:
    """Files in HDFS."""
    fsspec.core.url_to_fs(hdfs.url)[0].put(str(raw), "/", recursive=True)
    return f"{hdfs.url}/{raw.name}"


@pytest.fixture(
    params=[
        "web",
        pytest.param("bucket", marks=pytest.mark.s3),
        pytest.param("served", marks=pytest.mark.xrootd),
        pytest.param("hadoop", marks=pytest.mark.hdfs),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def read(path: str) -> ak.Array:
    with DelphesFile(path) as file:
        return ak.concatenate([events for _, _, events in file.iterate(0, file.n_entries)])


def entry_range(path: str) -> EntryRange:
    return EntryRange(SourceFile("qcd", "a.root", path, 1, "1"))


def test_a_server_is_listed_with_sizes(url: str, raw: Path) -> None:
    found = {file.name: file.size for file in list_files(url)}
    assert found == {
        f"qcd/{name}.root": (raw / "qcd" / f"{name}.root").stat().st_size for name in "ab"
    }


def test_remote_events_are_the_local_ones(url: str, raw: Path) -> None:
    assert ak.array_equal(read(f"{url}/qcd/a.root"), read(str(raw / "qcd" / "a.root")))


@pytest.mark.parametrize("n_bytes", [0, 1, 403, 2000, 1 << 30])
def test_the_ends_that_are_fetched_at_once_may_have_any_size(
    web: str, raw: Path, n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, less than a header, the header, less than the tree, and more than the file."""
    monkeypatch.setattr(ends, "HEAD_BYTES", n_bytes)
    monkeypatch.setattr(ends, "TAIL_BYTES", n_bytes)
    assert ak.array_equal(read(f"{web}/qcd/a.root"), read(str(raw / "qcd" / "a.root")))


def test_a_file_is_opened_by_three_requests(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its size and of both ends; the first events are one more."""
    asked = []
    answer = RangeHandler.send_response
    monkeypatch.setattr(
        RangeHandler, "send_response", lambda *words: [asked.append(words), answer(*words)]
    )
    with DelphesFile(f"{web}/qcd/a.root") as file:
        assert file.n_entries == 70
        assert len(asked) <= 3


def test_server_errors_are_retried(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepflow.reading.reader.sleep", lambda seconds: None)
    monkeypatch.setattr(RangeHandler, "failures", 2)
    chunks = list(RangeReader(entry_range(f"{web}/qcd/a.root"), access=Access(retries=3)).chunks())
    assert sum(len(chunk.events) for chunk in chunks) == 70


def test_a_server_that_stays_down_makes_a_bad_file(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepflow.reading.reader.sleep", lambda seconds: None)
    monkeypatch.setattr(RangeHandler, "failures", 1000)
    reader = RangeReader(entry_range(f"{web}/qcd/a.root"), access=Access(retries=1))
    assert list(reader.chunks()) == []
    assert "2 times" in reader.unreadable
    assert reader.transient, "the next run retries"


def test_a_missing_remote_file_is_not_retried(url: str) -> None:
    reader = RangeReader(entry_range(f"{url}/qcd/none.root"), access=Access(retries=3))
    assert list(reader.chunks()) == []
    assert reader.unreadable == "no such file"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "an empty file|not a ROOT file, or a damaged one .*0 bytes"),
        ("short", "not a ROOT file"),
        ("truncated", "truncated: 5,000 bytes"),
    ],
)
def test_a_damaged_remote_file_is_not_retried(url: str, name: str, reason: str) -> None:
    reader = RangeReader(entry_range(f"{url}/_bad/{name}.root"), access=Access(retries=9))
    assert list(reader.chunks()) == []
    assert re.match(reason, reader.unreadable)
    assert not reader.transient


def test_an_io_error_halfway_loses_and_repeats_no_entry(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step fails once, as on a flaky file system."""
    waits: list[float] = []
    monkeypatch.setattr("hepflow.reading.reader.sleep", waits.append)
    iterate, calls = uproot.TTree.iterate, []

    def flaky(tree: object, *args: object, **options: object) -> object:
        calls.append(options["entry_start"])
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return iterate(tree, *args, **options)

    monkeypatch.setattr(uproot.TTree, "iterate", flaky)
    monkeypatch.setattr(DelphesFile.iterate, "__defaults__", (1,))
    chunks = list(
        RangeReader(entry_range(str(raw / "qcd" / "a.root")), access=Access(retries=2)).chunks()
    )
    assert [(chunk.start, chunk.stop) for chunk in chunks][:: len(chunks) - 1] == [
        (0, chunks[0].stop),
        (chunks[-1].start, 70),
    ]
    assert all(a.stop == b.start for a, b in pairwise(chunks))
    assert all(chunk.events is not None for chunk in chunks)
    assert waits == [1.0]


def test_a_server_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        reader = RangeReader(entry_range(f"{url}/a.root"), access=Access(retries=0, timeout_s=0.2))
        assert list(reader.chunks()) == []
        assert reader.unreadable.startswith("I/O error")
        assert reader.transient
        with pytest.raises(DataError, match="cannot be listed"):
            list_files(url, timeout_s=0.2)


def test_a_name_node_that_is_not_there_is_one_line() -> None:
    with pytest.raises(DataError, match=r"hdfs://127\.0\.0\.1:1/raw: cannot be listed"):
        list_files("hdfs://127.0.0.1:1/raw", timeout_s=0.5)


def test_a_url_on_the_command_line_stays_one() -> None:
    assert parse("ingest", ["--input", "root://server//data"]).input == "root://server//data"
    assert parse("ingest", ["--input", "data/raw"]).input == Path("data/raw")


@pytest.mark.spark
def test_a_remote_input_gives_the_events_of_a_local_one(
    url: str, raw: Path, tmp_path: Path, spark: Any
) -> None:
    environment = spark.sparkContext.environment  # of the workers, as spark.executorEnv sets it
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name, source in {"remote": url, "local": raw}.items():
        run(IngestConfig(input=source, output=tmp_path / name, samples=SAMPLES))
    tables = []
    for name in ("remote", "local"):
        about = read_json(tmp_path / name / "_hepflow.json")
        tables.append(
            [pq.read_table(tmp_path / name / fragment) for fragment in about["fragments"]]
        )
    assert tables[0] == tables[1]


def test_a_file_of_the_same_size_that_has_changed_has_another_version(away: Path) -> None:
    """Times of XRootD are whole seconds: within one, a change may not be seen."""
    make_folder(away)
    put(away / "a.root", b"before")
    (before,) = list_files(str(away))
    deadline = time.monotonic() + 10
    (now,) = list_files(str(away))
    assert now == before
    while now.version == before.version and time.monotonic() < deadline:
        put(away / "a.root", b"after.")
        (now,) = list_files(str(away))
    assert (now.size, now.path) == (before.size, before.path)
    assert now.version != before.version


@pytest.mark.s3
def test_missing_credentials_end_the_run_and_are_no_property_of_the_file(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be found again in every file, each of which counted as unreadable."""
    files = [one for one in list_files(bucket) if one.name == "qcd/a.root"]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if name != "AWS_ENDPOINT_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        reader = RangeReader(EntryRange(files[0]), access=Access(retries=3))
        with pytest.raises(NoCredentials, match=r"^no valid credentials \(Unable to locate"):
            next(reader.chunks())
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert (reader.unreadable, reader.transient) == ("", False)
