"""Training inside Spark: the weights of plain DDP, and a job that loses a process."""

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from hepflow.config.shipped import shipped
from hepflow.config.stages import SparkTrainConfig
from hepflow.data.predictions import read_predictions
from hepflow.errors import ConfigError
from hepflow.system.files import read_json
from hepflow.train.help import groups
from tests.support.toy_store import toy_store
from tests.support.trainings import assert_same, weights

pytest.importorskip("pyspark", reason="needs hepflow[ingest]")

from pyspark.ml.torch.log_communication import LogStreamingClient

from hepflow.train.spark.job import _for_the_job, _reason, spark_train
from hepflow.train.spark.task import connected
from hepflow.train.spark.terminal import Terminal
from tests.support.commands import Command, hepflow, listening_of
from tests.support.standalone_cluster import ask, standalone_cluster

pytestmark = [pytest.mark.slow, pytest.mark.spark]

TOY = (
    *("--config", str(shipped("train/hlf.yaml")), "--data.store", "toy.zarr", "--threads", "1"),
    *("--data.batch_size", "31", "--data.workers", "0", "--trainer.max_epochs", "2"),
)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def training_in(folder: Path) -> list[int]:
    """Return the ids of processes whose working folder this is."""
    return [
        process.pid
        for process in psutil.process_iter(["cwd"])
        if process.info["cwd"] == str(folder)
    ]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a folder and options: the inclusive net, in which executors are killed at step 9."""
    folder = tmp_path_factory.mktemp("spark")
    toy_store(folder / "toy.zarr", events=35, mean_particles=5)
    text = yaml.safe_load(shipped("train/inclusive.yaml").read_text())
    text["data"] = {"store": "toy.zarr", "batch_size": 31, "eval_batch_size": 50, "workers": 0}
    text["trainer"] = {
        "callbacks": [{"class_path": "tests.support.crash.KillOnce", "init_args": {"step": 9}}],
        "max_epochs": 2,
    }
    text["checkpoint_every_steps"] = 4
    (folder / "mine.yaml").write_text(yaml.safe_dump(text))
    return folder, ["--config", "mine.yaml", "--threads", "1"]


@pytest.fixture(scope="module")
def plain(options: tuple[Path, list[str]]) -> Path:
    """Return the run of two processes without Spark."""
    folder, own = options
    undisturbed(folder / "plain")
    ddp = (
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
    )
    done = hepflow("train", "fit", *own, *ddp, "--output", "plain", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "plain"


def undisturbed(output: Path) -> None:
    """Keep the processes of this run alive."""
    output.mkdir()
    for rank in range(2):
        (output / f"crashed-{rank}").touch()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, and the run `two` of two processes inside Spark."""
    folder = tmp_path_factory.mktemp("toy")
    toy_store(folder / "toy.zarr", events=35, mean_particles=5)
    two = ("--spark.num_processes", "2", "--spark.driver_memory", "512m")
    training, opened = Command("spark-train", *TOY, "--output", "two", *two, cwd=folder), set()
    while training.poll() is None:
        opened |= {address.ip for address in listening_of(training.pid)}
        time.sleep(0.2)
    done = training.finish()
    assert done.returncode == 0, done.stderr
    (folder / "opened.txt").write_text("\n".join(opened))
    return folder


def test_nothing_that_spark_train_starts_on_one_machine_listens_outside_it(toy: Path) -> None:
    opened = (toy / "opened.txt").read_text().split()
    assert opened, "gloo, Spark and the driver's terminal listen"
    assert set(opened) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_two_processes_in_spark_train_to_the_weights_of_one_without(toy: Path) -> None:
    done = hepflow("train", "fit", *TOY, "--output", "one", cwd=toy)
    assert done.returncode == 0, done.stderr
    assert_same(weights(toy / "one"), weights(toy / "two"), rtol=1e-4, atol=1e-6)
    records = [read_json(toy / name / "run.json") for name in ("one", "two")]
    assert [record["engine"] for record in records] == ["Lightning", "Spark"]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["events_trained"] == records[1]["events_trained"] == 2 * 210


def test_a_finished_training_starts_no_spark(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(toy)
    with caplog.at_level("INFO", logger="hepflow"):
        spark_train([*TOY, "--output", "two", "--spark.num_processes", "3"])
    assert "two is up to date" in caplog.messages[-1]
    assert not any("Spark" in message for message in caplog.messages)


@pytest.mark.system
def test_a_job_that_lost_an_executor_goes_on_to_the_weights_of_plain_ddp(
    options: tuple[Path, list[str]], plain: Path
) -> None:
    folder, own = options
    cluster = (
        "--spark.master",
        "local-cluster[2,1,1024]",
        "--spark.num_processes",
        "2",
        "--spark.driver_memory",
        "1g",
    )
    in_spark = ("spark-train", *own, "--output", "spark", *cluster)
    (folder / "spark").mkdir()
    (
        folder / "spark" / "crashed-0"
    ).touch()  # the executor of the second process is killed, the first is left waiting
    lost = hepflow(*in_spark, cwd=folder)
    assert lost.returncode == 2, lost.stderr
    (said,) = (line for line in lost.stderr.splitlines() if line.startswith("hepflow: "))
    assert "spark ended before its training did (process 2 of 2 ended: ExecutorLostFailure" in said
    assert "Run the same command to resume from spark/checkpoints/last.ckpt" in said
    assert not read_json(folder / "spark" / "run.json")["finished"]
    deadline = time.monotonic() + 60
    while training_in(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert training_in(folder) == [], "what the executor had started trains on without it"

    resumed = hepflow(*in_spark, cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from spark/checkpoints/last.ckpt" in resumed.stderr
    assert "epoch 2 of 2  val_loss" in resumed.stderr
    assert_same(weights(plain), weights(folder / "spark"), **CLOSE)
    one, two = (read_json(folder / name / "run.json") for name in ("plain", "spark"))
    assert (one["engine"], two["engine"]) == ("Lightning", "Spark")
    for key in (
        "config_hash",
        "provenance",
        "processes",
        "events_trained",
        "epochs",
        "threads",
        "splits_used",
    ):
        assert one[key] == two[key], key
    first, second = (
        read_predictions(folder / name / "predictions.parquet") for name in ("plain", "spark")
    )
    assert first.event_id.tolist() == second.event_id.tolist()
    assert np.allclose(first.logits, second.logits, atol=1e-5)


@pytest.mark.system
def test_executors_of_a_standalone_cluster_train_to_the_weights_of_plain_ddp(
    options: tuple[Path, list[str]], plain: Path
) -> None:
    folder, own = options
    undisturbed(folder / "standalone")
    small = {
        "spark.executor.memory": "512m",
        "spark.executorEnv.PYTHONPATH": str(Path(__file__).parents[2]),
    }
    (folder / "small.yaml").write_text(
        yaml.safe_dump({"spark": {"driver_memory": "512m", "num_processes": 2, "conf": small}})
    )
    (folder / "cluster").mkdir()
    with standalone_cluster(folder / "cluster", workers=1, cores=2, memory="1g") as cluster:
        there = ("--config", "small.yaml", "--spark.master", cluster.url, "--output", "standalone")
        done = hepflow("spark-train", *own, *there, cwd=folder)
        assert done.returncode == 0, done.stderr
        (app,) = ask(cluster.status)["completedapps"]
    assert (app["name"], app["cores"]) == ("hepflow spark-train standalone", 2)
    assert "epoch 2 of 2  val_loss" in done.stderr, "on the driver's terminal"
    assert_same(weights(plain), weights(folder / "standalone"), **CLOSE)


def test_a_wrong_option_is_named_before_spark_starts(
    options: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, own = options
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"num-procs.*See `hepflow spark-train --help`"):
        spark_train([*own, "--spark.num_procs", "2"])
    with pytest.raises(ConfigError, match="num_processes must be at least 1"):
        spark_train([*own, "--spark.num_processes", "0"])


def test_the_first_line_too_goes_to_the_driver_alone(capfd: pytest.CaptureFixture[str]) -> None:
    server = Terminal("secret")
    server.start("127.0.0.1")
    client, stranger = (LogStreamingClient("127.0.0.1", server.port) for _ in range(2))
    try:
        stranger.send("\x1b[2J nothing left")
        stranger.send("to read")
        assert client.failed, "PySpark would show a line by itself too"
        settings = {"log_streaming_client": client}
        failed = connected(lambda own: own["log_streaming_client"].failed, "secret", settings)
        assert not failed
        client.send("epoch 1\x1b[2J")
    finally:
        client.close()
        stranger.close()
        server.shutdown()
    assert capfd.readouterr().err == "epoch 1␛[2J\n", "and the lines of no stranger"


def test_processes_get_as_many_cores_as_they_ask_for() -> None:
    local = _for_the_job(SparkTrainConfig(num_processes=3, cpus_per_process=2))
    assert local.master == "local[6]"
    assert local.conf["spark.task.cpus"] == "2"
    far = _for_the_job(
        SparkTrainConfig(master="yarn", num_processes=3, conf={"spark.executor.cores": "8"})
    )
    assert far.master == "yarn"
    assert (far.conf["spark.executor.instances"], far.conf["spark.executor.cores"]) == ("3", "8")
    assert far.conf["spark.dynamicAllocation.enabled"] == "false"


JAVA = "An error occurred while calling o73.collectToPython.\n: org.apache.spark"
FAILED = (
    f"{JAVA}.SparkException: Job aborted due to stage failure: Could not recover from a failed "
    "barrier ResultStage. Most recent failure reason: Stage failed because barrier task "
    "ResultTask(0, 1) finished unsuccessfully.\n"
)


@pytest.mark.parametrize(
    ("spark_says", "expected"),
    [
        (
            f"{FAILED}ExecutorLostFailure (executor 1 exited)\n\tat x",
            "process 2 of 3 ended: ExecutorLostFailure (executor 1 exited)",
        ),
        (
            f"{FAILED}org.apache.spark.api.python.PythonException: Traceback\n\tat x",
            "process 2 of 3 ended, see above",
        ),
        (
            f"{JAVA}.scheduler.BarrierJobSlotsNumberCheckFailed: [SPARK-24819]: Barrier execution",
            "never had the cores for 3 processes",
        ),
        (
            f"{JAVA}.SparkException: Job 0 cancelled because SparkContext was shut down\n\tat x",
            "Job 0 cancelled because",
        ),
    ],
)
def test_a_failure_of_spark_is_one_line(spark_says: str, expected: str) -> None:
    reason = _reason(RuntimeError(spark_says), 3)
    assert expected in reason
    assert "\n" not in reason


def test_the_help_names_the_options_of_both() -> None:
    named = {option.name for options in groups(in_spark=True).values() for option in options}
    assert {"spark.num_processes", "spark.master", "data.store", "trainer.max_epochs"} <= named
    assert not {"trainer.devices", "trainer.accelerator", "trainer.num_nodes"} & named, (
        "Spark decides"
    )
