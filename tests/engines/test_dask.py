"""Clients of Dask: memory of the workers, Ctrl-C, and errors of tasks."""

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

from hepflow.config.engines import ClusterConfig
from hepflow.engines import dask
from hepflow.engines.dask import dask_client, worker_memory


def test_the_worker_of_a_job_has_the_memory_of_its_configuration():
    for kind in ("slurm", "htcondor"):
        assert worker_memory(ClusterConfig(kind=kind)) == 4 * 2**30
        assert worker_memory(ClusterConfig(kind=kind, memory="2GiB")) == 2 * 2**30
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


def _profile_cycle(dask_worker):
    return dask_worker.periodic_callbacks["profile-cycle"].callback_time


@pytest.mark.slow
def test_a_scheduler_holds_a_few_of_many_tasks_and_each_is_done_once(monkeypatch):
    monkeypatch.setattr(dask, "TASKS_AT_ONCE", 6)
    with dask_client(ClusterConfig(workers=1), 1) as client:
        done, held = [], []
        for result in dask.watch(client, abs, range(-20, 0), "counting", "numbers"):
            done.append(result)
            held.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
        (cycle_ms,) = client.run(_profile_cycle).values()
    assert sorted(done) == list(range(1, 21))
    assert max(held) <= 6
    assert cycle_ms == 60_000, "a worker keeps 1,800 call trees, one per cycle"
