"""A broker for the tests: noida-db, or one that HEPFLOW_KAFKA names.

noida-db is another implementation of Kafka's protocol, not Apache Kafka.
"""

import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """Yield ``host:port`` of a broker without topics, or HEPFLOW_KAFKA, such as a real Kafka."""
    if "HEPFLOW_KAFKA" in os.environ:
        yield os.environ["HEPFLOW_KAFKA"]
        return
    found = find_spec("noida_db")
    if found is None or found.origin is None or platform.system() != "Linux":
        pytest.skip("no broker: pip install noida-db (Linux), or set HEPFLOW_KAFKA=host:port")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binary = Path(found.origin).with_name("noida-db")
    if not os.access(binary, os.X_OK):  # its wheel does not say that it is a program
        binary.chmod(0o755)
    command = (
        str(binary),
        "start",
        "--only",
        "kafka",
        "--kafka-port",
        str(port),
        "--data-dir",
        str(folder),
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            pytest.skip(f"noida-db does not run here (exit status {process.returncode})")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("noida-db does not listen within 30 s")
