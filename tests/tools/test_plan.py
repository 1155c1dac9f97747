"""`hepflow plan`: what it expects is what the stages then do, and what does not fit is named."""

import io
import json
import shutil
import uuid
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hepflow.cli import main, parse
from hepflow.config.engines import ClusterConfig, JobsConfig, SparkConfig
from hepflow.config.plan import PlanConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.stages import FeaturesConfig, IngestConfig
from hepflow.data.output import MARKER
from hepflow.data.runs import ONNX
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.features import job as features
from hepflow.ingest import job as ingest
from hepflow.score import job as score
from hepflow.statistics.scaling import Cost
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.storage import sizes_below
from hepflow.tools.plan.cluster import Cluster, cluster_of, estimate
from hepflow.tools.plan.job import run
from hepflow.tools.plan.lines import line
from hepflow.tools.plan.stages import Work
from tests.docs.test_commands import accept, calls
from tests.support.root_files import write_delphes
from tests.support.trainings import fit

pytestmark = [pytest.mark.slow, pytest.mark.spark]
TWO = {"qcd": ("qcd",), "ttbar": ("ttbar",)}
FILES, ENTRIES = 6, [200, 200]
"""ROOT files per class, and their events."""


@dataclass(frozen=True)
class Done:
    """A plan, and the stages that ran after it."""

    config: PlanConfig
    plan: dict[str, Any]

    def stage(self, name: str) -> dict[str, Any]:
        return self.plan["stages"][name]


def planned(config: PlanConfig) -> dict[str, Any]:
    with redirect_stdout(io.StringIO()) as printed:
        run(replace(config, json=True))
    return json.loads(printed.getvalue())


def write_raw(raw: Path) -> Path:
    for i, name in enumerate(TWO):
        for number in range(FILES):
            write_delphes(raw / name / f"{number}.root", ENTRIES, seed=100 * i + number)
    return raw


def config_in(folder: Path, **changed: Any) -> PlanConfig:
    places = {"output": "events", "store": "features.zarr", "runs": "runs", "scores": "scores"}
    own: dict[str, Any] = {key: folder / name for key, name in places.items()}
    own |= {"input": folder / "raw", "samples": TWO, "target_partition_mb": 1, "retries": 0}
    return PlanConfig(**{**own, "cluster": ClusterConfig(workers=2), "net": "none", **changed})


def run_ingest(config: PlanConfig) -> None:
    same = {"samples": TWO, "target_partition_mb": 1, "retries": 0}
    ingest.run(IngestConfig(input=config.input, output=config.output, **same))


def run_features(config: PlanConfig) -> None:
    own = FeaturesConfig(input=config.output, output=config.store, cluster=config.cluster)
    features.run(own)


@pytest.fixture(scope="module")
def done(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The plan of ingest and features, and then the stages."""
    folder = tmp_path_factory.mktemp("planned")
    write_raw(folder / "raw")
    config = config_in(folder)
    plan = planned(config)
    assert sorted(path.name for path in folder.iterdir()) == ["raw"], "a plan writes nothing"
    run_ingest(config)
    run_features(config)
    return Done(config, plan)


@pytest.fixture(scope="module")
def trained(done: Done) -> Done:
    """The plan of the further stages, and then these."""
    config = replace(done.config, net="hlf", epochs=1)
    plan, run_folder = planned(config), config.runs / "hlf"
    fit(EventStore.open(config.store), run_folder)
    own = ScoreConfig(
        model=run_folder / ONNX,
        input=config.input,
        output=config.scores,
        target_partition_mb=1,
        cluster=config.cluster,
    )
    score.run(own)
    return Done(config, plan)


def test_the_tasks_and_files_of_ingest_are_those_of_the_run(done: Done) -> None:
    stage, made = done.stage("ingest"), sizes_below(done.config.output)
    fragments = read_json(done.config.output / MARKER)["fragments"]
    assert len(fragments) > len(TWO)
    assert (stage["tasks"], stage["files_out"]) == (len(fragments), len(made))
    assert stage["files_in"] == done.plan["files"] == FILES * len(TWO)


def test_the_parts_and_files_of_the_store_are_those_of_the_run(done: Done) -> None:
    stage, store = done.stage("features"), EventStore.open(done.config.store)
    assert stage["tasks"] == len(store.sources()) > 0
    assert stage["files_out"] == len(sizes_below(done.config.store))


def test_the_files_of_runs_and_scores_are_those_of_the_run(trained: Done) -> None:
    assert trained.stage("train")["files_out"] == len(sizes_below(trained.config.runs / "hlf"))
    assert trained.stage("score")["files_out"] == len(sizes_below(trained.config.scores))
    n_in = FILES * len(TWO) * sum(ENTRIES)
    assert trained.stage("score")["events"] == pytest.approx(n_in, rel=0.02)


def test_the_events_are_those_of_the_run_within_the_error(done: Done) -> None:
    found, expected = read_json(done.config.output / MARKER)["ledger"], done.stage("ingest")
    assert found["n_in"] == FILES * len(TWO) * sum(ENTRIES)
    assert abs(expected["events"] - found["n_in"]) <= max(3 * expected["events_error"], 1)
    assert done.stage("features")["events"] == pytest.approx(found["n_out"], rel=0.1)


def test_the_bytes_of_like_files_are_those_of_the_run(done: Done) -> None:
    raw = sizes_below(done.config.input)
    assert done.stage("ingest")["bytes_in"] == sum(raw.values()) == done.plan["bytes"]
    fragments = sum(size for name, size in sizes_below(done.config.output).items() if "/" in name)
    assert done.stage("ingest")["bytes_out"] == pytest.approx(fragments, rel=0.1)
    parts = EventStore.open(done.config.store).records.values()
    written = sum(sum(record["bytes"].values()) for record in parts)
    assert done.stage("features")["bytes_out"] == pytest.approx(written, rel=0.1)


def test_finished_work_is_left_out(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done.config.input.parent, tmp_path / "copy")  # type: ignore[union-attr]
    config = config_in(tmp_path / "copy")
    for name in ("events", "features.zarr"):
        assert (tmp_path / "copy" / name).is_dir()
    shutil.rmtree(tmp_path / "copy" / "raw")
    (tmp_path / "copy" / "raw").symlink_to(done.config.input)  # files keep their times
    before = sizes_below(tmp_path / "copy" / "events")
    again = planned(config)["stages"]
    for name in ("ingest", "features"):
        left = [again[name][key] for key in ("tasks", "bytes_out", "files_out", "limit")]
        assert left == [0, 0, 0, "nothing left"]
    assert (again["ingest"]["done"], again["features"]["done"]) == (
        done.stage("ingest")["tasks"],
        done.stage("features")["tasks"],
    )
    assert sizes_below(tmp_path / "copy" / "events") == before


def test_a_file_of_the_sample_that_is_unreadable_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in TWO:
        write_delphes(tmp_path / "raw" / name / "a.root", [50])
    (tmp_path / "raw" / "qcd" / "b.root").write_bytes(b"not ROOT" * 10_000)
    run(config_in(tmp_path))
    text = capsys.readouterr().out
    assert "of the sample, qcd/b.root loses events: not a ROOT file" in " ".join(text.split())
    assert max(map(len, text.split("ingest:\n")[0].splitlines())) <= 100


@pytest.mark.s3
def test_input_and_outputs_may_be_urls(s3: str, tmp_path: Path) -> None:
    top = place(f"{s3}/{uuid.uuid4().hex}")
    for name in TWO:
        content = write_delphes(tmp_path / f"{name}.root", [60]).read_bytes()
        (top / "raw" / name / "a.root").write_bytes(content)
    places = {"output": top / "events", "store": top / "z.zarr", "scores": top / "scores"}
    found = planned(config_in(tmp_path, input=str(top / "raw"), **places))
    assert (found["stages"]["ingest"]["events"], found["problems"]) == (120, [])
    assert not (top / "events").exists()
    assert f"--output {top}/events" in found["stages"]["ingest"]["command"]


@pytest.mark.parametrize("content", [b"", b"not ROOT"])
def test_an_input_of_damaged_files_is_one_line_and_status_2(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in TWO:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.root").write_bytes(content)
    samples = "{qcd: [qcd], ttbar: [ttbar]}"
    with pytest.raises(SystemExit) as end:
        main(["plan", "--input", str(tmp_path), "--samples", samples, "--net", "none"])
    assert end.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "nothing in the sample is readable (the first, qcd/a.root:" in error


def test_an_input_without_files_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.root files here"):
        run(config_in(tmp_path, input=tmp_path))


def test_a_dataset_of_ingest_is_no_input(done: Done) -> None:
    with pytest.raises(DataError, match=r"a dataset of `hepflow ingest`\. Give the ROOT files"):
        run(replace(done.config, input=done.config.output))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quota": "much"}, "quota must be a size such as 128GB, got 'much'"),
        ({"memory": "3x"}, "memory must be a size such as 128GB, got '3x'"),
        ({"time_limit": "soon"}, "time_limit must be minutes"),
        ({"net": "resnet"}, "net 'resnet' is neither a file nor one of base, hlf, inclusive"),
    ],
)
def test_a_wrong_option_is_refused_before_the_input_is_listed(
    wrong: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config_in(tmp_path, **wrong))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    small = {"quota": "100kB", "quota_files": 10, "time_limit": "1", "memory": "300MB"}
    problems = planned(config_in(raw.parent, **small, cores=1))["problems"]
    starts = ["quota: 100.0 kB end in ingest, after", "quota: 10 files end in features, after"]
    starts += ["memory: a worker of ingest needs", "memory: a worker of features needs"]
    assert [one for one in starts if not any(found.startswith(one) for found in problems)] == []


def test_the_disk_of_the_outputs_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(tmp_path / "raw")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    (problem,) = planned(config_in(tmp_path))["problems"]
    assert problem.startswith("disk: 1.0 kB are free for ")


def work(stage: str = "ingest", n_tasks: int = 100, **changed: Any) -> Work:
    cost = Cost(stage, 10.0, 0.0, 0.0, 1.0, 0.0, error=0.0, separable=True)
    events = changed.pop("events", 6000.0)
    return Work(cost, events, task_s=[events / n_tasks] * n_tasks, worker_bytes=1e9, **changed)


MACHINES = Cluster("slurm", nodes=5, cores=10, memory=100 << 30)


@pytest.mark.parametrize(
    ("one", "on", "workers", "seconds", "limit"),
    [
        (work(), MACHINES, 50, 10 + 120, "CPU"),
        (work(n_tasks=60), MACHINES, 50, 10 + 200, "60 tasks"),
        (work(n_tasks=5), MACHINES, 5, 10 + 1200, "5 tasks"),
        (work(), replace(MACHINES, memory=4 << 30), 20, 10 + 300, "memory"),
        (work(events=10.0), MACHINES, 50, 10 + 0.2, "start-up"),
        (work(events=0.0, n_tasks=1), MACHINES, 1, 0, "nothing left"),
        (work(most_workers=2, why_no_more="batches of 64"), MACHINES, 2, 3010, "batches of 64"),
    ],
)
def test_the_wall_time_follows_from_tasks_workers_and_memory(
    one: Work, on: Cluster, workers: int, seconds: float, limit: str
) -> None:
    found = estimate(one, on)
    assert (found.workers, found.wall_s, found.limit) == (workers, pytest.approx(seconds), limit)
    assert found.fits
    assert not estimate(one, replace(on, memory=1 << 20)).fits


YARN = {"spark.executor.cores": "4", "spark.dynamicAllocation.maxExecutors": "50"}


@pytest.mark.parametrize(
    ("changed", "stage", "expected"),
    [
        ({"nodes": 1, "cores": 8}, "ingest", ("local", 1, 8)),
        ({"nodes": 4, "cores": 8}, "features", ("slurm", 4, 8)),
        ({"spark": SparkConfig(master="yarn", conf=YARN)}, "ingest", ("spark", 50, 4)),
        ({"spark": SparkConfig(master="yarn", conf=YARN)}, "features", ("spark", 50, 4)),
        ({"spark": SparkConfig(master="yarn"), "nodes": 3, "cores": 9}, "ingest", ("spark", 3, 9)),
        (
            {"cluster": ClusterConfig(kind="slurm", jobs=JobsConfig(max_jobs=7))},
            "features",
            ("slurm", 7, 8),
        ),
        ({"cluster": ClusterConfig(kind="htcondor"), "nodes": 9}, "ingest", ("htcondor", 1, 8)),
        ({"cluster": ClusterConfig(kind="htcondor"), "nodes": 9}, "score", ("htcondor", 9, 8)),
    ],
)
def test_the_machines_are_those_given_or_configured(
    changed: dict[str, Any], stage: str, expected: tuple[str, int, int], tmp_path: Path
) -> None:
    found = cluster_of(config_in(tmp_path, **{"cluster": ClusterConfig(), **changed}), stage)
    assert (found.kind, found.nodes, found.cores) == expected


HERE = Path(__file__).parents[2]
ASKED: dict[str, list[str]] = {
    "local": ["--cores", "8"],
    "slurm": ["--nodes", "4", "--cores", "16", "--memory", "64GB", "--target-partition-mb", "64"],
    "yarn": ["--config", "configs/spark/yarn.yaml", "--spark.conf.spark.yarn.queue", "research"],
    "dask on yarn": [
        *["--config", "configs/spark/yarn.yaml"],
        "--config",
        "configs/cluster/yarn.yaml",
    ],
    "address": ["--cluster.kind", "address", "--cluster.address", "tls://h:8786"],
    "htcondor": ["--cluster.kind", "htcondor", "--cluster.jobs.queue", "a b", "--keep-bits", "12"],
}


@pytest.mark.parametrize("where", ASKED)
@pytest.mark.parametrize("stage", ["ingest", "features", "train", "evaluate", "score"])
def test_hepflow_accepts_the_commands_of_a_plan(
    where: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    words = [
        "--input",
        "my raw",
        "--samples",
        "{a: ['x*', y], b: [z]}",
        "--runs",
        "r",
        *ASKED[where],
    ]
    config: PlanConfig = parse("plan", words)
    own = replace(work(stage), threads=2) if stage == "train" else work(stage)
    command = line(config, stage, estimate(own, cluster_of(config, stage)))
    (arguments,) = calls(command)
    accept(arguments)
    if stage == "ingest":
        read: IngestConfig = parse("ingest", arguments[1:])
        same = ("input", "output", "samples", "target_partition_mb")
        assert [getattr(read, name) for name in same] == [getattr(config, name) for name in same]
        if where == "yarn":
            conf = {**config.spark.conf, "spark.dynamicAllocation.maxExecutors": "25"}
            assert (read.spark.master, dict(read.spark.conf)) == ("yarn", conf)


def test_the_former_option_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ingest", "--estimate"])
    assert "no option --estimate. Use `hepflow plan`" in capsys.readouterr().err
