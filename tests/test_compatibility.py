"""Outputs of version 0.1 can be read and continued.

These are a dataset, a store, runs, a bundle, scores and a report.

tests/support/files/version_0_1.tar.xz was made by version 0.1 at commit b096bd4, from 132
generated events:
ingest, features, `train fit` (hlf finished; inclusive killed after two of four epochs), trees,
evaluate and score. expected/inclusive.parquet holds the predictions of the same training of the
inclusive net that was not killed.
"""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hepflow.cli import main
from hepflow.data.blocks import EventBlock
from hepflow.data.predictions import read_predictions
from hepflow.data.store import EventStore
from hepflow.system.files import read_json
from tests.support.root_files import write_delphes

pytestmark = pytest.mark.slow
ARCHIVE = Path(__file__).parent / "support" / "files" / "version_0_1.tar.xz"
TRAINING = (
    *("--data.store", "features.zarr", "--data.batch_size", "16"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
)
DATASET = ("ingest", "--input", "raw", "--output", "events", "--spark.master", "local[2]")
FEATURES = ("features", "--input", "events", "--output", "features.zarr", "--cluster.workers", "1")
SPLITS = ("--splits", '{"train":0.5,"val":0.25,"test":0.25}')
SCORE = (
    *("score", "--model", "runs/hlf/model.onnx", "--input", "raw", "--output", "scores"),
    *("--working-point", "ttbar@0.5", "--report", "report", "--cluster.workers", "1"),
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a fresh copy of the old outputs the current folder."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def contents(*folders: str) -> dict[str, bytes]:
    """Return file and modification time -> bytes: a file written again differs."""
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {f"{path} {path.stat().st_mtime_ns}": path.read_bytes() for path in files}


def logits_by_event(path: Path | str) -> dict[int, np.ndarray]:
    found = read_predictions(Path(path))
    return dict(zip(found.event_id.tolist(), found.logits, strict=True))


@pytest.mark.spark
def test_a_dataset_is_up_to_date_and_takes_another_file(old: Path, spark: Any) -> None:
    before = contents("events")
    run(*DATASET)
    assert contents("events") == before
    write_delphes(old / "raw" / "qcd" / "9.root", [30], seed=9)
    run(*DATASET)
    after = contents("events")
    kept = {name: data for name, data in before.items() if ".parquet" in name}
    assert kept.items() <= after.items()
    assert [path.name for path in Path("events/_records").iterdir()] == ["finished.jsonl"]
    assert len(read_json(old / "events" / "_fragments.json")) == 1, "of the new file"
    run(*DATASET)
    assert contents("events") == after
    about = read_json(old / "events" / "_hepflow.json")
    assert about["ledger"]["n_in"] == 132 + 30
    assert len(about["fragments"]) == 4


def test_a_store_is_up_to_date_and_whole(old: Path) -> None:
    before = contents("features.zarr")
    run(*FEATURES, *SPLITS)
    assert contents("features.zarr") == before
    run("store", "check", "--input", "features.zarr")
    store = EventStore.open(old / "features.zarr")
    assert store.ledger().n_in == 64
    sizes = {split: sum(map(len, store.blocks(split))) for split in ("train", "val", "test")}
    assert sizes == {"train": 28, "val": 19, "test": 15}


def test_the_physics_gives_the_features_that_the_store_holds(old: Path) -> None:
    run(*FEATURES[:4], "new.zarr", *FEATURES[5:], *SPLITS)
    before, after = (EventStore.open(Path(name)) for name in ("features.zarr", "new.zarr"))
    assert after.spec == before.spec
    for split in ("train", "val", "test"):
        for name in before.spec.classes:
            a, b = (
                EventBlock.joined([store.read(rows) for rows in store.ranges(split, name)])
                for store in (before, after)
            )
            assert (a.event_id == b.event_id).all()
            np.testing.assert_array_equal(a.offsets, b.offsets)
            np.testing.assert_allclose(a.hlf, b.hlf, rtol=1e-6)
            np.testing.assert_allclose(a.particles, b.particles, rtol=1e-6)


@pytest.mark.spark
def test_a_compacted_store_of_an_old_dataset_that_grew_keeps_its_part(
    old: Path, spark: Any
) -> None:
    write_delphes(old / "raw" / "qcd" / "9.root", [30], seed=9)
    run(*DATASET)
    before = contents("features.zarr")
    with pytest.raises(SystemExit) as end:
        main([*FEATURES, *SPLITS])
    assert end.value.code == 2
    assert contents("features.zarr") == before
    run("store", "compact", "--input", "features.zarr", "--output", "new.zarr")
    before = contents("new.zarr/particles")
    assert len(before) == 2
    run(*FEATURES[:4], "new.zarr", *FEATURES[5:], *SPLITS)
    assert {k: v for k, v in before.items() if "zarr.json" not in k}.items() <= contents(
        "new.zarr/particles"
    ).items()
    assert EventStore.open(old / "features.zarr").ledger().n_in == 64
    assert EventStore.open(old / "new.zarr").ledger().n_in > 64
    run("store", "check", "--input", "new.zarr")


def test_a_finished_run_is_up_to_date_and_its_checkpoint_predicts_the_same(old: Path) -> None:
    before, expected = contents("runs/hlf"), logits_by_event("runs/hlf/predictions.parquet")
    config = ("--config", "configs/train/hlf.yaml", *TRAINING, "--trainer.max_epochs", "2")
    run("train", "fit", *config, "--output", "runs/hlf")
    assert contents("runs/hlf") == before
    run(
        "train",
        "predict",
        *config,
        "--output",
        "again",
        "--ckpt-path",
        "runs/hlf/checkpoints/best.ckpt",
    )
    again = logits_by_event("again/predictions.parquet")
    assert again.keys() == expected.keys()
    for event_id, logits in expected.items():
        np.testing.assert_allclose(again[event_id], logits, rtol=0, atol=1e-5)


def test_a_killed_run_resumes_to_the_result_of_an_undisturbed_one(old: Path) -> None:
    config = ("--config", "configs/train/inclusive.yaml", *TRAINING, "--trainer.max_epochs", "4")
    run("train", "fit", *config, "--output", "runs/inclusive")
    expected = logits_by_event("expected/inclusive.parquet")
    found = logits_by_event("runs/inclusive/predictions.parquet")
    assert found.keys() == expected.keys()
    for event_id, logits in expected.items():
        np.testing.assert_allclose(found[event_id], logits, rtol=0, atol=1e-4)
    assert len(read_json(old / "runs" / "inclusive" / "run.json")["history"]) == 4


def test_an_old_run_is_exported_to_the_bundle_it_had(old: Path) -> None:
    run("export", "--run", "runs/hlf", "--input", "features.zarr", "--output", "new.onnx")
    new = ("score", "--model", "new.onnx", "--input", "raw", "--cluster.workers", "1")
    run(*new, "--output", "new")
    assert _scores("new") == pytest.approx(_scores("scores"), abs=1e-5)


def test_old_scores_are_up_to_date(old: Path) -> None:
    before = {path: path.read_bytes() for path in Path("scores").glob("*.parquet")}
    run(*SCORE)
    assert {path: path.read_bytes() for path in Path("scores").glob("*.parquet")} == before
    assert read_json(old / "scores" / "_hepflow.json")["ledger"]["n_in"] == 132


def test_an_old_bundle_gives_the_scores_it_gave(old: Path) -> None:
    run(*SCORE[:6], "new", *SCORE[7:])
    assert _scores("new") == pytest.approx(_scores("scores"), abs=1e-5)


def test_old_runs_are_compared_with_the_numbers_they_had(old: Path) -> None:
    shutil.rmtree("runs/inclusive")
    run(
        "evaluate", "--input", "runs", "--output", "new", "--bootstrap", "2", "--targets", "0.5,0.9"
    )
    before, after = (read_json(Path(folder) / "metrics.json") for folder in ("report", "new"))
    assert after["models"].keys() == before["models"].keys() == {"hlf", "trees"}
    for name, entry in before["models"].items():
        now = after["models"][name]
        assert now["accuracy"] == entry["accuracy"]
        assert now["auc"].keys() == entry["auc"].keys()
        for signal, area in entry["auc"].items():  # then a sum of floats, now of integers
            assert now["auc"][signal] == pytest.approx(area, rel=1e-14)


def _scores(folder: str) -> dict[tuple[str, int], float]:
    found = [pq.read_table(path).to_pylist() for path in sorted(Path(folder).glob("*.parquet"))]
    rows = [row for rows in found for row in rows if row["selected"]]
    assert len(rows) == 62
    return {(row["file"], row["entry"]): row["p_ttbar"] for row in rows}
