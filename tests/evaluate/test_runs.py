"""Runs that may be compared, and one-line refusals of others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepflow.config.stages import EvaluateConfig
from hepflow.data.ledger import Ledger
from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.job import evaluate_runs, run
from hepflow.evaluate.kinematics import check_leak, join, open_store
from hepflow.evaluate.runs import content_hash, find_runs, named, read_run
from tests.support.toy_runs import (
    STORE_HASH,
    toy_about,
    toy_ids,
    toy_labels,
    toy_logits,
    toy_runs,
    toy_store,
    write_run,
)

LABEL, IDS = toy_labels((60, 60, 60)), toy_ids(180)
LOGITS = toy_logits(LABEL, 3, 1.5)


def refuse(folder: Path, match: str, **options: Any) -> None:
    with pytest.raises(DataError, match=match) as caught:
        run(EvaluateConfig(input=folder, output=folder / "report", bootstrap=2, **options))
    assert "\n" not in str(caught.value)
    assert not (folder / "report").exists()


def good(folder: Path, **changed: Any) -> Path:
    return write_run(folder, **{"event_id": IDS, "label": LABEL, "logits": LOGITS, **changed})


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, "no runs found")


def test_a_missing_run_is_named_with_the_existing_ones(tmp_path: Path) -> None:
    good(tmp_path / "hlf")
    refuse(tmp_path, "no run 'hfl'.*there are: hlf", runs=("hfl",))


@pytest.mark.parametrize("split", ["train", "val", None])
def test_predictions_of_other_splits_are_refused(tmp_path: Path, split: str | None) -> None:
    good(tmp_path / "hlf", provenance={"split": split})
    refuse(tmp_path, f"predictions of the split {split!r}")


def test_a_test_split_that_was_used_for_tuning_is_refused(tmp_path: Path) -> None:
    good(
        tmp_path / "hlf",
        about={**toy_about("hlf"), "splits_used": {"fit": "train", "tuning": ["val", "test"]}},
    )
    refuse(tmp_path, "test split was used for tuning")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    good(tmp_path / "a")
    good(tmp_path / "b", classes=("qcd", "wjets", "ttbar"))
    refuse(tmp_path, "classes qcd, wjets, ttbar, but .* has qcd, ttbar, wjets")


def test_another_store_is_refused_unless_asked_for(tmp_path: Path) -> None:
    good(tmp_path / "a")
    good(tmp_path / "b", provenance={"store": "another"})
    refuse(tmp_path, "another feature store.*allow-different-splits")
    config = EvaluateConfig(input=tmp_path, bootstrap=2, allow_different_splits=True)
    metrics, _ = evaluate_runs(
        [read_run(path, path.name, "content") for path in find_runs(config)], config
    )
    assert set(metrics["models"]) == {"a", "b"}
    assert any(
        "different events, because that was asked for" in text
        for text in metrics["checks"]["passed"]
    )


def test_other_events_of_the_same_store_are_refused(tmp_path: Path) -> None:
    good(tmp_path / "a")
    good(tmp_path / "b", event_id=IDS[:-3], label=LABEL[:-3], logits=LOGITS[:-3])
    refuse(tmp_path, "tested on other events")


def test_another_truth_for_the_same_event_is_refused(tmp_path: Path) -> None:
    good(tmp_path / "a")
    changed = LABEL.copy()
    changed[5] = (changed[5] + 1) % 3
    good(tmp_path / "b", label=changed)
    refuse(tmp_path, f"event {IDS[5]} has another label")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    logits = LOGITS.copy()
    logits[7, 1] = value
    good(tmp_path / "a", logits=logits)
    refuse(tmp_path, f"not finite, the first is {IDS[7]}.*diverge")


@pytest.mark.parametrize("value", [-1, 3])
def test_labels_outside_the_classes_are_refused(tmp_path: Path, value: int) -> None:
    label = LABEL.copy()
    label[0] = value
    good(tmp_path / "a", label=label)
    refuse(
        tmp_path, f"label {value} of event .* is none of the classes \\(0 qcd, 1 ttbar, 2 wjets\\)"
    )


def test_an_event_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    ids = IDS.copy()
    ids[1] = ids[0]
    good(tmp_path / "a", event_id=ids)
    refuse(tmp_path, "more than once")


def test_a_class_without_events_is_refused(tmp_path: Path) -> None:
    good(tmp_path / "a", label=np.where(LABEL == 2, 0, LABEL).astype(np.int8))
    refuse(tmp_path, "no test events of class wjets")


def test_no_events_at_all_are_refused(tmp_path: Path) -> None:
    good(tmp_path / "a", event_id=IDS[:0], label=LABEL[:0], logits=LOGITS[:0])
    refuse(tmp_path, "no test events of class qcd, ttbar, wjets")


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "predictions.parquet").write_text("nothing of the kind")
    refuse(tmp_path, "no readable predictions")


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    places = [good(tmp_path / place / "a") for place in ("", "1/x", "2/x")]
    with pytest.raises(ConfigError, match="a second run with the name 'x-a'"):
        named(places)


def test_a_run_that_is_named_twice_is_compared_once(tmp_path: Path) -> None:
    place = good(tmp_path / "a")
    assert named(find_runs(EvaluateConfig(input=tmp_path, runs=("a", "a", str(place))))) == {
        "a": place
    }


def test_runs_with_equal_names_in_two_folders_get_different_names(tmp_path: Path) -> None:
    places = [good(tmp_path / "x" / "hlf"), good(tmp_path / "y" / "hlf")]
    config = EvaluateConfig(input=tmp_path, runs=("x/hlf", "y/hlf"))
    assert named(find_runs(config)) == dict(zip(("hlf", "y-hlf"), places, strict=True))


def test_scores_without_run_json_or_history_are_read(tmp_path: Path) -> None:
    folder = good(tmp_path / "trees", history=False)
    one = read_run(folder, "trees", content_hash(folder))
    assert (dict(one.about), dict(one.history), one.definitions, one.store) == (
        {},
        {},
        "corrected",
        STORE_HASH,
    )


def test_a_sparse_history_is_read_by_epoch(tmp_path: Path) -> None:
    folder = good(tmp_path / "hlf")
    history = read_run(folder, "hlf", "x").history
    assert set(history) == {"lr", "train_loss", "val_loss", "val_accuracy"}
    epochs, losses = history["val_loss"]
    assert epochs == [0, 1, 2, 3, 4, 5]
    assert losses[0] == pytest.approx(1.03)


def test_rows_in_any_order_are_sorted_by_event(tmp_path: Path) -> None:
    folder = tmp_path / "hlf"
    folder.mkdir()
    shuffle = np.random.default_rng(0).permutation(len(IDS))
    rows = Predictions(
        IDS[shuffle],
        LABEL[shuffle],
        LOGITS[shuffle],
        ("qcd", "ttbar", "wjets"),
        "hlf",
        {"split": "test", "store": STORE_HASH},
    )
    write_predictions(folder / "predictions.parquet", rows)
    one = read_run(folder, "hlf", "x").predictions
    assert (one.event_id == IDS).all()
    assert (one.label == LABEL).all()


def config_for(store: Path) -> EvaluateConfig:
    return EvaluateConfig(store=store)


def test_a_planted_leak_is_refused(tmp_path: Path) -> None:
    """A test event is in the training split too."""
    store = toy_store(tmp_path / "s.zarr", test=(IDS, LABEL), train=(IDS[:30], LABEL[:30]))
    runs = toy_runs(tmp_path / "runs", per_class=(60, 60, 60), store=store)
    refuse(runs, r"the train split holds \d+ test events, such as .*: a leak")


def test_predictions_of_training_events_that_claim_to_be_test_events_are_refused(
    tmp_path: Path,
) -> None:
    store = toy_store(tmp_path / "s.zarr", test=(toy_ids(180, seed=5), LABEL), train=(IDS, LABEL))
    runs = toy_runs(tmp_path / "runs", per_class=(60, 60, 60), store=store)
    refuse(runs, "180 of 180 events.*180 are in its train split: a leak")


def test_an_event_under_another_identity_is_a_leak_too(tmp_path: Path) -> None:
    """The same collision in two files has two event_ids and the same features."""
    store, other = with_twin(tmp_path / "s.zarr")
    runs = toy_runs(tmp_path / "runs", per_class=(60, 60, 60), store=store)
    refuse(runs, f"event {other} of the train split has the same features as a test event")


def with_twin(path: Path, momentum: float = 1.0) -> tuple[Path, int]:
    """A store with a training event that is a test event with other momenta of its particles."""
    opened = EventStore.open(toy_store(path, test=(IDS, LABEL)))
    twin = opened.read(opened.ranges("test", "ttbar")[0], 3, 4)
    other = toy_ids(1, seed=77)
    copy = replace(twin, particles=twin.particles * np.float32(momentum), event_id=other)
    writer = StoreWriter(path, opened.spec)
    writer.write_part(1, {("train", "ttbar"): copy}, Ledger(n_in=1, n_out=1))
    writer.finalise()
    return path, int(other[0])


def test_events_with_equal_features_and_other_particles_are_no_leak(
    tmp_path: Path,
) -> None:
    store, _ = with_twin(tmp_path / "s.zarr", momentum=1.5)
    one = read_run(good(tmp_path / "hlf"), "hlf", "x")
    check_leak(join(open_store(config_for(store), one), one), one)


def test_a_store_of_another_hash_is_refused_by_name(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "s.zarr", test=(IDS, LABEL), provenance="ffff")
    runs = toy_runs(tmp_path / "runs", per_class=(60, 60, 60))
    refuse(runs, "its hash is ffff, but .* was made from 00c0ffee", store=store)


def test_a_clean_store_passes(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "s.zarr", test=(IDS, LABEL))
    folder = good(tmp_path / "hlf")
    one = read_run(folder, "hlf", "x")
    joined = join(open_store(config_for(store), one), one)
    check_leak(joined, one)
    for index in (0, 50, 179):
        event = joined.event(index)
        assert event.event_id.tolist() == [IDS[index]]
        assert (event.hlf[0] == joined.hlf[index]).all()


def test_runs_on_two_stores_are_compared_on_their_common_events_when_asked(tmp_path: Path) -> None:
    """Those of `corrected` and `reference` definitions: the latter drops some events."""
    kept = np.flatnonzero(np.arange(len(IDS)) % 9)
    own = {"event_id": IDS[kept], "label": LABEL[kept], "logits": LOGITS[kept] + 1}
    good(tmp_path / "a", event_id=IDS[5:], label=LABEL[5:], logits=LOGITS[5:])
    good(tmp_path / "b", **own, provenance={"store": "another", "definitions": "reference"})
    refuse(tmp_path, "another feature store.*--ablation or --common-events")
    config = EvaluateConfig(input=tmp_path, bootstrap=2, common_events=True)
    runs = [read_run(path, path.name, "content") for path in find_runs(config)]
    metrics, _ = evaluate_runs(runs, config)
    common = np.intersect1d(IDS[5:], IDS[kept])
    assert 0 < len(common) < len(kept) < len(IDS) - 5
    assert {entry["n_events"] for entry in metrics["models"].values()} == {len(common)}
    assert {pair["n_events"] for pair in metrics["pairs"]} == {len(common)}
    counts = [metrics["models"][name]["confusion"]["counts"] for name in "ab"]
    assert counts[0] == counts[1]  # a constant for all logits changes no decision
    (note,) = (note["text"] for note in metrics["notes"] if note["topic"] == "models")
    sizes = f"of a {len(IDS) - 5} and b {len(kept)}"
    assert note == (
        f"All numbers are on the {len(common)} test events that all runs have "
        f"(--common-events), {sizes}."
    )


def test_runs_without_common_events_of_a_class_are_refused(tmp_path: Path) -> None:
    good(tmp_path / "a")
    kept = LABEL != 1
    extra = np.arange(60) + IDS.max() + 1
    good(
        tmp_path / "b",
        event_id=np.concatenate([IDS[kept], extra]),
        label=np.concatenate([LABEL[kept], np.ones(60, np.int8)]),
        logits=np.concatenate([LOGITS[kept], LOGITS[LABEL == 1]]),
        provenance={"store": "another"},
    )
    match = "1 other run: 120 common test events, none of class ttbar. Compare runs on stores"
    refuse(tmp_path, match, common_events=True)
