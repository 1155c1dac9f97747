"""Files behind a URL: the same events, and a server that stumbles is no bad file."""

import errno
import threading
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import awkward as ak
import pyarrow.parquet as pq
import pytest
import uproot
from root_files import write_delphes

from hepflow.cli import parse
from hepflow.config import IngestConfig
from hepflow.errors import MissingDependency
from hepflow.ingest.delphes import DelphesFile
from hepflow.ingest.job import run
from hepflow.ingest.listing import list_files
from hepflow.ingest.share import Access, ShareReader
from hepflow.ingest.splits import SourceFile, Split
from hepflow.ledger import read_json

pytest.importorskip("aiohttp")
SAMPLES = {"qcd": ("qcd",)}


class RangeHandler(SimpleHTTPRequestHandler):
    """A file server that knows byte ranges, and answers 503 as long as ``failures`` are left."""

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
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
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
    write_delphes(root / "qcd" / "b.root", [20], seed=2)
    return root


@pytest.fixture(scope="module")
def url(raw: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(raw)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def read(path: str) -> ak.Array:
    with DelphesFile(path) as file:
        return ak.concatenate([events for _, _, events in file.iterate(0, file.n_entries)])


def split(path: str) -> Split:
    return Split(SourceFile("qcd", "a.root", path, 1, "1"))


def test_a_server_is_listed_with_sizes(url: str, raw: Path) -> None:
    found = {file.name: file.size for file in list_files(url)}
    assert found == {f"qcd/{name}.root": (raw / "qcd" / f"{name}.root").stat().st_size for name in "ab"}


def test_remote_events_are_the_local_ones(url: str, raw: Path) -> None:
    assert ak.array_equal(read(f"{url}/qcd/a.root"), read(str(raw / "qcd" / "a.root")))


def test_a_server_that_stumbles_is_asked_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepflow.ingest.share.sleep", lambda seconds: None)
    monkeypatch.setattr(RangeHandler, "failures", 2)
    pieces = list(ShareReader(split(f"{url}/qcd/a.root"), access=Access(retries=3)).pieces())
    assert sum(len(piece.events) for piece in pieces) == 70


def test_a_server_that_stays_down_makes_a_bad_file(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepflow.ingest.share.sleep", lambda seconds: None)
    monkeypatch.setattr(RangeHandler, "failures", 1000)
    reader = ShareReader(split(f"{url}/qcd/a.root"), access=Access(retries=1))
    assert list(reader.pieces()) == []
    assert "2 times" in reader.unreadable


def test_a_missing_remote_file_is_not_asked_for_again(url: str) -> None:
    reader = ShareReader(split(f"{url}/qcd/none.root"), access=Access(retries=3))
    assert list(reader.pieces()) == []
    assert reader.unreadable == "no such file"


def test_an_io_error_halfway_costs_no_entry_and_gives_none_twice(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step fails once, as a flaky file system would make it."""
    waits: list[float] = []
    monkeypatch.setattr("hepflow.ingest.share.sleep", waits.append)
    iterate, calls = uproot.TTree.iterate, []

    def flaky(tree: object, *args: object, **options: object) -> object:
        calls.append(options["entry_start"])
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return iterate(tree, *args, **options)

    monkeypatch.setattr(uproot.TTree, "iterate", flaky)
    monkeypatch.setattr(DelphesFile.iterate, "__defaults__", (1,))
    pieces = list(ShareReader(split(str(raw / "qcd" / "a.root")), access=Access(retries=2)).pieces())
    assert [(piece.start, piece.stop) for piece in pieces][:: len(pieces) - 1] == [(0, pieces[0].stop), (pieces[-1].start, 70)]
    assert all(a.stop == b.start for a, b in pairwise(pieces))
    assert all(piece.events is not None for piece in pieces)
    assert waits == [1.0]


def test_root_urls_need_their_package() -> None:
    if find_spec("fsspec_xrootd") is not None:
        pytest.skip("fsspec-xrootd is installed, and there is no server to ask")
    with pytest.raises(MissingDependency, match="root://"):
        list_files("root://server//data")


def test_a_url_on_the_command_line_stays_one() -> None:
    assert parse("ingest", ["--input", "root://server//data"]).input == "root://server//data"
    assert parse("ingest", ["--input", "data/raw"]).input == Path("data/raw")


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_remote_input_gives_the_events_of_a_local_one(url: str, raw: Path, tmp_path: Path) -> None:
    for name, source in {"remote": url, "local": raw}.items():
        run(IngestConfig(input=source, output=tmp_path / name, samples=SAMPLES))
    tables = []
    for name in ("remote", "local"):
        about = read_json(tmp_path / name / "_hepflow.json")
        tables.append([pq.read_table(tmp_path / name / fragment) for fragment in about["fragments"]])
    assert tables[0] == tables[1]
