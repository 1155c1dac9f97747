"""What dies on YARN and HDFS, is preempted, or was never there: the same bytes, or one line."""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen

import psutil
import pytest

pytest.importorskip("pyspark", reason="pip install 'hepflow[ingest]'")
pytest.importorskip("hdfs_native", reason="pip install 'hepflow[hdfs]'")

from hepflow.data.ledger import Ledger
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.publishing import publish_folder
from hepflow.system.storage import listed, read_bytes
from hepflow_bench.copies import copy_as_new
from tests.support.commands import Command
from tests.support.hadoop_cluster import HDFS, SECOND, YARN, Hadoop, hadoop_cluster
from tests.support.jars import HADOOP, why_not
from tests.support.on_yarn import OURS, SMALL, environment, submission, yarn_yaml
from tests.support.root_files import write_delphes
from tests.support.toy_trigger import ingest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spark,
    pytest.mark.yarn,
    pytest.mark.skipif(why_not(HADOOP) is not None, reason=str(why_not(HADOOP))),
]
N_FILES, EVENTS = 24, 800
OPTIONS = ("--samples={qcd: [qcd], ttbar: [ttbar]}", "--target_partition_mb=1")
SCHEDULER = "yarn.resourcemanager"
PREEMPTION = f"{SCHEDULER}.monitor.capacity.preemption"
QUICK_TO_NOTICE = {
    **{f"{SCHEDULER}.{one}.liveness-monitor.expiry-interval-ms": 8000 for one in ("nm", "am")},
    "yarn.am.liveness-monitor.expiry-interval-ms": 8000,
    "yarn.nm.liveness-monitor.expiry-interval-ms": 8000,
    "yarn.nodemanager.resource.memory-mb": 4096,
    f"{SCHEDULER}.scheduler.monitor.enable": "true",
    f"{PREEMPTION}.monitoring_interval": 500,
    f"{PREEMPTION}.max_wait_before_kill": 1000,
    f"{PREEMPTION}.total_preemption_per_round": 1.0,
}
"""A node of two executors, lost after 8 s of silence (by default ten minutes), and preemption."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hadoop]:
    more, folder = {"yarn-site": QUICK_TO_NOTICE}, tmp_path_factory.mktemp("yarn")
    with hadoop_cluster(folder, *HDFS, *YARN, SECOND, more=more) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    template = write_delphes(root / "template", [200] * 4)
    for number in range(N_FILES):
        name = ("qcd", "ttbar")[number % 2]
        copy_as_new(template, root / "raw" / name / f"{number:02d}.root", number + 1)
    return root


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Mapping[str, bytes]:
    """Return the dataset that a plain loop over the tasks writes, without Spark."""
    ingest(folder / "raw", folder / "undisturbed", ("qcd", "ttbar"), 1 << 20)
    return dataset(folder / "undisturbed")


@pytest.fixture(scope="module")
def there(cluster: Hadoop, folder: Path) -> Path:
    """Return a folder of HDFS with the raw files."""
    there = place(f"{cluster.url}/data")
    publish_folder(shutil.copytree(folder / "raw", folder / "raw-copy"), there / "raw")
    return there


@pytest.fixture
def output(there: Path, request: pytest.FixtureRequest) -> Path:
    return there / re.sub(r"\W+", "-", request.node.name)


def dataset(output: Path) -> dict[str, bytes]:
    about = read_json(output / "_hepflow.json")
    ledger = Ledger.from_dict(about["ledger"]).check()
    assert (ledger.n_in, ledger.lost) == (N_FILES * EVENTS, ())
    stored = {f"{path.parent.name}/{path.name}" for path in listed(output, "*/*.parquet")}
    assert stored == set(about["fragments"])
    return {name: read_bytes(output / name) for name in about["fragments"]}


def started(cluster: Hadoop, folder: Path, output: Path, **properties: str) -> Command:
    """Start ingest in client mode, in two executors."""
    two = {"spark.dynamicAllocation.enabled": "false", "spark.executor.instances": "2"}
    own = {"spark.yarn.dist.archives": None} | OURS | two | properties
    config = yarn_yaml(folder, **own)
    paths = (f"--input={output.parent}/raw", f"--output={output}")
    return Command("ingest", config, *paths, *OPTIONS, env=environment(cluster), cwd=folder)


def processes(name: str) -> list[psutil.Process]:
    """Return the processes of this machine with a word in their command lines."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()) and "bash" not in process.name():
                found.append(process)
    return found


def n_records(output: Path) -> int:
    return len(listed(output / "_records", "*.json"))


def wait_until(condition: Callable[[], bool], alive: Callable[[], int | None]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert alive() is None, "it ended before anything could happen to it"
        assert time.monotonic() < deadline, "it does not get so far"
        time.sleep(0.05)


def test_a_killed_executor_loses_and_doubles_nothing(
    cluster: Hadoop, folder: Path, output: Path, undisturbed: Mapping[str, bytes]
) -> None:
    runs = started(cluster, folder, output)
    wait_until(lambda: n_records(output) >= 2, runs.poll)
    processes("YarnCoarseGrainedExecutorBackend")[0].kill()
    ended = runs.finish()
    assert ended.returncode == 0, ended.stderr
    assert dataset(output) == undisturbed


def test_a_killed_node_loses_and_doubles_nothing(
    cluster: Hadoop, folder: Path, output: Path, undisturbed: Mapping[str, bytes]
) -> None:
    """The NodeManager with all its containers; the other one has room for the rest."""
    runs = started(cluster, folder, output)
    wait_until(lambda: n_records(output) >= 2, runs.poll)
    name = next(
        name
        for name in ("nodemanager", SECOND)
        if "ExecutorBackend" in str(descendants(cluster.running[name].pid))
        and "ExecutorLauncher" not in str(descendants(cluster.running[name].pid))
    )
    cluster.kill(name)
    try:
        ended = runs.finish()
    finally:
        cluster.start(name)
    assert ended.returncode == 0, ended.stderr
    assert dataset(output) == undisturbed


def descendants(pid: int) -> list[str]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            found.append(" ".join(child.cmdline()))
    return found


def test_a_killed_application_master_of_a_driver_here_ends_the_run_which_resumes(
    cluster: Hadoop, folder: Path, output: Path, undisturbed: Mapping[str, bytes]
) -> None:
    runs = started(cluster, folder, output)
    wait_until(lambda: n_records(output) >= 2, runs.poll)
    processes("yarn.ExecutorLauncher")[0].kill()
    ended = runs.finish()
    (line,) = ended.stderr.strip().splitlines()[-1:]
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr
    assert line.startswith("hepflow: error: a Spark job failed: "), line
    again = started(cluster, folder, output).finish()
    assert again.returncode == 0, again.stderr
    assert "resuming" in again.stderr
    assert dataset(output) == undisturbed


def test_a_killed_driver_in_the_cluster_is_started_again_and_resumes(
    cluster: Hadoop, folder: Path, output: Path, undisturbed: Mapping[str, bytes]
) -> None:
    """By YARN, whose second attempt waits until the claim of the first one has run out."""
    properties = SMALL | OURS | {"spark.yarn.maxAppAttempts": "2"}
    paths = (f"--input={output.parent}/raw", f"--output={output}")
    command = submission("ingest", *paths, *OPTIONS, properties=properties, executors=2)
    with Popen(command, env=environment(cluster), cwd=folder, stderr=PIPE, text=True) as submit:
        wait_until(lambda: n_records(output) >= 2, submit.poll)
        processes("yarn.ApplicationMaster")[0].kill()
        said = submit.communicate(timeout=400)[1]
    assert submit.returncode == 0, said
    assert said.count("state: RUNNING") > 0
    assert dataset(output) == undisturbed


def test_a_killed_data_node_is_waited_for(
    cluster: Hadoop, folder: Path, output: Path, undisturbed: Mapping[str, bytes]
) -> None:
    runs = started(cluster, folder, output)
    wait_until(lambda: n_records(output) >= 2, runs.poll)
    cluster.kill("datanode")
    time.sleep(10)
    cluster.start("datanode")
    ended = runs.finish()
    assert ended.returncode == 0, ended.stderr
    assert dataset(output) == undisturbed


def test_preempted_executors_lose_and_double_nothing(
    cluster: Hadoop, folder: Path, output: Path, undisturbed: Mapping[str, bytes]
) -> None:
    """One queue takes all the room, until the application of another one comes."""
    wide = {"spark.executor.instances": "4", "spark.yarn.queue": "default"}
    runs = started(cluster, folder, output, **wide)
    wait_until(lambda: n_records(output) >= 1, runs.poll)
    other = started(cluster, folder, output.with_name("other"))
    both = runs.finish(), other.finish()
    assert [ended.returncode for ended in both] == [0, 0], both
    assert dataset(output) == dataset(output.with_name("other")) == undisturbed
    assert "reempted" in cluster.log


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"spark.yarn.queue": "nobody's"}, "unknown queue"),
        ({"spark.executor.memory": "6g"}, "above the max threshold"),
    ],
)
def test_what_yarn_refuses_is_one_line(
    cluster: Hadoop, folder: Path, output: Path, properties: Mapping[str, str], reason: str
) -> None:
    ended = started(cluster, folder, output, **properties).finish()
    (line,) = ended.stderr.strip().splitlines()[-1:]
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr
    assert re.match(f"hepflow: error: Spark does not start on yarn: .*{reason}", line), line
    assert len(line) < 500
    assert not output.exists() or not listed(output, "*.json")
