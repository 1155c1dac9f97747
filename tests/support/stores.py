"""Real servers of files on this machine: HDFS, S3 (moto) and XRootD; each gives a URL to write to.

Skipped with the reason where one cannot run.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.support.hadoop_cluster import HDFS, Hadoop, hadoop_cluster
from tests.support.jars import HADOOP, why_not
from tests.support.root_files import public_folder

ONE = [
    pytest.param(kind, marks=[getattr(pytest.mark, kind), getattr(pytest.mark, when)])
    for kind, when in {"hdfs": "system", "s3": "once", "xrootd": "system"}.items()
]
"""Values of the fixture ``away``: each store, of which `make test` takes one."""


@contextmanager
def hdfs_server() -> Iterator[Hadoop]:
    """Yield a NameNode and a DataNode of Hadoop."""
    pytest.importorskip("hdfs_native")
    if (reason := why_not(HADOOP)) is not None:
        pytest.skip(reason)
    with public_folder() as folder, hadoop_cluster(folder, *HDFS) as cluster:
        yield cluster


class S3Server:
    """moto's S3, in which requests can be made to fail.

    A ``fault`` gets the environ of each request, and its number. It returns the status of an answer
    without content, None to let the request through, or ``RESET`` to cut the connection after the
    request's first bytes.
    """

    RESET = "reset"
    url = "s3://bucket"

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app, self._one_at_a_time = app, threading.Lock()
        self.fault: Callable[[dict[str, Any], int], str | None] | None = None
        self.n_requests = self.n_failed = 0
        self._lag_s, self._put_at, self.n_hidden = 0.0, dict[str, float](), 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        self.n_requests += 1
        answer = self.fault(environ, self.n_requests) if self.fault else None
        if answer is not None:
            self.n_failed += 1
            if answer == self.RESET:
                environ["wsgi.input"].read(min(100, int(environ.get("CONTENT_LENGTH") or 0)))
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return []
            start(answer, [("Content-Length", "0")])
            return []
        if environ["REQUEST_METHOD"] == "PUT":
            self._put_at[environ["PATH_INFO"]] = time.monotonic()
            with self._one_at_a_time:  # moto looks for If-None-Match, and stores, in two steps
                return self._app(environ, start)
        if self._lag_s and "list-type=2" in environ.get("QUERY_STRING", ""):
            return self._late_list(environ, start)
        return self._app(environ, start)

    def _late_list(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer without the files that were put a moment ago, as S3 did until 2020."""
        began: list[Any] = []
        text = b"".join(self._app(environ, lambda *words: began.extend(words)))
        root = ET.fromstring(text)
        space = root.tag.partition("}")[0] + "}"
        bucket, now = f"/{root.findtext(f'{space}Name')}/", time.monotonic()
        fresh = {path for path, at in self._put_at.items() if now - at < self._lag_s}
        for one in list(root):
            key = one.findtext(f"{space}Key") or one.findtext(f"{space}Prefix") or ""
            if one.tag == f"{space}Contents":
                hidden = bucket + key in fresh
            elif one.tag == f"{space}CommonPrefixes":
                below = [path for path in self._put_at if path.startswith(bucket + key)]
                hidden = bool(below) and fresh.issuperset(below)
            else:
                continue
            if hidden:
                root.remove(one)
                self.n_hidden += 1
        late = ET.tostring(root)
        headers = [one for one in began[1] if one[0].lower() != "content-length"]
        start(began[0], [*headers, ("Content-Length", str(len(late)))])
        return [late]

    @contextmanager
    def lagging(self, seconds: float) -> Iterator[None]:
        """Let lists show files only some seconds after they were put; some must have been late."""
        self._lag_s, self.n_hidden = seconds, 0
        try:
            yield
        finally:
            self._lag_s = 0.0
        assert self.n_hidden

    @contextmanager
    def failing(self, fault: Callable[[dict[str, Any], int], str | None]) -> Iterator[None]:
        """Let requests fail, of which there must be some."""
        self.fault, self.n_requests, self.n_failed = fault, 0, 0
        try:
            yield
        finally:
            self.fault = None
        assert self.n_failed, f"none of {self.n_requests} requests"


def shaky(environ: dict[str, Any], number: int) -> str | None:
    """Of all requests, fail five per cent: too many, a broken server, or a cut connection."""
    if number % 20:
        return None
    kinds = ("503 Slow Down", "500 Internal Server Error", S3Server.RESET)
    return kinds[number // 20 % 3]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Yield an empty bucket on moto's server, to which the environment points."""
    moto = pytest.importorskip("moto.moto_server.werkzeug_app")
    serving = pytest.importorskip("werkzeug.serving")
    s3fs = pytest.importorskip("s3fs")

    class Quiet(serving.WSGIRequestHandler):
        def log_request(self, *_: Any) -> None:
            """Print nothing."""

    app = S3Server(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        try:
            yield app
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def xrootd_server() -> Iterator[tuple[str, Path]]:
    """Yield the URL of an empty folder on a data server of XRootD, and that folder on disk.

    The server (Debian: xrootd-server) refuses to run as root, so it belongs to another user then.
    """
    pytest.importorskip("fsspec_xrootd")
    program = shutil.which("xrootd")
    if program is None:
        pytest.skip("no xrootd server (Debian: apt install xrootd-server)")
    with public_folder() as root, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data, run = root / "data" / "files", root / "run"
        for folder in (data, run):
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        config = root / "xrootd.cfg"
        config.write_text(
            f"all.export /files\noss.localroot {root}/data\n"
            f"all.adminpath {run}\nall.pidpath {run}\n"
        )
        command = [program, "-c", str(config), "-p", str(port), "-n", "test", "-I", "v4"]
        user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=run, **quiet, **user) as server:
            try:
                wait_for_port(port)
                yield f"root://127.0.0.1:{port}//files", data
            finally:
                server.terminate()


def wait_for_port(port: int) -> None:
    """Wait until something listens on a port."""
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"nothing listens on port {port}")
