"""Speculation, and a tenth of the tasks killed, on a cluster: the bytes of an undisturbed run.

Spark starts a second attempt of a task that takes longer than others, on another node, and kills
the attempt that ends later. So attempts of a task write the same files at the same time, die while
they do, and may still write when the run has ended.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hepflow.data.events import open_events
from tests.support.commands import Command
from tests.support.dying_tasks import MOMENTS, met, spark_options
from tests.support.root_files import passing_ids, write_copies, write_delphes
from tests.support.small_stages import contents

pytest.importorskip("pyspark", reason="needs hepflow[ingest]")

from tests.support.standalone_cluster import StandaloneCluster, standalone_cluster

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1200)]
N_FILES, SHARE, SLOW_S = 40, 0.1, 20.0
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "50ms",
    "spark.speculation.minTaskRuntime": "50ms",
    "spark.speculation.multiplier": "1.1",
    "spark.speculation.quantile": "0.1",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("speculation")
    template = write_delphes(root / "template", [250] * 3)
    write_copies(template, root / "raw", N_FILES)
    assert template.stat().st_size > 1 << 19, "two files would be one task"
    return root / "raw"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    work = tmp_path_factory.mktemp("cluster")
    with standalone_cluster(work, workers=2, cores=2, memory="1g", apart=True) as running:
        yield running


def ingest(raw: Path, output: Path, master: str, conf: dict[str, str]) -> str:
    own = ("--samples={qcd: [qcd], ttbar: [ttbar]}", "--target_partition_mb=1")
    spark = (f"--spark.master={master}", "--spark.conf", json.dumps(conf))
    done = Command("ingest", f"--input={raw}", f"--output={output}", *own, *spark).finish()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def events_of(log: Path) -> Iterator[dict[str, Any]]:
    """Yield what Spark has written into its log of events."""
    for path in log.rglob("events_*"):
        yield from (json.loads(line) for line in path.read_text().splitlines())


@pytest.fixture(scope="module")
def calm(raw: Path) -> Path:
    ingest(raw, raw.parent / "calm", "local[2]", {})
    return raw.parent / "calm"


def files(dataset: Path) -> dict[str, Any]:
    """Return all files but notes and drafts, which an attempt that is killed last may leave."""
    found = contents(dataset).items()
    return {name: content for name, content in found if not Path(name).name.startswith(".")}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_speculation_and_a_tenth_of_the_tasks_killed_change_nothing(
    cluster: StandaloneCluster,
    raw: Path,
    calm: Path,
    tmp_path: Path,
    seed: int,
    record_property: Any,
) -> None:
    (tmp_path / "log").mkdir()
    log = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file://{tmp_path / 'log'}"}
    dying = spark_options(tmp_path / "faults", seed=seed, share=SHARE, slow=SHARE, slow_s=SLOW_S)
    on = {"spark.executor.memory": "512m", "spark.eventLog.compress": "false"}
    ingest(raw, tmp_path / "events", cluster.url, SPECULATION | dying | log | on)
    faults = Counter(met(tmp_path / "faults").values())
    attempts = [e["Task Info"] for e in events_of(tmp_path / "log") if "TaskStart" in e["Event"]]
    n_twice = sum(attempt["Speculative"] for attempt in attempts)
    n_killed = sum(faults[moment] for moment in MOMENTS)
    text = f"seed {seed}: {n_killed} of {len(attempts)} attempts killed, {n_twice} speculative"
    record_property("faults", text)
    print(text)
    assert n_killed > 0
    assert n_twice > 0
    assert files(tmp_path / "events") == files(calm)
    ledger = open_events(tmp_path / "events").ledger
    assert (ledger.n_in, ledger.n_lost) == (N_FILES * 750, 0)
    assert ledger.n_out == len(passing_ids(raw))
    again = ingest(raw, tmp_path / "events", "local[1]", {})
    assert "is up to date" in again
