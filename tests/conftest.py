"""Fixtures and marks every test may use, and the list of real parts at the end of a run."""

import gc
import importlib
import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import hepflow.train  # noqa: F401 - before Lightning, as in a command
from hepflow.config.engines import SparkConfig
from hepflow.errors import MissingDependency
from hepflow.system import durable
from hepflow.system.places import place
from tests.support import stores
from tests.support.hadoop_cluster import Hadoop
from tests.support.jars import spark_kafka

# No property may fail because the machine is busy. `make system` takes the second profile.
for name, examples in (("default", 20), ("nightly", 200)):
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A Java that starts in half the time, since no test computes for long in Java.
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"
for variable in ("SPARK_LAUNCHER_OPTS", "SPARK_SUBMIT_OPTS"):
    os.environ.setdefault(variable, QUICK)

# A disk that is shared with others takes long to flush; the tests of durability turn it on.
os.environ.setdefault(durable.SWITCH, "0")

SHARED = Path(os.environ.get("HEPFLOW_SHARED", Path(__file__).parents[2] / "shared"))
PARTS = {
    "spark": "Spark on a Java of its own",
    "slurm": "a Slurm cluster",
    "sge": "a Grid Engine",
    "htcondor": "an HTCondor pool",
    "yarn": "YARN",
    "kerberos": "a Kerberos realm",
    "kafka": "Apache Kafka",
    "xrootd": "an XRootD server",
    "s3": "an S3 server",
    "hdfs": "an HDFS name node",
    "browser": "Chromium",
    "pythia": "Pythia8",
    "delphes": "Delphes",
    "fuse": "a FUSE file system",
    "shared": "the ROOT files of ../shared",
}

CRASHES = "crash states"
"""Property of a test that tried them, with their number."""


gc.disable()  # until all tests are imported: a third of the time of importing torch and Spark


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    for mark, part in PARTS.items():
        config.addinivalue_line("markers", f"{mark}: needs {part}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder and fixtures; run files with many slow tests first.

    Otherwise one process would end long after the others. Of tests/system/, `make test` runs one
    interrupt and one kill per engine, which are marked ``once``.
    """
    for item in items:
        in_system = item.path.is_relative_to(Path(__file__).parent / "system")
        if in_system and not item.get_closest_marker("once"):
            item.add_marker("system")
        for name in {"spark", "shared"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(name)
        if item.get_closest_marker("spark"):
            item.fixturenames.insert(0, "java")  # type: ignore[attr-defined]
        item.user_properties += [("part", mark) for mark in PARTS if item.get_closest_marker(mark)]
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List which real parts were used, and which were missing and why."""
    stats = terminalreporter.stats
    lines = []
    for mark, part in PARTS.items():
        own = ("part", mark)
        used = sum(own in report.user_properties for report in stats.get("passed", ()))
        skips = [one for one in stats.get("skipped", ()) if hasattr(one, "user_properties")]
        skipped = [one for one in skips if own in one.user_properties]  # else of a whole module
        if used:
            lines.append(f"{part}: used by {used} tests")
        if skipped:
            reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in skipped}
            lines.append(f"{part}: missing for {len(skipped)} tests ({'; '.join(sorted(reasons))})")
    if lines:
        terminalreporter.section("real parts")
        terminalreporter.write("\n".join(lines) + "\n")
    passed = stats.get("passed", ())
    if crashes := [text for one in passed for name, text in one.user_properties if name == CRASHES]:
        terminalreporter.section(CRASHES)
        terminalreporter.write("\n".join(sorted(crashes)) + "\n")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real and sample ROOT files next to a developer's checkout."""
    if not (SHARED / "sample").is_dir():
        pytest.skip(
            f"no sample files in {SHARED} (set HEPFLOW_SHARED to a folder with real/ and sample/)"
        )
    return SHARED


@pytest.fixture(scope="session")
def java() -> None:
    """Skip a test where Spark has no Java to run on."""
    try:
        importlib.import_module("hepflow.engines.java").java_home()
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def spark(java: None) -> Iterator[Any]:
    """Yield one Spark session for all tests, as it takes seconds to start; the stages use it."""
    pytest.importorskip("pyspark")
    module = importlib.import_module("hepflow.engines.spark")
    jars = ",".join(map(str, spark_kafka()))
    conf = {"spark.jars": jars} if jars else {}
    config = SparkConfig(master="local[2]", driver_memory="1g", conf=conf)
    with module.spark_session(config, "hepflow tests") as session:
        yield session


@pytest.fixture(scope="session")
def hdfs() -> Iterator[Hadoop]:
    """Yield a running HDFS."""
    with stores.hdfs_server() as running:
        yield running


@pytest.fixture(scope="session")
def s3_server() -> Iterator[stores.S3Server]:
    """Yield a running S3 server, which can be made to fail."""
    with stores.s3_server() as running:
        yield running


@pytest.fixture(scope="session")
def s3(s3_server: stores.S3Server) -> str:
    """Return the URL of a bucket."""
    return s3_server.url


@pytest.fixture(scope="session")
def xrootd() -> Iterator[tuple[str, Path]]:
    """Yield the URL of a folder on an XRootD server, and the folder."""
    with stores.xrootd_server() as served:
        yield served


@pytest.fixture(autouse=True)
def _own_physics() -> Iterator[None]:
    """Forget the users' physics of a test: the next one writes a module of the same name."""
    yield
    sys.modules.pop("my_physics", None)


AWAY = [
    pytest.param(name, marks=[getattr(pytest.mark, name), pytest.mark.slow])
    for name in ("hdfs", "s3", "xrootd")
]


@pytest.fixture(params=AWAY)
def away(request: pytest.FixtureRequest) -> Path:
    """Return a folder that does not exist yet, on each kind of remote store in turn."""
    return _new_folder(request)


@pytest.fixture(params=["disk", *AWAY])
def anywhere(request: pytest.FixtureRequest) -> Path:
    """Return a folder that does not exist yet, on this disk and on each remote store in turn."""
    return _new_folder(request)


def _new_folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "disk":
        return request.getfixturevalue("tmp_path") / "new"
    store = request.getfixturevalue(request.param)
    url = {"hdfs": lambda: store.url, "s3": lambda: store, "xrootd": lambda: store[0]}
    return place(f"{url[request.param]()}/{uuid.uuid4().hex}")
