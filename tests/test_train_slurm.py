"""A training in Slurm whose time is up: it saves, goes back into the queue, and ends as if nothing had happened."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from slurm_cluster import SlurmCluster, slurm_cluster, why_not
from test_train_fit import assert_same, process, weights
from toy_store import toy_store

from hepflow.config import shipped
from hepflow.ledger import read_json

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

SCRIPT = """#!/bin/bash
#SBATCH -J hepflow-train -N2 --ntasks-per-node=1 -t 10 --requeue --open-mode=append -o job.log
set -euo pipefail
export PYTHONPATH={tests} OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec "$@"' _ {command} --trainer.num_nodes 2 --trainer.devices 1 --trainer.strategy ddp
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_a_job_whose_time_is_up_goes_on_where_it_was(cluster: SlurmCluster, tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.zarr", events=40, mean_particles=5)
    config = tmp_path / "mine.yaml"
    slow = {"class_path": "crash.Slow", "init_args": {"seconds": 0.5}}
    text = yaml.safe_load(shipped("train/hlf.yaml").read_text()) | {
        "data": {"batch_size": 32, "workers": 0},
        "trainer": {"max_epochs": 4, "enable_progress_bar": False, "callbacks": [slow]},
        "early_stopping": {"patience": 99},
    }
    config.write_text(yaml.safe_dump(text))
    options = ["fit", "--config", str(config), "--data.store", str(store.path)]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert process(*options, "--output", str(whole)).returncode == 0
    command = " ".join([sys.executable, "-m", "hepflow", "train", *options, "--output", str(moved)])
    script = tmp_path / "job.sh"
    script.write_text(SCRIPT.format(tests=Path(__file__).parent, command=command))
    job_id = cluster.submit(str(script), cwd=tmp_path)
    wait_for((moved / "metrics.csv").is_file, tmp_path / "job.log")
    cluster.command("scancel", "--signal=USR1", str(job_id))
    job = cluster.wait(job_id)
    printed = (tmp_path / "job.log").read_text()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), printed
    assert "requeued job" in printed
    assert "going on from" in printed
    assert read_json(moved / "run.json")["events_trained"] == 4 * 240
    assert_same(weights(whole), weights(moved), rtol=1e-3, atol=1e-4)


def wait_for(done: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no output"
        time.sleep(0.2)
