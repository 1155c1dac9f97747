"""The report on real outputs: events -> features of both definitions -> nets -> evaluate."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from hepflow.config.stages import EvaluateConfig, FeaturesConfig
from hepflow.config.tools import TreesConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import open_events
from hepflow.data.ledger import Ledger
from hepflow.data.provenance import code_hash
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.job import evaluate_runs, run
from hepflow.evaluate.runs import find_runs, read_run
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import make_part
from hepflow.schema import CLASSES, DEFINITIONS, HLF, PARTICLE
from hepflow.system.files import read_json, write_json
from hepflow.train.trees import boosted as trees
from tests.support.delphes_events import random_events, to_arrow, write_fragment, write_marker
from tests.support.seals import unseal
from tests.support.toy_store import toy_store
from tests.support.trainings import fit

pytestmark = pytest.mark.slow

HALVES = {"train": 0.5, "val": 0.2, "test": 0.3}


def make_store(
    events: Path, path: Path, definitions: str, splits: Mapping[str, float]
) -> EventStore:
    """Do the work of `hepflow features` without a cluster."""
    spec = StoreSpec(CLASSES, HLF, PARTICLE, definitions, f"{path.name}-hash", splits)
    store = StoreWriter.create(path, spec)
    for number, fragment in enumerate(open_events(events, 2**26).fragments):
        make_part(store, PlannedPart(number, (fragment,)), None, 2**26)
    store.finalise()
    return EventStore.open(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of both definitions and one of other splits, an HLF net each, trees on the first."""
    folder = tmp_path_factory.mktemp("made")
    total = 0
    for label, name in enumerate(CLASSES):
        events = to_arrow(
            random_events(170, seed=label, n_tracks=20 + 8 * label, scale=1 + 0.4 * label)
        )
        total += write_fragment(folder / "events", f"part-{label}", events, label, name)
    write_marker(folder / "events", total)
    (folder / "code").write_text(
        code_hash()
    )  # of this moment: the sources may change during the tests
    for definitions in DEFINITIONS:
        store = make_store(folder / "events", folder / f"{definitions}.zarr", definitions, HALVES)
        fit(store, folder / "runs" / f"hlf-{definitions}")
    others = make_store(
        folder / "events", folder / "others.zarr", "corrected", FeaturesConfig().splits
    )
    fit(others, folder / "others" / "hlf")
    trees.run(
        TreesConfig(input=folder / "corrected.zarr", output=folder / "runs" / "trees", rounds=20)
    )
    return folder


def measured(folder: Path, *names: str, **options: Any) -> tuple[dict[str, Any], list[str]]:
    config = EvaluateConfig(**{"input": folder / "runs", "runs": names, "bootstrap": 5, **options})
    metrics, figures = evaluate_runs(
        [read_run(path, path.name, "content") for path in find_runs(config)], config
    )
    return metrics, [figure.name for section in figures.values() for figure in section]


def refuse(folder: Path, match: str, *names: str, **options: Any) -> None:
    with pytest.raises(DataError, match=match) as caught:
        run(
            EvaluateConfig(
                **{
                    "input": folder / "runs",
                    "runs": names,
                    "output": folder / "report",
                    "bootstrap": 2,
                    **options,
                }
            )
        )
    assert "\n" not in str(caught.value)


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of the corrected store and its run, to damage; the run names the copy."""
    shutil.copytree(made / "corrected.zarr", tmp_path / "corrected.zarr")
    shutil.copytree(made / "runs" / "hlf-corrected", tmp_path / "runs" / "hlf")
    record = tmp_path / "runs" / "hlf" / "run.json"
    write_json(record, {**read_json(record), "store": str(tmp_path / "corrected.zarr")})
    return tmp_path


def test_a_training_records_its_splits_and_its_code(made: Path) -> None:
    record = read_json(made / "runs" / "hlf-corrected" / "run.json")
    assert record["splits_used"] == {"fit": ["train"], "tuning": ["val"], "statistics": ["train"]}
    assert record["code"] == (made / "code").read_text()
    assert record["engine"] == "Lightning"


def test_the_code_hash_depends_on_the_content_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.py").write_text("one = 1\n")
    first = code_hash(tmp_path / "a")
    assert code_hash(tmp_path / "b") == first
    (tmp_path / "b" / "deep" / "x.py").write_text("one = 2\n")
    assert code_hash(tmp_path / "b") != first


def test_a_trained_run_passes_every_check(made: Path, copied: Path) -> None:
    metrics, figures = measured(copied, "hlf")
    assert metrics["checks"]["leak"] is True
    entry = metrics["models"]["hlf"]
    assert entry["about"]["code"] == (made / "code").read_text()
    assert entry["provenance"]["store"] == "corrected.zarr-hash"
    assert {"loss_hlf", "importance_hlf", "efficiency_hlf_HT", "validation_accuracy"} <= set(
        figures
    )


def test_a_test_event_that_the_fit_saw_is_refused(copied: Path) -> None:
    """A leak planted in the store's files."""
    store = EventStore.open(copied / "corrected.zarr")
    block = store.read(store.ranges("test", "ttbar")[0], 2, 3)
    writer = StoreWriter(store.path, store.spec)
    writer.write_part(3, {("train", "ttbar"): block}, Ledger(n_in=1, n_out=1))
    writer.finalise()
    refuse(
        copied, f"the train split holds 1 test event, such as {block.event_id[0]}: a leak", "hlf"
    )


def test_statistics_that_include_the_test_split_are_refused(copied: Path) -> None:
    store = EventStore.open(copied / "corrected.zarr")
    everything = np.concatenate(
        [block.hlf for split in ("train", "test") for block in store.blocks(split)]
    )
    unseal(store.path / "zarr.json")
    root = zarr.open_group(store.path, mode="a")
    for name, count, match in (
        ("mean", False, "not those of its training split"),
        ("count", True, "events, the training split has"),
    ):
        attributes = store.attributes
        attributes["statistics"]["hlf"][name] = (
            len(everything) if count else everything.mean(axis=0).tolist()
        )
        root.attrs["hepflow"] = attributes
        refuse(copied, match, "hlf")


def test_a_fit_that_used_the_test_split_is_refused(copied: Path) -> None:
    record = copied / "runs" / "hlf" / "run.json"
    about = read_json(record)
    write_json(record, {**about, "splits_used": {**about["splits_used"], "tuning": ["test"]}})
    refuse(copied, "the test split was used for tuning", "hlf")


def test_statistics_of_another_count_are_recorded_as_of_all_splits(copied: Path) -> None:
    store = EventStore.open(copied / "corrected.zarr")
    attributes = store.attributes
    attributes["statistics"]["hlf"]["count"] += 1
    unseal(store.path / "zarr.json")
    zarr.open_group(store.path, mode="a").attrs["hepflow"] = attributes
    assert fit(store, copied / "runs" / "spoilt")["splits_used"]["statistics"] == [
        "train",
        "val",
        "test",
    ]
    refuse(copied, "the test split was used for statistics", "spoilt")


def test_models_trained_on_other_splits_are_refused_unless_asked_for(made: Path) -> None:
    names = ("hlf-corrected", str(made / "others" / "hlf"))
    refuse(made, "another feature store.*allow-different-splits", *names)
    metrics, _ = measured(made, *names, allow_different_splits=True)
    sizes = {pair["n_events"] for pair in metrics["pairs"]}
    ours, theirs = (metrics["models"][name]["n_events"] for name in ("hlf-corrected", "hlf"))
    assert not metrics["pairs"] or sizes.pop() < ours != theirs


def test_importance_needs_the_onnx_file_of_the_training(made: Path, copied: Path) -> None:
    metrics, _ = measured(copied, "hlf")
    assert set(metrics["models"]["hlf"]["importance"]) == {feature.name for feature in HLF}
    model = copied / "runs" / "hlf" / "model.onnx"
    shutil.copyfile(made / "runs" / "hlf-reference" / "model.onnx", model)
    metrics, _ = measured(copied, "hlf")
    assert metrics["models"]["hlf"]["importance"] == {}
    assert any("hepflow export" in note["text"] for note in metrics["notes"])
    model.unlink()
    metrics, _ = measured(copied, "hlf")
    assert any("no model.onnx" in note["text"] for note in metrics["notes"])


def test_the_ablation_compares_both_definitions_on_common_events(made: Path) -> None:
    refuse(made, "another feature store .* pass --ablation", "hlf-corrected", "hlf-reference")
    metrics, _ = measured(made, "hlf-corrected", "hlf-reference", ablation=True)
    (row,) = metrics["ablation"]
    assert row["definitions"] == {"corrected": ["hlf-corrected"], "reference": ["hlf-reference"]}
    stores = [EventStore.open(made / f"{name}.zarr") for name in DEFINITIONS]
    ids = [
        {i for block in store.blocks("test") for i in block.event_id.tolist()} for store in stores
    ]
    assert ids[0] != ids[1]
    assert {pair["n_events"] for pair in row["differences"]} == {len(ids[0] & ids[1])}
    assert {pair["quantity"] for pair in row["differences"]} >= {"accuracy", "AUC qcd"}
    assert all(
        pair["error"] > 0 for pair in row["differences"] if pair["quantity"].startswith("AUC")
    )
    assert metrics["checks"]["leak"] is True


def test_trees_are_a_run_like_any_other(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics, _ = measured(made, "hlf-corrected", "trees")
    entry = metrics["models"]["trees"]
    assert entry["about"]["engine"] == "LightGBM"
    assert {pair["second"] for pair in metrics["pairs"]} == {"trees"}
    config = TreesConfig(input=made / "corrected.zarr", output=made / "runs" / "trees", rounds=20)
    before = (made / "runs" / "trees" / "run.json").stat().st_mtime_ns
    with caplog.at_level("INFO", logger="hepflow"):
        trees.run(config)
    assert "up to date" in caplog.text
    assert (made / "runs" / "trees" / "run.json").stat().st_mtime_ns == before


def test_trees_learn_on_the_training_split_alone(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.zarr", events=40, mean_particles=1)
    trees.run(TreesConfig(input=store.path, output=tmp_path / "runs" / "trees", rounds=10))
    metrics, _ = measured(tmp_path, "trees", store=store.path)
    assert metrics["models"]["trees"]["auc_mean"] > 0.85
    assert metrics["models"]["trees"]["about"]["splits_used"] == {
        "fit": ["train"],
        "tuning": ["val"],
        "statistics": [],
    }


def test_a_run_finds_its_store_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    toy_store(tmp_path / "toy.zarr", events=40, mean_particles=1)
    monkeypatch.chdir(tmp_path)
    config = TreesConfig(input=Path("toy.zarr"), output=tmp_path / "runs" / "trees", rounds=2)
    trees.run(config)
    monkeypatch.chdir("elsewhere")
    metrics, _ = measured(tmp_path, "trees")
    assert metrics["checks"]["leak"] is True
    (tmp_path / "toy.zarr").rename(tmp_path / "moved.zarr")
    assert measured(tmp_path, "trees")[0]["checks"]["leak"] is False
    assert measured(tmp_path, "trees", store=Path("../moved.zarr"))[0]["checks"]["leak"] is True


def test_a_relative_path_of_the_store_means_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_store(tmp_path / "toy.zarr", events=40, mean_particles=1)
    monkeypatch.chdir(tmp_path)
    config = TreesConfig(input=tmp_path / "toy.zarr", output=tmp_path / "runs" / "trees", rounds=2)
    trees.run(config)
    record = tmp_path / "runs" / "trees" / "run.json"
    write_json(
        record, {**read_json(record), "store": "toy.zarr", "provenance": "before events were added"}
    )
    assert measured(tmp_path, "trees")[0]["checks"]["leak"] is True
    trees.run(config)
    assert read_json(record)["store"] == str(tmp_path / "toy.zarr")


def test_trees_replace_another_run_only_with_overwrite(tmp_path: Path) -> None:
    stores = [
        toy_store(tmp_path / f"{seed}.zarr", events=40, mean_particles=1, seed=seed)
        for seed in (1, 2)
    ]
    config = TreesConfig(input=stores[0].path, output=tmp_path / "trees", rounds=2)
    trees.run(config)
    before = read_json(tmp_path / "trees" / "run.json")
    other = replace(config, learning_rate=0.1, seed=7)
    settings = r"learning_rate 0.05 \(now 0.1\), seed 1 \(now 7\)"
    with pytest.raises(ConfigError, match=rf"trees holds a finished run with {settings}\. Give"):
        trees.run(other)
    with pytest.raises(ConfigError, match="a finished run with store "):
        trees.run(replace(config, input=stores[1].path))
    (tmp_path / "net" / "checkpoints").mkdir(parents=True)
    (tmp_path / "net" / "checkpoints" / "best.ckpt").touch()
    for name in ("model.onnx", "notes.txt"):
        (tmp_path / "net" / name).touch()
    write_json(tmp_path / "net" / "run.json", {"engine": "Lightning", "finished": True})
    with pytest.raises(
        ConfigError, match=r"net holds a finished run with engine Lightning \(now LightGBM\)"
    ):
        trees.run(replace(config, output=tmp_path / "net"))
    assert read_json(tmp_path / "trees" / "run.json") == before
    trees.run(replace(other, overwrite=True))
    assert read_json(tmp_path / "trees" / "run.json")["seed"] == 7
    trees.run(replace(config, output=tmp_path / "net", overwrite=True))
    left = {path.name for path in (tmp_path / "net").iterdir()}
    assert left == {"run.json", "predictions.parquet", "notes.txt"}, "nothing of the net"


def test_trees_log_why_they_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = toy_store(tmp_path / "toy.zarr", events=40, mean_particles=1)
    with caplog.at_level("INFO", logger="hepflow"):
        trees.run(TreesConfig(input=store.path, output=tmp_path / "trees", rounds=300))
    n_kept = read_json(tmp_path / "trees" / "run.json")["epochs"]
    assert (
        f"stopped after {n_kept + 20} rounds: no lower val_loss for 20; the first {n_kept} are kept"
        in caplog.messages
    )


def test_trees_end_with_the_numbers_of_a_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = toy_store(
        tmp_path / "toy.zarr", events={"qcd": 90, "ttbar": 20, "wjets": 30}, mean_particles=1
    )
    with caplog.at_level("INFO", logger="hepflow"):
        trees.run(TreesConfig(input=store.path, output=tmp_path / "runs" / "trees", rounds=2))
    entry = measured(tmp_path, "trees")[0]["models"]["trees"]
    aucs = ", ".join(f"auc_{name} {area['value']:.4f}" for name, area in entry["auc"].items())
    accuracy = f"accuracy {entry['accuracy']['value']:.4f}"
    same = rf"trained trees: test loss \d\.\d{{4}}, {accuracy}, {aucs}; 2 rounds in "
    assert re.match(same, caplog.messages[-1])


def test_trees_need_every_class(made: Path, tmp_path: Path) -> None:
    spec = StoreSpec(("qcd", "ttbar", "zjets"), HLF, PARTICLE, "corrected", "few")
    store = StoreWriter.create(tmp_path / "few.zarr", spec)
    whole = EventStore.open(made / "corrected.zarr")
    block = whole.read(whole.ranges("train", "qcd")[0])
    store.write_part(0, {("train", "qcd"): block}, Ledger(n_in=len(block), n_out=len(block)))
    store.finalise()
    with pytest.raises(DataError, match="split train: no event of class ttbar, zjets"):
        trees.run(TreesConfig(input=tmp_path / "few.zarr", output=tmp_path / "trees"))
