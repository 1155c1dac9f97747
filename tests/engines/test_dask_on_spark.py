"""Dask workers as tasks of a Spark job: what Spark is asked for, lost workers, ends in one line."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hepflow.config.engines import ClusterConfig, DaskOnSparkConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.engines.dask import SETTINGS, dask_client, worker_memory
from hepflow.errors import ConfigError
from hepflow.features.job import run
from tests.support.calm_store import contents, made_calmly
from tests.support.delphes_events import write_dataset

pytest.importorskip("pyspark", reason="needs hepflow[ingest]")

from hepflow.engines import dask_on_spark, spark

GIB = 2**30
YARN = {"spark.executor.cores": "4"}
DEADLY = """
import os, pathlib, signal
from hepflow.physics.features import compute_features

def features(events, definitions):
    mark = pathlib.Path(MARK)
    if len(events) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return compute_features(events, definitions)
"""


def asked(config: ClusterConfig, n_tasks: int = 100) -> dict[str, str]:
    """Return the properties of the session that runs the workers."""
    memory = worker_memory(config, n_tasks) or 0
    session = dask_on_spark._session(config, n_tasks, memory, {"MALLOC_ARENA_MAX": 1})
    return spark.properties(session)


def on(master: str, conf: dict[str, str | None] | None = None, **options: Any) -> ClusterConfig:
    return ClusterConfig(
        kind="spark", spark=DaskOnSparkConfig(master=master, conf=conf or {}), **options
    )


def test_a_container_has_room_for_its_workers_outside_java_s_heap() -> None:
    found = asked(on("yarn", YARN, workers=6, memory="2GiB"))
    assert found["spark.executor.memoryOverhead"] == f"{384 + 4 * 2048}m"
    assert found["spark.executor.instances"] == "2", "four workers in each"
    assert found["spark.executor.memory"] == "512m"
    assert found["spark.executorEnv.MALLOC_ARENA_MAX"] == "1"
    one_each = asked(on("yarn", workers=6, memory="2GiB"), n_tasks=3)
    assert one_each["spark.executor.cores"] == "1"
    assert one_each["spark.executor.instances"] == "3", "no more than there is to do"
    assert one_each["spark.executor.memoryOverhead"] == f"{384 + 2048}m"
    assert "spark.executor.instances" not in asked(on("yarn", YARN)), "Spark's own number"


def test_a_standalone_cluster_gives_as_many_cores_as_there_are_workers() -> None:
    found = asked(on("spark://head:7077", {"spark.task.cpus": "2"}, workers=3))
    assert found["spark.cores.max"] == "6"
    assert "spark.executor.cores" not in found, "one executor per node"


def test_a_local_master_has_a_core_per_worker_and_starts_them_again() -> None:
    again = dask_on_spark.EVER_AGAIN
    assert asked(on("local[2]", workers=3))["spark.master"] == f"local[3,{again}]"
    assert asked(on("local[4]"), n_tasks=2)["spark.master"] == f"local[2,{again}]"
    assert asked(on("local"))["spark.master"] == f"local[1,{again}]"


def test_a_user_s_properties_win_but_for_those_without_which_lost_workers_stay_lost() -> None:
    own = {"spark.executor.memory": "3g", "spark.cores.max": None, "spark.speculation": "true"}
    own["spark.executor.memoryOverhead"] = "9g"
    found = asked(on("yarn", YARN | own, workers=6, memory="2GiB"))
    assert found["spark.executor.memory"] == "3g"
    assert found["spark.executor.memoryOverhead"] == "9g"
    assert "spark.cores.max" not in found
    assert found["spark.speculation"] == "false"
    assert int(found["spark.task.maxFailures"]) > SETTINGS["distributed.scheduler.allowed-failures"]


def test_the_memory_of_a_worker_is_its_share() -> None:
    assert worker_memory(on("yarn")) == 4 * GIB
    assert worker_memory(on("yarn", memory="1GiB")) == GIB
    share = on("yarn", YARN | {"spark.executor.memoryOverhead": "4480"})
    assert worker_memory(share) == GIB, "the overhead is in MiB, and 384 of them are Java's"
    alone = worker_memory(on("local[1]"))
    assert worker_memory(on("local[4]")) == alone // 4
    assert worker_memory(on("local[4]"), 2) == alone // 2


@pytest.mark.parametrize(
    ("overhead", "said"),
    [("4g", r"4g: an executor has 4 workers of 2,048 MiB"), ("much", r"a size such as 4g")],
)
def test_an_overhead_that_cannot_hold_the_workers_is_refused(overhead: str, said: str) -> None:
    conf = YARN | {"spark.executor.memoryOverhead": overhead}
    with pytest.raises(ConfigError, match=said):
        asked(on("yarn", conf, memory="2GiB"))


def test_without_spark_the_message_names_the_extra_and_other_kinds_do_not_need_it() -> None:
    code = """
import sys
sys.modules["pyspark"] = None
from hepflow.cli import main
import hepflow.features.job, hepflow.score.job
from hepflow.config.engines import ClusterConfig
from hepflow.engines import dask
dask.prepare(ClusterConfig(), {})
dask.worker_memory(ClusterConfig())
main(["features", "--cluster.kind", "spark"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line == ("hepflow: error: Spark is not installed. Run: pip install 'hepflow[ingest]'")


@pytest.mark.slow
@pytest.mark.spark
def test_a_store_made_in_spark_has_the_bytes_of_any_other_also_after_a_worker_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: Any
) -> None:
    mark = tmp_path / "killed"
    (tmp_path / "my_physics.py").write_text(DEADLY.replace("MARK", repr(str(mark))))
    monkeypatch.chdir(tmp_path)
    config = FeaturesConfig(
        input=write_dataset(Path("events"), fragments=6),
        output=Path("s.zarr"),
        part_mb=0.001,
        physics="my_physics:features",
        cluster=on("local[2]", memory="2GiB"),
    )
    run(config)
    assert mark.exists()
    assert contents(config.output) == made_calmly(config, Path("calm.zarr"))


@pytest.mark.slow
@pytest.mark.spark
def test_workers_have_the_settings_of_a_local_cluster_and_end_with_their_scheduler(
    spark: Any,
) -> None:
    def keep(n_bytes: int) -> None:
        sys.modules["__main__"].kept = b"x" * n_bytes

    def seen() -> tuple[Any, ...]:
        import dask  # noqa: PLC0415

        memory = dask.config.get("distributed.worker.memory.target")
        return os.getpid(), os.environ.get("OMP_NUM_THREADS"), memory

    with dask_client(on("local[2]", memory="1GiB"), 2) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.run(seen)
        limits = {each["memory_limit"] for each in client.scheduler_info()["workers"].values()}
        client.run(keep, 720 << 20)
        time.sleep(0.5)  # for five looks at the memory
        assert client.submit(os.getpid, pure=False).result(timeout=30), "full workers go on"
    assert len({pid for pid, *_ in found.values()}) == 2
    assert {tuple(rest) for _, *rest in found.values()} == {("1", False)}
    assert limits == {GIB}
    tracker = spark.sparkContext.statusTracker()
    deadline = time.monotonic() + 20
    while tracker.getActiveJobsIds():
        assert time.monotonic() < deadline, "the job outlives its scheduler"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.spark
def test_a_port_that_is_taken_is_named(spark: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = ClusterConfig(
            kind="spark",
            memory="1GiB",
            spark=DaskOnSparkConfig(master="local[2]", scheduler_port=port),
        )
        said = (
            rf"scheduler_port {port}: .* cannot listen on 127\.0\.0\.1 \(Address already in use\)"
        )
        with pytest.raises(ConfigError, match=said), dask_client(config, 1):
            pass
