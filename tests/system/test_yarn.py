"""`hepflow ingest` and `spark-train` on YARN, driver here or in the cluster, packed environment."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.commands import Command
from tests.support.packed_environment import Note, notes, pack
from tests.support.root_files import write_delphes
from tests.support.toy_store import toy_store
from tests.support.trainings import assert_same, weights

pytest.importorskip("pyspark", reason="pip install 'hepflow[ingest]'")

import hepflow
from hepflow.config.engines import SparkConfig
from hepflow.config.shipped import shipped
from hepflow.data.ledger import Ledger
from hepflow.engines import spark
from hepflow.errors import HepflowError
from hepflow.system.files import read_json
from tests.support.hadoop_cluster import YARN, Hadoop, hadoop_cluster
from tests.support.jars import HADOOP, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spark,
    pytest.mark.yarn,
    pytest.mark.skipif(why_not(HADOOP) is not None, reason=str(why_not(HADOOP))),
]

SPARK_HOME = Path(str(importlib.util.find_spec("pyspark").origin)).parent
MAIN = str(Path(hepflow.__path__[0]) / "__main__.py")
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SAMPLES = "--samples={qcd: [qcd], ttbar: [ttbar]}"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hadoop]:
    with hadoop_cluster(tmp_path_factory.mktemp("yarn"), *YARN) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw files, a packed environment, and a small configuration."""
    folder = tmp_path_factory.mktemp("client")
    for seed, name in enumerate(("qcd", "ttbar")):
        write_delphes(folder / "raw" / name / "one.root", [100], seed=seed)
    pack(folder)
    text = yaml.safe_load(shipped("spark/yarn.yaml").read_text())
    text["spark"] |= {
        "driver_memory": "512m",
        "conf": {**text["spark"]["conf"], **for_the_test(folder)},
    }
    (folder / "yarn.yaml").write_text(yaml.safe_dump(text))
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """Train mine.yaml in two processes without Spark; its net needs no numba (slow to compile)."""
    store = toy_store(folder / "toy.zarr", events=35, mean_particles=5)
    text = yaml.safe_load(shipped("train/hlf.yaml").read_text()) | {
        "data": {"store": str(store.path), "batch_size": 31, "eval_batch_size": 50, "workers": 0},
        "trainer": {"max_epochs": 2},
        "threads": 1,
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(text))
    ddp = (
        "--trainer.strategy=ddp",
        "--trainer.devices=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    )
    done = hepflow_here(folder, "train", "fit", "--config=mine.yaml", *ddp, "--output=plain")
    assert done.returncode == 0, done.stderr
    return folder / "plain"


def for_the_test(folder: Path) -> dict[str, str]:
    """Small and quick: the nodes have Spark's jars, and a container gets a gigabyte and a half."""
    return {
        "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
        "spark.yarn.stagingDir": (folder / "staging").as_uri(),
        "spark.yarn.queue": "research",
        "spark.yarn.maxAppAttempts": "1",
        "spark.driver.extraJavaOptions": QUICK,
        "spark.yarn.am.extraJavaOptions": QUICK,
        "spark.executor.extraJavaOptions": QUICK,
        "spark.executor.memory": "512m",
        "spark.executor.memoryOverhead": "1g",
        "spark.executor.cores": "1",
        "spark.dynamicAllocation.maxExecutors": "1",
    }


def hepflow_here(
    folder: Path, *arguments: str, cluster: Hadoop | None = None
) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "hepflow", *arguments], folder, cluster)


def submit(
    cluster: Hadoop, folder: Path, sent: str, *arguments: str, executors: int
) -> subprocess.CompletedProcess[str]:
    """Submit a command with the driver in the cluster, and with a file."""
    options = [
        word
        for name, value in for_the_test(folder).items()
        for word in ("--conf", f"{name}={value}")
    ]
    packed = (
        "--archives",
        "environment.tar.gz#environment",
        "--conf",
        "spark.pyspark.python=./environment/bin/python",
    )
    command = [
        str(SPARK_HOME / "bin" / "spark-submit"),
        "--master",
        "yarn",
        "--deploy-mode",
        "cluster",
        "--driver-memory",
        "512m",
    ]
    size = ("--num-executors", str(executors))
    return run(
        [*command, *packed, "--files", sent, *size, *options, MAIN, *arguments], folder, cluster
    )


def run(
    command: list[str], folder: Path, cluster: Hadoop | None
) -> subprocess.CompletedProcess[str]:
    environment = {
        **(cluster.environment if cluster else os.environ),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
    }
    environment |= {"OMP_NUM_THREADS": "1"}
    for name in ("PYSPARK_PYTHON", "PYTHONPATH"):  # containers have a Python of their own
        environment.pop(name, None)
    notes(folder)  # of earlier commands
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )


def containers(left: list[Note]) -> set[str]:
    """Return the containers in which only the packed Python and the packed hepflow ran."""
    assert {note.prefix.name for note in left} == {"environment"}
    assert all("environment/lib" in note.hepflow for note in left if note.hepflow != "None"), left
    return {note.prefix.parent.name for note in left}


def check(output: Path) -> None:
    ledger = Ledger.from_dict(read_json(output / "_hepflow.json")["ledger"]).check()
    assert ledger.n_in == 200
    assert not ledger.lost


def test_the_servers_are_of_the_version_of_spark_s_clients() -> None:
    (client,) = (SPARK_HOME / "jars").glob("hadoop-client-api-*.jar")
    assert (HADOOP / client.name).is_file()


def test_without_the_cluster_s_configuration_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HepflowError, match="HADOOP_CONF_DIR is not set"):
        spark._start(SparkConfig(master="yarn"), "test")


def test_the_kerberos_options_that_the_shipped_configuration_offers_reach_hadoop_s_login(
    tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "core-site.xml").write_text(
        "<configuration><property><name>hadoop.security.authentication</name>"
        "<value>kerberos</value></property></configuration>"
    )
    text = shipped("spark/yarn.yaml").read_text().replace("# spark.kerberos.", "spark.kerberos.")
    (tmp_path / "mine.yaml").write_text(text.replace("/home/me/me.keytab", "me.keytab"))
    realm = "-Djava.security.krb5.realm=EXAMPLE.ORG -Djava.security.krb5.kdc=localhost"
    command = [
        sys.executable,
        "-m",
        "hepflow",
        "ingest",
        "--config=mine.yaml",
        f"--input={folder}/raw",
        SAMPLES,
        "--output=out",
    ]
    environment = {**os.environ, "HADOOP_CONF_DIR": str(tmp_path), "JAVA_TOOL_OPTIONS": realm}

    def said() -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert "spark.kerberos.keytab: no file me.keytab" in said()
    (tmp_path / "me.keytab").write_text("no keys")
    assert "failure to login: for principal: me@EXAMPLE.ORG from keytab me.keytab" in said()


def test_ingest_in_client_mode(cluster: Hadoop, folder: Path) -> None:
    done = hepflow_here(
        folder,
        "ingest",
        "--config=yarn.yaml",
        "--input=raw",
        "--output=client",
        SAMPLES,
        cluster=cluster,
    )
    assert done.returncode == 0, done.stderr + cluster.log
    assert "on yarn, UI at" in done.stderr
    check(folder / "client")
    assert len(containers(notes(folder))) == 1, "that of the executor"
    assert "root.research" in cluster.log


def test_while_an_application_waits_the_terminal_says_why(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """There is no node at first, as when a queue is full."""
    with hadoop_cluster(tmp_path_factory.mktemp("empty"), "resourcemanager") as empty:
        environment = {"SPARK_LOCAL_IP": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment["HADOOP_CONF_DIR"] = empty.environment["HADOOP_CONF_DIR"]
        options = ("--config=yarn.yaml", "--input=raw", "--output=waited", SAMPLES)
        waits = Command("ingest", *options, cwd=folder, env=environment)
        waits.wait_for("waits in queue root.research: ")
        empty.start("nodemanager")
        ended = waits.finish()
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("waits in queue") == 1, "then every minute"
    check(folder / "waited")


def test_ingest_in_cluster_mode(cluster: Hadoop, folder: Path) -> None:
    (folder / "ingest.yaml").write_text(
        yaml.safe_dump({"input": f"{folder}/raw", "samples": {"qcd": ["qcd"], "ttbar": ["ttbar"]}})
    )
    done = submit(
        cluster,
        folder,
        "ingest.yaml",
        "ingest",
        "--config=ingest.yaml",
        f"--output={folder}/cluster",
        executors=1,
    )
    assert done.returncode == 0, done.stderr + cluster.log
    assert "queue: root.research" in done.stderr
    assert "final status: SUCCEEDED" in done.stderr
    check(folder / "cluster")
    assert len(containers(notes(folder))) == 2, "those of the driver and of an executor"


def test_spark_train_in_client_mode_gives_the_weights_of_plain_ddp(
    cluster: Hadoop, folder: Path, plain: Path
) -> None:
    options = (
        "--config=mine.yaml",
        "--config=yarn.yaml",
        "--output=trained",
        "--spark.num_processes=2",
    )
    done = hepflow_here(folder, "spark-train", *options, cluster=cluster)
    assert done.returncode == 0, done.stderr + cluster.log
    assert "epoch 2 of 2  val_loss" in done.stderr, "on the driver's terminal"
    assert_same(weights(plain), weights(folder / "trained"), **CLOSE)
    left = notes(folder)
    assert len(containers(left)) == 2, "one executor a process"
    assert folder in {note.ended for note in left}, "paths are those of the driver's folder"


def test_spark_train_in_cluster_mode_gives_the_weights_of_plain_ddp(
    cluster: Hadoop, folder: Path, plain: Path
) -> None:
    output = folder / "trained-there"
    command = ("spark-train", "--config=mine.yaml", f"--output={output}", "--spark.num_processes=2")
    done = submit(
        cluster, folder, "mine.yaml", *command, executors=1
    )  # those of the job are hepflow's to ask for
    assert done.returncode == 0, done.stderr + cluster.log
    assert "final status: SUCCEEDED" in done.stderr
    assert_same(weights(plain), weights(output), **CLOSE)
    left = notes(folder)
    assert all(note.ended == note.began for note in left), (
        "no process looks for files in the driver's container"
    )
    assert len(containers(left)) == 3, "those of the driver and of an executor a process"


def test_an_application_that_fails_in_client_mode_is_a_failure_to_yarn_too(
    cluster: Hadoop, folder: Path
) -> None:
    start = "from hepflow.cli import parse; from hepflow.engines.spark import spark_session; "
    start += "config = parse('ingest', ['--config=yarn.yaml'])"
    fail = "with spark_session(config.spark, 'fails'): raise SystemError('so')"
    done = run([sys.executable, "-c", f"{start}\n{fail}"], folder, cluster)
    assert "SystemError: so" in done.stderr
    deadline = time.monotonic() + 120  # its master ends after the driver
    while "finalStatus=FAILED" not in cluster.log:
        assert time.monotonic() < deadline, cluster.log
        time.sleep(0.2)
