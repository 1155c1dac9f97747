"""Dask workers in containers of YARN, in client and cluster mode, from HDFS to HDFS."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hepflow.config.shipped import shipped
from hepflow.config.stages import FeaturesConfig
from hepflow.score.tables import read_scores
from hepflow.system.places import place
from hepflow.system.publishing import publish_folder
from tests.support.calm_store import contents, made_calmly
from tests.support.delphes_events import write_dataset
from tests.support.packed_environment import notes, pack
from tests.support.toy_trigger import untrained, write_raw

pytest.importorskip("pyspark", reason="pip install 'hepflow[ingest]'")
pytest.importorskip("hdfs_native", reason="pip install 'hepflow[hdfs]'")

from tests.support.hadoop_cluster import HDFS, YARN, Hadoop, hadoop_cluster
from tests.support.jars import HADOOP, why_not
from tests.support.on_yarn import PACKED, SMALL, hepflow_here, run, submission

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spark,
    pytest.mark.yarn,
    pytest.mark.skipif(why_not(HADOOP) is not None, reason=str(why_not(HADOOP))),
]
TWO = {"spark.dynamicAllocation.maxExecutors": "2", "spark.executor.memoryOverhead": "1500m"}
"""Containers of a worker each, which compiles the physics, and shares this memory with Java."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hadoop]:
    with hadoop_cluster(tmp_path_factory.mktemp("yarn"), *HDFS, *YARN) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with events, a packed environment, and the shipped configuration, smaller."""
    folder = tmp_path_factory.mktemp("client")
    write_dataset(folder / "events", fragments=6)
    pack(folder)
    text = yaml.safe_load(shipped("cluster/yarn.yaml").read_text())
    del text["cluster"]["memory"]  # that of the containers
    text["cluster"]["spark"]["conf"] |= SMALL | TWO
    (folder / "yarn.yaml").write_text(yaml.safe_dump(text))
    return folder


@pytest.fixture(scope="module")
def there(cluster: Hadoop, folder: Path) -> Path:
    """Return a folder of HDFS with the events."""
    there = place(f"{cluster.url}/data")
    publish_folder(shutil.copytree(folder / "events", folder / "copy"), there / "events")
    return there


def check(folder: Path, output: Path) -> None:
    """Compare a store with one that is made here, of the same events."""
    config = FeaturesConfig(input=folder / "events", output=output, part_mb=0.001)
    assert contents(output) == made_calmly(config, folder / f"{output.name}-calm")


def test_features_in_client_mode(cluster: Hadoop, folder: Path, there: Path) -> None:
    paths = (f"--input={there}/events", f"--output={there}/client.zarr")
    own = ("features", "--config=yarn.yaml", "--cluster.workers=2", "--part-mb=0.001")
    done = hepflow_here(folder, *own, *paths, cluster=cluster)
    assert done.returncode == 0, done.stderr + cluster.log
    assert "on yarn, UI at" in done.stderr
    tunnel = r"to open the Dask dashboard from outside: ssh -N -L (\d+):\S+:\1 \S+@LOGIN_NODE"
    assert re.search(tunnel, done.stderr), done.stderr
    check(folder, there / "client.zarr")
    ran = {note.prefix for note in notes(folder)}
    assert {prefix.name for prefix in ran} == {"environment"}
    assert ran, "YARN may kill some before they can leave a note"


def test_features_in_cluster_mode_and_again_when_there_is_nothing_to_do(
    cluster: Hadoop, folder: Path, there: Path
) -> None:
    paths = (f"--input={there}/events", f"--output={there}/cluster.zarr")
    own = ("features", "--cluster.kind=spark", "--cluster.workers=2", "--part-mb=0.001")
    properties = SMALL | PACKED | TWO | {"spark.driver.memoryOverhead": "1g"}
    command = submission(*own, *paths, properties=properties, executors=1)
    done = run(command, folder, cluster)
    assert done.returncode == 0, done.stderr + cluster.log
    assert "final status: SUCCEEDED" in done.stderr
    check(folder, there / "cluster.zarr")
    ran = {note.prefix for note in notes(folder)}
    assert len({prefix.parent for prefix in ran}) > 1, "that of the driver, and of an executor"
    again = run(command, folder, cluster)
    assert again.returncode == 0, again.stderr + cluster.log
    assert "final status: SUCCEEDED" in again.stderr


def test_scores_in_client_mode(cluster: Hadoop, folder: Path, there: Path) -> None:
    for number in range(2):
        write_raw(folder / "raw" / "qcd" / f"{number}.root", [60], seed=number)
    untrained(folder / "model", folder / "raw" / "qcd" / "0.root")
    for name in ("raw", "model"):
        publish_folder(shutil.copytree(folder / name, folder / f"{name}-copy"), there / name)
    for top, more in {folder: (), there: ("--config=yarn.yaml",)}.items():
        paths = (f"--input={top}/raw", f"--model={top}/model/model.onnx", f"--output={top}/scores")
        done = hepflow_here(folder, "score", *paths, "--cluster.workers=1", *more, cluster=cluster)
        assert done.returncode == 0, done.stderr + cluster.log
    here, far = (read_scores(top / "scores").sort_by("event_id") for top in (folder, there))
    assert here == far
    assert len(here) > 0


def test_a_relative_path_is_refused_in_cluster_mode(cluster: Hadoop, folder: Path) -> None:
    own = ("features", "--cluster.kind=spark", "--input=events", "--output=s.zarr")
    done = run(submission(*own, properties=SMALL | PACKED, executors=1), folder, cluster)
    assert done.returncode != 0
    logs = "".join(path.read_text() for path in cluster.root.glob("node*/log/*/*/std*"))
    assert "--input events, --output s.zarr: in cluster mode paths must be absolute" in logs
