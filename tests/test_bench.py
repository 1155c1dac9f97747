"""The scaling study: what is measured, that a rerun measures nothing twice, and the costs that it finds."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from toy_store import toy_store

from hepflow.bench import job, report, scaling
from hepflow.bench.cases import Case, Measured, cases
from hepflow.config_tools import BenchConfig
from hepflow.errors import ConfigError
from hepflow.ledger import read_json, write_json

TRUTH = scaling.Cost("ingest", start_s=4.0, serial_s=2e-5, parallel_s=3e-3, bytes_out=700, error=0, separable=True)


def rows_of(cost: scaling.Cost, noise: float = 0.0) -> list[Measured]:
    """What a stage of a known cost would give, every second run slower by some share."""
    found = []
    for events in (1000, 10_000):
        for workers, cores in ((1, 1), (2, 1), (4, 1), (2, 4)):
            for repeat in range(3):
                seconds = cost.seconds(events, workers * cores) * (1 + noise * (repeat - 1))
                found.append(Measured(cost.stage, events // 10, workers, cores, repeat, events, seconds, seconds, events * 700))
    return found


def test_the_fit_finds_the_costs_it_was_given() -> None:
    found = scaling.fit(rows_of(TRUTH))
    assert (found.start_s, found.serial_s, found.parallel_s) == pytest.approx((4.0, 2e-5, 3e-3), rel=1e-6)
    assert found.bytes_out == 700
    assert found.error < 1e-9
    noisy = scaling.fit(rows_of(TRUTH, noise=0.05))
    assert (noisy.start_s, noisy.parallel_s) == pytest.approx((4.0, 3e-3), rel=0.05)
    assert noisy.error == pytest.approx(0.05, rel=0.2)


def test_what_was_not_varied_is_not_told_apart() -> None:
    one_core = [row for row in rows_of(TRUTH) if row.workers * row.cores == 1]
    found = scaling.fit(one_core)
    assert not found.separable
    assert (found.serial_s, found.parallel_s) == (0, pytest.approx(3e-3 + 2e-5))


def test_the_start_of_a_training_is_what_the_training_is_not() -> None:
    trainings = [replace(row, stage="train hlf", seconds=row.busy_s + 9) for row in rows_of(replace(TRUTH, start_s=0))]
    found = scaling.fit(trainings)
    assert (found.start_s, found.parallel_s) == pytest.approx((9, 3e-3), rel=1e-6)


def test_an_extrapolation_is_the_fit_at_more_events() -> None:
    (found,) = scaling.extrapolate([TRUTH], {"ingest": 0.5}, 2e6, [1, 100])
    assert found.events == 1e6
    assert found.wall_s == {1: pytest.approx(4 + 20 + 3000), 100: pytest.approx(4 + 20 + 30)}
    assert found.core_hours == pytest.approx(3020 / 3600)
    assert found.bytes_out == 7e8


def test_a_summary_shows_the_spread() -> None:
    summaries = report.summarise(rows_of(TRUTH, noise=0.1))
    assert len(summaries) == 8
    for summary in summaries:
        assert summary.low < summary.events_per_s < summary.high
        assert summary.high / summary.low == pytest.approx(1.1 / 0.9)
    largest = report.largest(summaries)["ingest"]
    assert [summary.cores for summary in largest] == [1, 2, 4, 8]
    assert {summary.case.size for summary in largest} == {1000}
    assert report.per_core(summaries, kept=0.3)["ingest"][0] == pytest.approx(largest[-1].events_per_s / 8)


def test_every_stage_is_measured_at_every_size_and_number_of_workers() -> None:
    config = BenchConfig(stages=("ingest", "spark-train"), nets=("hlf",), sizes=(10, 20), workers=(1, 2), cores=(1, 4))
    found = list(cases(config))
    assert len(found) == len(set(found)) == 2 * 2 + 2 * 2 * 2
    assert Case("spark-train hlf", 20, 2, 4) in found
    assert Case("ingest", 20, 2, 1) in found


@pytest.mark.parametrize("name", ["stages", "sizes", "workers"])
def test_an_empty_study_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must hold at least one value"):
        BenchConfig(**{name: ()})


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = tmp_path / "input"
    (inputs / "events").mkdir(parents=True)
    write_json(inputs / "events" / "_hepflow.json", {"ledger": {"n_in": 1000, "n_out": 720, "rejected": {}, "lost": []}})
    toy_store(inputs / "features.zarr", events=40, mean_particles=0)
    output = tmp_path / "bench"
    output.mkdir()
    study = {"output": output, "stages": ("train",), "nets": ("hlf",), "sizes": (80,), "workers": (1,), "epochs": 2, "extrapolate": 54e6}
    config = BenchConfig(**study, repeats=1)
    rows = job._measured(config, {80: inputs})
    (row,) = rows
    assert (row.stage, row.size, row.events) == ("train hlf", 80, 2 * 240)
    assert 0 < row.busy_s < row.seconds
    before = (output / "bench.json").stat().st_mtime_ns
    assert job._measured(config, {80: inputs}) == rows
    assert (output / "bench.json").stat().st_mtime_ns == before

    job._report(config, rows, inputs)
    printed = capsys.readouterr().out
    for expected in ("BigDL", "54,000,000 events", "This assumes:", "train hlf"):
        assert expected in printed
    record = read_json(output / "bench.json")
    (extrapolated,) = record["extrapolation"]
    assert extrapolated["events"] == pytest.approx(54e6 * 0.24)
    assert record["machine"]["versions"]["torch"]
    with (output / "bench.csv").open(newline="") as file:
        assert [line["stage"] for line in csv.DictReader(file)] == ["train hlf"]
    for name in ("throughput", "scaling", "share", "per_core"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
