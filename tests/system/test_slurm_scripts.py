"""slurm/ on a real Slurm of two nodes: a whole chain, a failing one, a training past its limit."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from hepflow.config.shipped import shipped
from hepflow.schema import CLASSES
from hepflow.system.files import read_json
from hepflow.train.record import read_table
from tests.support.commands import hepflow
from tests.support.root_files import write_delphes
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster, why_not
from tests.support.toy_store import toy_store
from tests.support.trainings import assert_same, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

SCRIPTS = Path(__file__).parents[2] / "slurm"
ENVIRONMENT = {
    "HEPFLOW_SLURM": str(SCRIPTS),
    "HEPFLOW_VENV": sys.prefix,
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "HEPFLOW_POLL_S": "0.5",
    "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # a Java that starts fast
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def pipeline(cluster: SlurmCluster, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**cluster.environment, **ENVIRONMENT}
    command = [str(SCRIPTS / "pipeline.sh"), "--wait", *options]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=500
    )


def logs(folder: Path) -> str:
    return "\n".join(
        f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.log"))
    )


def test_the_pipeline_runs_from_root_files_to_the_report(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    for seed, name in enumerate(CLASSES):
        write_delphes(tmp_path / "data" / "raw" / name / "one.root", [300], seed=seed)
    small = (
        "--cluster.slurm.workers_per_job=1",
        "--cluster.slurm.max_jobs=2",
        "--cluster.slurm.interface=lo",
        "--cluster.memory=1GiB",
    )
    nodes, net = (
        ("-N2", "--cpus-per-task=1"),
        ("--config", str(shipped("train/hlf.yaml")), "--trainer.max_epochs=2"),
    )
    done = pipeline(
        cluster,
        tmp_path,
        "--comment=all",
        *("ingest:", "--cpus-per-task=1"),
        *("features:", "--", *small),
        *("train:", *nodes, "--", *net),
        *("spark-train:", *nodes, "--", *net, "--output=runs/spark"),
        *("evaluate:", "--", "--bootstrap=20"),
    )
    assert done.returncode == 0, done.stdout + done.stderr + logs(tmp_path)
    assert (tmp_path / "reports" / "latest" / "report.html").is_file()
    runs = {name: read_json(tmp_path / "runs" / name / "run.json") for name in ("hlf", "spark")}
    assert {name: (run["engine"], run["processes"]) for name, run in runs.items()} == {
        "hlf": ("Lightning", 2),
        "spark": ("Spark", 2),
    }
    printed = {
        path.stem.rpartition("-")[0].removeprefix("hepflow-"): path.read_text()
        for path in tmp_path.glob("*.log")
    }
    assert "with 2 workers of 1 cores" in printed["ingest"]
    for stage, page in (
        ("ingest", "Spark master"),
        ("ingest", "Spark application"),
    ):
        assert re.search(
            rf"{page}: http://n1:(\d+)\n  from outside: ssh -N -L \1:n1:\1 ", printed[stage]
        ), printed[stage]
    link = r"Dask dashboard: http://([\w.]+):(\d+)/([\w-]{22})/status\n"
    tunnel = rf"{link}[^\0]*: ssh -N -L \2:\1:\2 \S+, then http://localhost:\2/\3/status\n"
    assert re.search(tunnel, printed["features"]), printed["features"]
    assert not list(tmp_path.glob("spark-*")), "Spark's own files"
    chain = [
        cluster.job(job_id)
        for job_id in cluster.job_ids()
        if cluster.job(job_id)["JobName"].startswith("hepflow-")
        and cluster.job(job_id)["WorkDir"] == str(tmp_path)
    ]
    assert {job["JobState"] for job in chain} == {"COMPLETED"}
    assert {job["Comment"] for job in chain} == {"all"}


def test_a_failed_stage_stops_the_chain_and_reports_it(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    done = pipeline(
        cluster, tmp_path, "features:", "--", "--input", "nothing-here", "train:", "evaluate:"
    )
    first, second, third = cluster.job_ids()[-3:]
    assert done.returncode == 1
    assert "features (job" in done.stdout
    assert "ended FAILED" in done.stdout
    assert "nothing-here" in done.stdout, "the reason"
    assert [cluster.job(job_id)["JobState"] for job_id in (first, second, third)] == [
        "FAILED",
        "CANCELLED",
        "CANCELLED",
    ]
    assert f"hepflow-features (job {first}) failed with exit status 2" in logs(tmp_path)


def test_what_slurm_refuses_leaves_no_half_chain(cluster: SlurmCluster, tmp_path: Path) -> None:
    done = pipeline(cluster, tmp_path, "ingest:", "--hold", "train:", "--partition=none")
    assert done.returncode == 1
    assert "invalid partition" in done.stderr
    assert cluster.wait(cluster.job_ids()[-1])["JobState"] == "CANCELLED"


@pytest.mark.parametrize(
    ("asked", "tasks"),
    [("--gres=gpu:2", 2), ("--gpus-per-node=2", 2), ("--gpus-per-task=1", 2), ("--gres=gpu:2", 1)],
    ids=["gres", "per-node", "per-task", "too-few-tasks"],
)
def test_every_task_of_a_training_chooses_among_the_gpus_of_its_node(
    cluster: SlurmCluster, tmp_path: Path, asked: str, tasks: int
) -> None:
    """Seen by a program in hepflow's place: the GPUs are not real."""
    program = tmp_path / "bin" / "hepflow"
    program.parent.mkdir()
    line = "task $SLURM_LOCALID of $SLURMD_NODENAME, GPUs $CUDA_VISIBLE_DEVICES, "
    line += "$OMP_NUM_THREADS threads: $*"
    program.write_text(f'#!/bin/sh\necho "{line}"\n')
    program.chmod(0o755)
    extra = {**ENVIRONMENT, "HEPFLOW_VENV": str(tmp_path)}
    size = ("-N2", f"--ntasks-per-node={tasks}", "--cpus-per-task=1", asked)
    job_id = cluster.submit(
        *size, str(SCRIPTS / "train.sbatch"), "--threads", "1", cwd=tmp_path, extra=extra
    )
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", logs(tmp_path)
    lines = sorted(line for line in logs(tmp_path).splitlines() if line.startswith("task"))
    command = f"train fit --threads 1 --trainer.num_nodes 2 --trainer.devices {tasks}"
    assert lines == [
        f"task {task} of {node}, GPUs 0,1, 1 threads: {command}"
        for task in range(tasks)
        for node in ("n1", "n2")
    ]
    assert ("only 1 of the 2 GPUs of a node will be used" in logs(tmp_path)) == (tasks == 1)


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_tasks_of_a_training_share_a_secret_and_a_place_to_meet(
    cluster: SlurmCluster, tmp_path: Path, nodes: int
) -> None:
    """Seen by a program in hepflow's place."""
    program = tmp_path / "bin" / "hepflow"
    program.parent.mkdir()
    rights = '$(stat -c %a "$HEPFLOW_RANKS" 2>/dev/null)'
    line = f"place '$HEPFLOW_RANKS' {rights} port '$MASTER_PORT' key $HEPFLOW_RANKS_KEY"
    program.write_text(f'#!/bin/sh\necho "{line}"\n')
    program.chmod(0o755)
    extra = {**ENVIRONMENT, "HEPFLOW_VENV": str(tmp_path)}
    size = (f"-N{nodes}", f"--ntasks-per-node={3 - nodes}", "--cpus-per-task=1")
    job_id = cluster.submit(*size, str(SCRIPTS / "train.sbatch"), cwd=tmp_path, extra=extra)
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", logs(tmp_path)
    found = re.findall(
        r"^place '(.*)' (\d*) port '(\d*)' key ([0-9a-f]{64})$", logs(tmp_path), re.M
    )
    assert len(found) == 2, logs(tmp_path)
    assert found[0] == found[1]
    place, mode, port, _ = found[0]
    assert (bool(place), mode, bool(port)) == (
        (True, "700", False) if nodes == 1 else (False, "", True)
    )
    assert not place or not Path(place).exists(), "removed at the end of the job"


def test_two_nodes_requeued_at_their_time_limit_and_at_a_node_s_death_train_as_one_process(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The weights agree, although two nodes share each batch, and Slurm interrupts the training."""
    store = toy_store(tmp_path / "toy.zarr", events=40, mean_particles=5)
    config = tmp_path / "mine.yaml"
    # an epoch of 8 batches takes 16 s: the training outlasts the time limit below
    slow = {
        "class_path": "tests.support.crash.SlowUntilRequeued",
        "init_args": {"seconds": 2, "times": 2},
    }
    text = yaml.safe_load(shipped("train/hlf.yaml").read_text()) | {
        "data": {"batch_size": 32, "workers": 0},
        "trainer": {"max_epochs": 10, "enable_progress_bar": False, "callbacks": [slow]},
        "early_stopping": {"patience": 99},
    }
    config.write_text(yaml.safe_dump(text))
    options = ["--config", str(config), "--data.store", str(store.path)]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    nodes = ("-N2", "--cpus-per-task=1", "--time=10")
    job_id = cluster.submit(
        *nodes,
        str(SCRIPTS / "train.sbatch"),
        *options,
        "--output",
        str(moved),
        cwd=tmp_path,
        extra=ENVIRONMENT,
    )
    wait_for((moved / "checkpoints" / "last.ckpt").is_file, tmp_path)
    _, minutes, _ = map(int, cluster.job(job_id)["RunTime"].split(":"))
    cluster.command("scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes + 2}")
    wait_for(lambda: "requeueing job" in logs(tmp_path), tmp_path)
    cluster.command("scontrol", "update", f"JobId={job_id}", "TimeLimit=10")
    wait_for(lambda: logs(tmp_path).count("resuming from") == 1, tmp_path)
    done = len(read_table(moved / "metrics.csv"))
    wait_for(lambda: len(read_table(moved / "metrics.csv")) > done, tmp_path)
    cluster.command("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    job = cluster.wait(job_id)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "2"), logs(tmp_path)
    assert (
        hepflow(
            "train", "fit", *options, "--output", str(whole), env={"SLURM_RESTART_COUNT": "2"}
        ).returncode
        == 0
    )
    assert logs(tmp_path).count("resuming from") == 2
    record = read_json(moved / "run.json")
    assert (record["processes"], record["events_trained"]) == (2, 10 * 240)
    assert_same(weights(whole), weights(moved), rtol=1e-3, atol=1e-4)


def wait_for(done: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert time.monotonic() < deadline, logs(folder)
        time.sleep(0.2)
