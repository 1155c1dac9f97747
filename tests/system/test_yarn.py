"""`ingest` and `spark-train` on YARN and HDFS: driver here or there, packed environment."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.support.packed_environment import Note, notes, pack
from tests.support.root_files import write_delphes
from tests.support.toy_store import toy_store
from tests.support.trainings import assert_same, weights

pytest.importorskip("pyspark", reason="pip install 'hepflow[ingest]'")
pytest.importorskip("hdfs_native", reason="pip install 'hepflow[hdfs]'")

from hepflow.config.engines import SparkConfig
from hepflow.config.shipped import shipped
from hepflow.engines import spark
from hepflow.errors import HepflowError
from hepflow.score.tables import read_scores
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.publishing import publish_folder
from hepflow.system.storage import read_bytes
from tests.support.commands import Command
from tests.support.hadoop_cluster import HDFS, SECOND, YARN, Hadoop, hadoop_cluster
from tests.support.jars import HADOOP, why_not
from tests.support.kafka_broker import broker
from tests.support.on_yarn import (
    PACKED,
    SMALL,
    SPARK_HOME,
    hepflow_here,
    run,
    submission,
    yarn_yaml,
)
from tests.support.toy_trigger import ingest, untrained, write_raw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spark,
    pytest.mark.yarn,
    pytest.mark.skipif(why_not(HADOOP) is not None, reason=str(why_not(HADOOP))),
]

SAMPLES = "--samples={qcd: [qcd], ttbar: [ttbar]}"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hadoop]:
    with hadoop_cluster(tmp_path_factory.mktemp("yarn"), *HDFS, *YARN, SECOND) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw files, a packed environment, and a small configuration."""
    folder = tmp_path_factory.mktemp("client")
    for seed, name in enumerate(("qcd", "ttbar")):
        write_delphes(folder / "raw" / name / "one.root", [100], seed=seed)
    pack(folder)
    yarn_yaml(folder)
    return folder


@pytest.fixture(scope="module")
def there(cluster: Hadoop, folder: Path) -> Path:
    """Return a folder of HDFS with the raw files and a feature store."""
    there = place(f"{cluster.url}/data")
    publish_folder(shutil.copytree(folder / "raw", folder / "raw-copy"), there / "raw")
    store = toy_store(folder / "toy.zarr", events=35, mean_particles=5)
    publish_folder(shutil.copytree(store.path, folder / "copy"), there / "toy.zarr")
    return there


@pytest.fixture(scope="module")
def expected(folder: Path) -> Mapping[str, bytes]:
    """Return the fragments that a plain loop over the tasks writes, without Spark."""
    ingest(folder / "raw", folder / "expected", ("qcd", "ttbar"))
    return fragments(folder / "expected")


def fragments(output: Path) -> dict[str, bytes]:
    """Return the bytes of every fragment of a dataset."""
    return {
        name: read_bytes(output / name) for name in read_json(output / "_hepflow.json")["fragments"]
    }


@pytest.fixture(scope="module")
def plain(folder: Path, there: Path) -> Path:
    """Train mine.yaml in two processes without Spark; its net needs no numba (slow to compile)."""
    text = yaml.safe_load(shipped("train/hlf.yaml").read_text()) | {
        "data": {"batch_size": 31, "eval_batch_size": 50, "workers": 0},
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
    own = ("--config=mine.yaml", "--data.store=toy.zarr", "--output=plain")
    done = hepflow_here(folder, "train", "fit", *own, *ddp)
    assert done.returncode == 0, done.stderr
    return folder / "plain"


def submit(
    cluster: Hadoop, folder: Path, sent: str, *arguments: str, executors: int
) -> subprocess.CompletedProcess[str]:
    """Submit a command with the driver in the cluster, and with a file."""
    notes(folder)  # of earlier commands
    files = {"spark.yarn.dist.files": sent}
    properties = SMALL | PACKED | files
    return run(submission(*arguments, properties=properties, executors=executors), folder, cluster)


def containers(left: list[Note]) -> set[str]:
    """Return the containers in which only the packed Python and the packed hepflow ran."""
    assert {note.prefix.name for note in left} == {"environment"}
    assert all("environment/lib" in note.hepflow for note in left if note.hepflow != "None"), left
    return {note.prefix.parent.name for note in left}


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


def test_ingest_in_client_mode(
    cluster: Hadoop, folder: Path, there: Path, expected: Mapping[str, bytes]
) -> None:
    """The URL of the input leaves the server to the cluster's configuration."""
    paths = (f"--input=hdfs://{there.path}/raw", f"--output={there}/client", SAMPLES)
    notes(folder)
    done = hepflow_here(folder, "ingest", "--config=yarn.yaml", *paths, cluster=cluster)
    assert done.returncode == 0, done.stderr + cluster.log
    assert "on yarn, UI at" in done.stderr
    assert fragments(there / "client") == expected
    assert len(containers(notes(folder))) == 1, "that of the executor"
    assert "root.research" in cluster.log


def test_while_an_application_waits_the_terminal_says_why(
    folder: Path, expected: Mapping[str, bytes], tmp_path_factory: pytest.TempPathFactory
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
    assert fragments(folder / "waited") == expected


def test_ingest_in_cluster_mode(
    cluster: Hadoop, folder: Path, there: Path, expected: Mapping[str, bytes]
) -> None:
    samples = {"qcd": ["qcd"], "ttbar": ["ttbar"]}
    (folder / "ingest.yaml").write_text(
        yaml.safe_dump({"input": f"{there}/raw", "samples": samples})
    )
    command = ("ingest", "--config=ingest.yaml", f"--output={there}/cluster")
    done = submit(cluster, folder, "ingest.yaml", *command, executors=1)
    assert done.returncode == 0, done.stderr + cluster.log
    assert "queue: root.research" in done.stderr
    assert "final status: SUCCEEDED" in done.stderr
    assert fragments(there / "cluster") == expected
    assert len(containers(notes(folder))) == 2, "those of the driver and of an executor"


def test_spark_train_in_client_mode_gives_the_weights_of_plain_ddp(
    cluster: Hadoop, folder: Path, there: Path, plain: Path
) -> None:
    options = ("--config=mine.yaml", "--config=yarn.yaml", "--spark.num_processes=2")
    options += (f"--data.store={there}/toy.zarr", f"--output={there}/trained")
    notes(folder)
    done = hepflow_here(folder, "spark-train", *options, cluster=cluster)
    assert done.returncode == 0, done.stderr + cluster.log
    assert "epoch 2 of 2  val_loss" in done.stderr, "on the driver's terminal"
    assert_same(weights(plain), weights(there / "trained"), **CLOSE)
    left = notes(folder)
    assert len(containers(left)) == 2, "one executor a process"
    assert folder in {note.ended for note in left}, "paths are those of the driver's folder"


def test_spark_train_in_cluster_mode_gives_the_weights_of_plain_ddp(
    cluster: Hadoop, folder: Path, there: Path, plain: Path
) -> None:
    output = there / "trained-there"
    command = ("spark-train", "--config=mine.yaml", "--spark.num_processes=2")
    command += (f"--data.store={there}/toy.zarr", f"--output={output}")
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


@pytest.mark.kafka
def test_a_topic_is_scored_in_containers_in_both_modes(
    cluster: Hadoop, folder: Path, tmp_path: Path
) -> None:
    """The scores are those of the files from which the messages were made.

    In client mode a part of the Python source runs here, in the folder of the packed environment.
    """
    for number in range(2):
        write_raw(tmp_path / "raw" / "qcd" / f"{number}.root", [60], seed=number)
    model = untrained(tmp_path / "model", tmp_path / "raw" / "qcd" / "0.root")
    own = (f"--input={tmp_path}/raw", f"--output={tmp_path}/plain", f"--model={model}")
    assert hepflow_here(folder, "score", *own).returncode == 0
    with broker(tmp_path / "broker") as running:
        topic = f"kafka://{running.address}/events"
        published = hepflow_here(folder, "replay", own[0], f"--output={topic}", "--rate=0")
        assert published.returncode == 0, published.stderr
        own = ("score", "--stream", f"--input={topic}", f"--model={model}", "--idle-stop-s=5")
        here, there = (f"--output={tmp_path}/{name}" for name in ("here", "there"))
        elsewhere = ("--config", str(folder / "yarn.yaml"))
        (tmp_path / "environment.tar.gz").symlink_to(folder / "environment.tar.gz")
        refused = hepflow_here(tmp_path, *own, here, *elsewhere, cluster=cluster)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False), refused.stderr
        assert "spark.pyspark.python ./environment/bin/python: the source" in refused.stderr
        notes(folder)
        done = hepflow_here(folder, *own, here, "--config=yarn.yaml", cluster=cluster)
        assert done.returncode == 0, done.stderr + cluster.log
        assert len(containers(notes(folder))) == 2, "that of the executor, and the source's here"
        done = submit(cluster, folder, "yarn.yaml", *own, there, executors=1)
        assert done.returncode == 0, done.stderr + cluster.log
    plain = read_scores(tmp_path / "plain").sort_by("event_id")
    for name in ("here", "there"):
        scores = read_scores(tmp_path / name).sort_by("event_id")
        assert scores.select(plain.column_names) == plain


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
