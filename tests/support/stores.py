"""Real servers of files on this machine: HDFS, S3 (moto) and XRootD; each gives a URL to write to.

Skipped with the reason where one cannot run.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.hadoop_cluster import HDFS, Hadoop, hadoop_cluster, why_not
from tests.support.root_files import public_folder


@contextmanager
def hdfs_server() -> Iterator[Hadoop]:
    """Yield a NameNode and a DataNode of Hadoop."""
    pytest.importorskip("hdfs_native")
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with public_folder() as folder, hadoop_cluster(folder, *HDFS) as cluster:
        yield cluster


@contextmanager
def s3_server() -> Iterator[str]:
    """Yield the URL of an empty bucket on moto's server, to which the environment points."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    settings = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
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
            yield "s3://bucket"
        finally:
            server.stop()


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
