"""The scaling study: its cases, reruns, and the costs that it finds."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure

from hepflow.cli import parse
from hepflow.config.tools import BenchConfig
from hepflow.errors import ConfigError
from hepflow.system.files import read_json, write_json
from hepflow_bench import job, plots, report, rivals, scaling
from hepflow_bench.cases import OURS, RIVALS, Case, Measured, _command, cases, prepare
from hepflow_bench.copies import multiply
from tests.support.root_files import passing_ids, write_delphes
from tests.support.toy_store import toy_store

pytestmark = pytest.mark.slow

TRUTH = scaling.Cost(
    "ingest",
    start_s=4.0,
    shared_start_s=3.0,
    serial_s=2e-5,
    parallel_s=3e-3,
    bytes_out=700,
    error=0,
    separable=True,
)


def rows_of(cost: scaling.Cost, noise: float = 0.0) -> list[Measured]:
    """Return the measurements of a stage of known cost, with some spread."""
    found = []
    for events in (1000, 10_000):
        for workers, cores in ((1, 1), (2, 1), (4, 1), (2, 4)):
            for repeat in range(3):
                seconds = cost.seconds(events, workers * cores) * (1 + noise * (repeat - 1))
                found.append(
                    Measured(
                        cost.stage,
                        events // 10,
                        workers,
                        cores,
                        repeat,
                        events,
                        seconds,
                        seconds,
                        events * 700,
                    )
                )
    return found


def test_the_fit_finds_the_costs_it_was_given() -> None:
    found = scaling.fit(rows_of(TRUTH))
    assert (found.start_s, found.shared_start_s) == pytest.approx((4.0, 3.0), rel=1e-6)
    assert (found.serial_s, found.parallel_s) == pytest.approx((2e-5, 3e-3), rel=1e-6)
    assert found.bytes_out == 700
    assert found.error < 1e-9
    noisy = scaling.fit(rows_of(TRUTH, noise=0.05))
    assert (noisy.start(1), noisy.parallel_s) == pytest.approx((7.0, 3e-3), rel=0.05)
    assert noisy.error == pytest.approx(0.05, rel=0.2)


def test_without_several_cores_the_parts_are_not_separated() -> None:
    one_core = [row for row in rows_of(TRUTH) if row.workers * row.cores == 1]
    found = scaling.fit(one_core)
    assert not found.separable
    assert (found.serial_s, found.parallel_s) == (0, pytest.approx(3e-3 + 2e-5))


def test_the_start_of_a_training_is_what_the_training_is_not() -> None:
    work = replace(TRUTH, start_s=0, shared_start_s=0)
    trainings = [replace(row, stage="train hlf", seconds=row.busy_s + 9) for row in rows_of(work)]
    found = scaling.fit(trainings)
    assert (found.start_s, found.parallel_s) == pytest.approx((9, 3e-3), rel=1e-6)


def test_an_extrapolation_is_the_fit_at_more_events() -> None:
    (found,) = scaling.extrapolate(rows_of(TRUTH), {"ingest": 0.5}, 2e6, [1, 100])
    assert found.events == 1e6
    assert found.wall_s == {
        1: pytest.approx([7 + 20 + 3000] * 3),
        100: pytest.approx([4.03 + 20 + 30] * 3),
    }
    assert found.core_hours == pytest.approx(3020 / 3600)
    assert found.bytes_out == 7e8
    (noisy,) = scaling.extrapolate(rows_of(TRUTH, noise=0.05), {"ingest": 0.5}, 2e6, [1])
    middle, low, high = noisy.wall_s[1]
    assert (low / middle, high / middle) == pytest.approx((0.95, 1.05), rel=0.01)


def test_stages_whose_work_is_lost_in_the_start_up_have_no_share(
    tmp_path: Path,
) -> None:
    start_alone = replace(TRUTH, serial_s=0.0, parallel_s=0.0)
    costs = [start_alone, replace(start_alone, stage="features"), replace(TRUTH, stage="score")]
    plots.share(
        tmp_path / "share.png", costs, {"ingest": 1.0, "features": 0.5, "score": 1.0}, "a machine"
    )
    assert (tmp_path / "share.png").is_file()


def test_the_ideal_speed_up_begins_at_the_fewest_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[float], list[float]]] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.extend(lines_of(figure)))
    summaries = report.summarise(
        [row for row in rows_of(TRUTH) if row.workers > 1], {"ingest": TRUTH}
    )
    plots.scaling(tmp_path / "scaling.png", report.largest(summaries), "a machine")
    assert ([2, 8], [1, 4]) in drawn


def lines_of(figure: Figure) -> list[tuple[list[float], list[float]]]:
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in figure.axes[0].lines]


def test_a_summary_shows_the_spread() -> None:
    rows = rows_of(TRUTH, noise=0.1)
    summaries = report.summarise(rows, {"ingest": replace(TRUTH, start_s=0.0, shared_start_s=0.0)})
    assert len(summaries) == 8
    for summary in summaries:
        assert summary.low < summary.events_per_s < summary.high
        assert summary.high / summary.low == pytest.approx(1.1 / 0.9)
    (first, *_) = report.summarise(rows_of(TRUTH), {"ingest": TRUTH})
    assert (first.start_s, first.seconds, first.events_per_s) == pytest.approx(
        (7, 7 + 3.02, 1000 / 3.02)
    )
    long_start = report.summarise(
        rows_of(replace(TRUTH, start_s=40)), {"ingest": replace(TRUTH, start_s=40)}
    )
    assert [summary.mostly_start for summary in (first, long_start[0])] == [False, True]
    measured = [replace(row, stage="train hlf", busy_s=1.0) for row in rows_of(TRUTH)]
    assert not any(
        summary.mostly_start for summary in report.summarise(measured, {"train hlf": TRUTH})
    )
    largest = report.largest(summaries)["ingest"]
    assert [summary.cores for summary in largest] == [1, 2, 4, 8]
    assert {summary.case.size for summary in largest} == {1000}
    assert report.per_core(summaries, kept=0.3)["ingest"][0] == pytest.approx(
        largest[-1].events_per_s / 8
    )


def test_every_stage_is_measured_at_every_size_and_number_of_workers() -> None:
    config = BenchConfig(
        stages=("ingest", "spark-train", "score"),
        nets=("hlf",),
        sizes=(10, 20),
        workers=(1, 2),
        cores=(1, 4),
    )
    found = list(cases(config, n_gpus=0))
    ours = [case for case in found if case.way == OURS]
    assert len(found) == len(set(found))
    assert len(ours) == 2 * 2 + 2 * 2 * 2 + 2 * 2
    assert Case("spark-train hlf", 20, 2, 4) in ours
    assert Case("ingest", 20, 2, 1) in ours
    assert set(found) - set(ours) == {
        Case("ingest", size, 1, 1, RIVALS["ingest"]) for size in (10, 20)
    }


def test_cases_to_be_compared_follow_each_other() -> None:
    config = BenchConfig(
        stages=("train", "spark-train"), nets=("hlf", "transformer"), sizes=(10,), workers=(1, 2)
    )
    found = [(case.stage, case.workers, case.way) for case in cases(config, n_gpus=0)]
    assert found[:3] == [
        ("train hlf", 1, OURS),
        ("train hlf", 1, RIVALS["train"]),
        ("spark-train hlf", 1, OURS),
    ]
    assert found[3:5] == [("train hlf", 2, OURS), ("spark-train hlf", 2, OURS)]
    assert {way for stage, _, way in found if "transformer" in stage} == {OURS}, (
        "stock PyTorch has no such net"
    )


def test_a_gpu_is_measured_where_there_is_one() -> None:
    config = BenchConfig(
        stages=("train-gpu",), nets=("hlf",), sizes=(10,), workers=(1, 2, 4), cores=(1, 4)
    )
    assert list(cases(config, n_gpus=0)) == []
    found = list(cases(config, n_gpus=2))
    assert found == [Case("train-gpu hlf", 10, 1), Case("train-gpu hlf", 10, 2)]
    words = _command(found[1], Path("in"), Path("out"), 3)
    assert words[words.index("--trainer.accelerator") + 1] == "gpu"
    assert words[words.index("--trainer.devices") + 1] == 2
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="train-gpu: not possible with 0 GPUs"):
            job.run(config)


@pytest.mark.parametrize("stage", ["simulate", "ingest", "features", "score hlf"])
def test_a_case_is_a_valid_command(stage: str, tmp_path: Path) -> None:
    name, *options = map(str, _command(Case(stage, 80, 2), tmp_path / "in", tmp_path / "out", 3))
    assert parse(name, options).output == tmp_path / "out"


def test_a_rival_is_compared_without_the_starts_and_by_the_core() -> None:
    ours = rows_of(TRUTH)
    one_core = [row for row in ours if row.workers * row.cores == 1]
    work = [2 * row.events * 3e-3 * (1 + 0.1 * row.repeat) for row in one_core]
    slower = [
        replace(row, way="plain", busy_s=busy_s, seconds=busy_s + 9)
        for row, busy_s in zip(one_core, work, strict=True)
    ]
    (found,) = scaling.against_rivals([*ours, *slower], {"ingest": scaling.fit(ours)})
    assert (found.case.workers, found.rival) == (1, "plain")
    assert (found.low, found.middle, found.high) == pytest.approx(
        [2 * 3 / 3.02 * f for f in (1, 1.1, 1.2)], rel=1e-6
    )
    plain = [replace(row, stage="train hlf") for row in ours]
    inside = [replace(row, stage="spark-train hlf", busy_s=row.busy_s * 1.25) for row in ours]
    costs = dict.fromkeys(("train hlf", "spark-train hlf"), TRUTH)
    found_all = scaling.against_rivals([*plain, *inside], costs)
    assert [(ratio.case.workers, ratio.case.cores) for ratio in found_all] == [
        (1, 1),
        (2, 1),
        (2, 4),
        (4, 1),
    ]
    assert {round(ratio.middle, 6) for ratio in found_all} == {0.8}


def test_with_one_size_the_start_up_is_unknown_and_there_are_no_ratios(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = [row for row in rows_of(TRUTH) if (row.size, row.workers, row.cores) == (1000, 1, 1)]
    rival = [replace(row, way="plain", busy_s=1.0) for row in ours]
    costs = {"ingest": scaling.fit(ours)}
    assert not costs["ingest"].start_known
    assert scaling.fit(rows_of(TRUTH)).start_known
    assert scaling.fit([replace(row, stage="train hlf") for row in ours]).start_known
    assert scaling.against_rivals([*ours, *rival], costs) == []
    summaries = report.summarise([*ours, *rival], costs)
    assert [summary.start_known for summary in summaries] == [False, True]
    assert summaries[0].events_per_s == pytest.approx(10_000 / ours[0].seconds)
    compared = report.with_published(
        {"ingest": (1.0, 1.0, 1.0), report.BOTH: (1.0, 1.0, 1.0)}, "today", ["ingest"]
    )
    assert [line.start_known for line in compared if line.ours] == [False, False]
    report.print_summary(summaries)
    report.print_per_core(compared)
    printed = capsys.readouterr().out.splitlines()
    (line,) = (line for line in printed if line.startswith("ingest  hepflow") and "1x1" in line)
    assert (line.split()[4][0], line.split()[-1]) == ("≥", "?")
    assert not any(line.endswith(" 0.1") for line in printed), "a ratio to a published figure"


def test_tables_wrap_between_words_only_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ours = [
        replace(row, stage=stage)
        for stage in ("ingest", "features", "train inclusive")
        for row in rows_of(TRUTH, noise=0.1)
    ]
    rival = [
        replace(row, way=RIVALS["ingest"], busy_s=1.0)
        for row in rows_of(TRUTH)
        if row.workers * row.cores == 1
    ]
    costs = {
        stage: scaling.fit([row for row in ours if row.stage == stage])
        for stage in dict.fromkeys(row.stage for row in ours)
    }
    summaries = report.summarise([*ours, *rival], costs)
    compared = report.with_published(report.per_core(summaries, 0.3), "2026-01-01 to 2026-01-02")
    report.print_summary(summaries)
    report.print_per_core(compared)
    report.print_costs(costs.values())
    report.print_rivals(scaling.against_rivals([*ours, *rival], costs))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    words = set()
    for line in compared:
        machine = "" if line.ours else line.machine
        words |= {*f"{line.stage} {line.what} {line.total} {machine}".split()}
    words |= {"events/s", "workers", "parallel", "whole", "pyarrow"}
    assert {word.strip(",") for word in words} <= {word.strip(",") for word in printed.split()}
    assert "uproot +  " in printed, "wrapped once, not at every word"


def test_copies_are_other_events_and_made_once(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        write_delphes(tmp_path / "raw" / "qcd" / f"{name}.root", [40], seed=seed)
    once = passing_ids(tmp_path / "raw")
    multiply(tmp_path / "raw", 3)
    ids = passing_ids(tmp_path / "raw")
    assert len(ids) == len(set(ids)) == 3 * len(once)
    assert set(once) < set(ids)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*")}
    multiply(tmp_path / "raw", 3)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*")}


def test_the_rival_of_ingest_keeps_the_events_that_ingest_keeps(tmp_path: Path) -> None:
    write_delphes(tmp_path / "raw" / "qcd" / "a.root", [40, 30])
    (tmp_path / "out").mkdir()
    assert rivals.ingest(tmp_path / "raw", tmp_path / "out") == 70
    kept = pq.read_table(tmp_path / "out" / "qcd" / "a.parquet")
    assert 0 < len(kept) == len(passing_ids(tmp_path / "raw")) < 70
    assert (
        min(
            pt
            for event in kept["EFlowTrack"].to_pylist()
            for pt in (track["PT"] for track in event)
        )
        > 0.5
    )


def test_the_rival_of_training_pads_every_event_to_801(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "LONG_ENOUGH_S", float("inf"))  # a busy machine takes both epochs
    store = toy_store(tmp_path / "toy.zarr", events=8, parts=1, mean_particles=5)
    _, particles, label = rivals._padded(store, particles=True)
    assert particles.shape == (24, 801, 19)
    blocks = [
        store.read(part) for name in store.spec.classes for part in store.ranges("train", name)
    ]
    assert np.count_nonzero(particles.numpy().any(axis=2)) == sum(
        len(block.particles) for block in blocks
    )
    last = blocks[-1].particles[blocks[-1].offsets[-2] :]
    assert np.array_equal(particles[-1, : len(last)].numpy(), last)
    assert label.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    n_events, seconds = rivals.train("inclusive", store.path, epochs=2)
    assert n_events == 48
    assert seconds > 0


@pytest.mark.parametrize("name", ["stages", "sizes", "workers"])
def test_an_empty_study_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must hold at least one value"):
        BenchConfig(**{name: ()})


def test_nets_that_were_trained_for_an_earlier_study_stay(tmp_path: Path) -> None:
    inputs = tmp_path / "80"
    inputs.mkdir()
    toy_store(inputs / "features.zarr", events=40, mean_particles=0)
    write_json(inputs / "ready.json", {"code": "this", "nets": ["sequence"]})
    assert prepare(tmp_path, 80, 1, ("hlf",), "this") == inputs
    assert read_json(inputs / "ready.json")["nets"] == ["sequence", "hlf"]
    assert [path.name for path in (inputs / "runs").iterdir()] == ["hlf"]
    before = (inputs / "ready.json").stat().st_mtime_ns
    prepare(tmp_path, 80, 1, ("sequence", "hlf"), "this")
    assert (inputs / "ready.json").stat().st_mtime_ns == before


def test_results_are_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = tmp_path / "input"
    (inputs / "events").mkdir(parents=True)
    write_json(
        inputs / "events" / "_hepflow.json",
        {"ledger": {"n_in": 1000, "n_out": 720, "rejected": {}, "lost": []}},
    )
    toy_store(inputs / "features.zarr", events=40, mean_particles=0)
    output = tmp_path / "bench"
    output.mkdir()
    study = {"nets": ("hlf",), "sizes": (80,), "workers": (1,), "epochs": 2, "extrapolate": 54e6}
    config = BenchConfig(**study, output=output, stages=("train",), repeats=1)
    rows, n_kept = job._measured(config, {80: inputs})
    row, rival = rows
    assert n_kept == 0
    assert (row.stage, row.size, row.events) == ("train hlf", 80, 2 * 240)
    assert 0 < row.busy_s < row.seconds
    assert (rival.stage, rival.way, rival.events) == ("train hlf", "stock PyTorch", 2 * 240)
    before = (output / "bench.json").stat().st_mtime_ns
    assert job._measured(config, {80: inputs}) == (rows, 2)
    assert (output / "bench.json").stat().st_mtime_ns == before

    job._report(config, rows, inputs)
    printed = capsys.readouterr().out
    for expected in (
        "BigDL",
        "54,000,000 events",
        "This assumes:",
        "train hlf",
        "stock PyTorch",
        row.began[:10],
    ):
        assert expected in printed
    record = read_json(output / "bench.json")
    job._report(replace(config, json=True), rows, inputs)
    assert json.loads(capsys.readouterr().out) == record
    (extrapolated,) = record["extrapolation"]
    assert extrapolated["events"] == pytest.approx(54e6 * 0.24)
    assert record["machine"]["versions"]["torch"]
    with (output / "bench.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["stage"], line["way"]) for line in lines] == [
        ("train hlf", OURS),
        ("train hlf", "stock PyTorch"),
    ]
    assert all("torch" in line["machine"] and line["began"] for line in lines)
    for name in ("throughput", "scaling", "share", "per_core"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
