"""The cluster's settings: time limits as Slurm writes them, jobs that Slurm would refuse."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hepflow.config.engines import ClusterConfig, SlurmConfig
from hepflow.engines.dask import dask_client, walltime_seconds, worker_memory
from hepflow.errors import ConfigError


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("02:00:00", 7200),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 30 * 60),
        ("2-00:00:01", 2 * 86400 + 1),
    ],
)
def test_every_format_of_slurms_time_limit_is_accepted(walltime, seconds):
    assert walltime_seconds(walltime) == seconds


@pytest.mark.parametrize(
    "walltime", ["", "two hours", "1:2:3:4", "-5", "1-", "1-2:3:4:5", "x-1", "0:59"]
)
def test_other_time_limits_are_refused(walltime):
    with pytest.raises(ConfigError, match=r"cluster\.slurm\.walltime must be"):
        walltime_seconds(walltime)


def test_without_slurm_the_error_names_sbatch(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    config = ClusterConfig(kind="slurm", memory="1GiB", slurm=SlurmConfig(interface="lo"))
    with pytest.raises(ConfigError, match="sbatch not found"), dask_client(config, 1):
        pass


def test_a_slurm_worker_has_the_memory_of_its_configuration():
    assert worker_memory(ClusterConfig(kind="slurm")) == 4 * 2**30
    assert worker_memory(ClusterConfig(kind="slurm", memory="2GiB")) == 2 * 2**30
    assert worker_memory(ClusterConfig(kind="address", address="tcp://somewhere:1")) is None


def test_ctrl_c_stays_an_interrupt():
    """In a child process, as other imports of the tests may set handlers too."""
    code = "import signal, hepflow.features.job; handler = signal.getsignal(signal.SIGINT); "
    code += "assert handler is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_ctrl_c_before_a_call_has_begun_prints_nothing(caplog):
    """As when Ctrl-C comes while the event loop is busy: distributed stumbles over it."""
    with dask_client(ClusterConfig(workers=1), 1) as client:
        logging.getLogger("tornado.application").addHandler(caplog.handler)
        client.loop.add_callback(time.sleep, 1)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            client.sync(asyncio.sleep, 0)
        client.sync(asyncio.sleep, 0)  # the loop has run what the interrupt left to it
    logging.getLogger("tornado.application").removeHandler(caplog.handler)
    assert caplog.messages == []


@pytest.mark.slow
def test_only_the_client_reports_an_error_in_a_worker(capfd):
    with dask_client(ClusterConfig(workers=1), 1) as client, pytest.raises(FileNotFoundError):
        client.submit(Path.read_text, Path("/no/such/file")).result()
    assert "Compute Failed" not in "".join(capfd.readouterr())
