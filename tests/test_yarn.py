"""`hepflow ingest` on YARN, driver here or in the cluster, with the environment shipped. The test's name says on which YARN."""

import importlib.util
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from root_files import write_delphes

pytest.importorskip("pyspark", reason="pip install 'hepflow[ingest]'")

from yarn_cluster import KIND, YarnCluster, why_not, yarn_cluster

import hepflow
from hepflow import spark
from hepflow.config import SparkConfig, shipped
from hepflow.errors import HepflowError
from hepflow.ledger import Ledger, read_json

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

SPARK_HOME = Path(str(importlib.util.find_spec("pyspark").origin)).parent
MAIN = str(Path(hepflow.__path__[0]) / "__main__.py")
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SAMPLES = "--samples={qcd: [qcd], ttbar: [ttbar]}"


@pytest.fixture(scope="module", params=[KIND])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[YarnCluster]:
    with yarn_cluster(tmp_path_factory.mktemp("yarn"), SPARK_HOME) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: raw files, and an environment whose Python leaves a note wherever it is started."""
    folder = tmp_path_factory.mktemp("client")
    for seed, name in enumerate(("qcd", "ttbar")):
        write_delphes(folder / "raw" / name / "one.root", [100], seed=seed)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho "$PWD $0" >> {folder}/used\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with tarfile.open(folder / "environment.tar.gz", "w:gz") as archive:
        archive.add(python, "bin/python")
    return folder


def for_the_test(folder: Path) -> dict[str, str]:
    """Small and quick: the nodes have Spark's jars, and a container gets a gigabyte."""
    return {
        "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
        "spark.yarn.stagingDir": (folder / "staging").as_uri(),
        "spark.yarn.queue": "research",
        "spark.driver.extraJavaOptions": QUICK,
        "spark.yarn.am.extraJavaOptions": QUICK,
        "spark.executor.extraJavaOptions": QUICK,
        "spark.executor.memory": "512m",
        "spark.executor.memoryOverhead": "512m",
        "spark.executor.cores": "1",
        "spark.executor.instances": "1",
        "spark.dynamicAllocation.maxExecutors": "1",
    }


def run(cluster: YarnCluster, folder: Path, *command: str) -> str:
    environment = {**cluster.environment, "SPARK_LOCAL_IP": "127.0.0.1"}
    environment.pop("PYSPARK_PYTHON", None)
    (folder / "used").unlink(missing_ok=True)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, f"{done.stderr[-6000:]}\n{cluster.log[-2000:]}"
    return done.stdout + done.stderr


def places(folder: Path) -> set[str]:
    """Containers in which the shipped Python ran."""
    lines = [line.split() for line in (folder / "used").read_text().splitlines()]
    assert {python for _, python in lines} == {"./environment/bin/python"}
    return {Path(place).name for place, _ in lines}


def check(output: Path) -> None:
    ledger = Ledger.from_dict(read_json(output / "_hepflow.json")["ledger"]).check()
    assert ledger.n_in == 200
    assert not ledger.lost


def test_without_the_cluster_s_configuration_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HepflowError, match="HADOOP_CONF_DIR is not set"):
        spark._start(SparkConfig(master="yarn"), "test")


def test_client_mode_by_the_shipped_configuration(cluster: YarnCluster, folder: Path) -> None:
    text = yaml.safe_load(shipped("spark/yarn.yaml").read_text())
    text["spark"] |= {"driver_memory": "512m", "conf": {**text["spark"]["conf"], **for_the_test(folder)}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(text))
    options = ("--config=mine.yaml", "--input=raw", "--output=client", SAMPLES)
    printed = run(cluster, folder, sys.executable, "-m", "hepflow", "ingest", *options)
    assert "on yarn, UI at" in printed
    check(folder / "client")
    (executor,) = places(folder)
    if KIND == "stand_in":
        assert (cluster.root / "containers" / executor / "pyspark.zip").is_file(), "Spark's own Python part comes along"
        assert "queue=research name=hepflow ingest" in cluster.log
        assert "memory=1024 cores=1" in cluster.log


def test_cluster_mode_by_spark_submit(cluster: YarnCluster, folder: Path) -> None:
    options = [word for name, value in for_the_test(folder).items() for word in ("--conf", f"{name}={value}")]
    shipped_python = ("--archives", "environment.tar.gz#environment", "--conf", "spark.pyspark.python=./environment/bin/python")
    submit = (str(SPARK_HOME / "bin" / "spark-submit"), "--master", "yarn", "--deploy-mode", "cluster", "--driver-memory", "512m")
    (folder / "ingest.yaml").write_text(yaml.safe_dump({"input": f"{folder}/raw", "samples": {"qcd": ["qcd"], "ttbar": ["ttbar"]}}))
    ingest = ("ingest", "--config=ingest.yaml", f"--output={folder}/cluster")
    printed = run(cluster, folder, *submit, *shipped_python, "--files", "ingest.yaml", *options, MAIN, *ingest)
    assert "queue: research" in printed
    assert "final status: SUCCEEDED" in printed
    check(folder / "cluster")
    assert len(places(folder)) >= 2, "those of the driver and of an executor"
