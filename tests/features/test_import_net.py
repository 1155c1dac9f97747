"""A published net becomes two runs that `hepflow evaluate` shows beside the others."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepflow import cli
from hepflow.config.stages import EvaluateConfig
from hepflow.config.tools import ImportConfig, PredictedConfig
from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.ledger import Ledger
from hepflow.data.predictions import Predictions, read_predictions, softmax
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.job import evaluate_runs
from hepflow.evaluate.runs import read_runs
from hepflow.features import import_net
from hepflow.features.import_cern import run
from hepflow.models.cern.inputs import RANGES
from hepflow.physics.features import compute_features, hlf_features
from hepflow.schema import CLASSES, HLF, PARTICLE, SPLITS
from hepflow.system.files import read_json
from tests.support.cern_nets import (
    HLF_NET,
    INCLUSIVE,
    SEQUENCE,
    plain_logits,
    random_weights,
    write_bigdl,
    write_h5,
    write_keras,
)
from tests.support.delphes_events import random_events, to_awkward
from tests.support.toy_runs import write_run

PER_SPLIT = {"train": 4, "val": 6, "test": 3}
NARROW = random_weights(particles=True, hlf=True, hidden=8)
LOW, HIGH = np.array([RANGES[feature.name] for feature in HLF]).T


def make_store(path: Path, **changed: Any) -> EventStore:
    """A store of real features; the classes have fewer and fewer events."""
    about = {"hlf": hlf_features("reference"), "particles": PARTICLE, "definitions": "reference"}
    spec = StoreSpec(**{"classes": CLASSES, "provenance": path.name, **about, **changed})
    scaled = all(feature.unit == "1" for feature in spec.hlf)
    blocks, first = {}, 0
    for split, n in PER_SPLIT.items():
        for label, name in enumerate(spec.classes):
            seed = 100 * SPLITS.index(split) + CLASSES.index(name) if name in CLASSES else label
            events = to_awkward(random_events(4 * n, seed=seed, n_tracks=20 + 8 * label))
            made = compute_features(events, "reference")
            count = n - label
            assert len(made.index) >= count
            ids = np.arange(first, first + count)
            hlf = (made.hlf - LOW) / (HIGH - LOW) if scaled else made.hlf
            block = EventBlock(
                hlf[:count].astype(np.float32),
                made.particles[: made.offsets[count]],
                made.offsets[: count + 1],
                np.full(count, label, np.int8),
                ids,
            )
            blocks[split, name], first = block, first + count
    total = sum(map(len, blocks.values()))
    writer = StoreWriter.create(path, spec)
    writer.write_part(0, blocks, Ledger(total, total))
    writer.finalise()
    return EventStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return make_store(tmp_path_factory.mktemp("stores") / "reference.zarr")


def imported(model: Path, store: EventStore, output: Path | None, **options: Any) -> None:
    run(ImportConfig(model=model, data=PredictedConfig(store=store.path), output=output, **options))


def events(store: EventStore) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """event_id -> particles, ordered and standardised as in the notebook, and scaled features."""
    found = {}
    for block in store.blocks("test"):
        for i, event in enumerate(block.event_id.tolist()):
            rows = np.zeros((801, 19))
            own = block.particles[block.offsets[i] : block.offsets[i + 1]]
            rows[: len(own)] = own
            delta = np.angle(np.exp(1j * (rows[:, 6] - rows[0, 6])))
            order = sorted(range(801), key=lambda k: np.hypot(rows[k, 5] - rows[0, 5], delta[k]))
            rows = rows[order[::-1]]
            spread = rows.std(axis=0)
            rows = (rows - rows.mean(axis=0)) / np.where(spread == 0, 1, spread)
            found[event] = rows, (block.hlf[i] - LOW) / (HIGH - LOW)
    return found


@pytest.mark.parametrize(
    ("w", "kind"),
    [(INCLUSIVE, "h5"), (NARROW, "bigdl"), (SEQUENCE, "keras"), (HLF_NET, "bigdl")],
    ids=["inclusive.h5", "inclusive.bigdl", "sequence.keras", "hlf.bigdl"],
)
def test_the_predictions_are_those_of_plain_loops(
    tmp_path: Path, store: EventStore, w: Any, kind: str
) -> None:
    write = {"h5": write_h5, "keras": write_keras, "bigdl": write_bigdl}[kind]
    imported(write(tmp_path / f"net.{kind}", w), store, tmp_path / "runs" / "cern")
    found = read_predictions(tmp_path / "runs" / "cern" / "predictions.parquet")
    given = events(store)
    assert found.event_id.tolist() == sorted(given)
    for event, logits in zip(found.event_id.tolist(), found.logits, strict=True):
        wanted = plain_logits(*given[event], w, bigdl=kind == "bigdl")
        np.testing.assert_allclose(logits, wanted, rtol=2e-3, atol=2e-3)


def test_both_runs_are_in_a_report_and_labelled(
    tmp_path: Path, store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hepflow")
    model = write_h5(tmp_path / "net.h5", HLF_NET)
    imported(model, store, tmp_path / "cern_hlf")
    assert "trained on CERN's events of 2019 (SparkDLTrigger)" in caplog.text
    plain, shifted = read_runs(tmp_path, "cern_hlf", "cern_hlf_offsets")
    offsets = shifted.about["offsets"]
    added = np.array([offsets[name] for name in CLASSES])
    assert abs(added.sum()) < 1e-6 < np.abs(added).max()
    np.testing.assert_allclose(
        shifted.predictions.logits, plain.predictions.logits + added, rtol=1e-5, atol=1e-5
    )
    assert plain.about["splits_used"]["tuning"] == []
    assert shifted.about["splits_used"]["tuning"] == ["val"]
    ids, label = plain.predictions.event_id, plain.predictions.label
    logits = np.random.default_rng(1).normal(size=(len(ids), 3)).astype(np.float32)
    origin = {"store": store.spec.provenance, "definitions": "reference"}
    own = {"event_id": ids, "label": label, "logits": logits, "history": False}
    write_run(tmp_path / "mine", **own, provenance=origin, about={"store": str(store.path)})
    metrics, _ = evaluate_runs(read_runs(tmp_path), EvaluateConfig(bootstrap=2))
    assert set(metrics["models"]) == {"cern_hlf", "cern_hlf_offsets", "mine"}
    entry = metrics["models"]["cern_hlf"]
    assert entry["about"]["parameters"] == 2013
    assert entry["model"] == "HLF of SparkDLTrigger"
    (note,) = (note["text"] for note in metrics["notes"] if note["topic"] == "models")
    assert note.startswith("Trained on another sample: cern_hlf and cern_hlf_offsets, on CERN's")
    assert metrics["checks"]["leak"]
    last = "All models except cern_hlf and cern_hlf_offsets were trained on one store."
    assert metrics["checks"]["passed"][-1] == last


def test_offsets_bring_the_mean_probabilities_to_the_shares() -> None:
    rng = np.random.default_rng(4)
    label = np.repeat([0, 1, 2], (500, 200, 300))
    logits = rng.normal(size=(1000, 3)) + 3 * np.eye(3)[label] + np.array([2.0, -1.0, 5.0])
    share = np.bincount(label) / 1000
    offsets = import_net._offsets(logits, share, Path())
    mean = softmax(logits + offsets + np.log(share)).mean(axis=0)
    np.testing.assert_allclose(mean, share, atol=1e-8)
    # What was added comes off again, up to what the noise does.
    np.testing.assert_allclose(offsets, [0, 3, -3], atol=0.5)
    shifted = import_net._offsets(logits + np.array([1.0, 0.0, 0.0]), share, Path())
    np.testing.assert_allclose(shifted - offsets, [-2 / 3, 1 / 3, 1 / 3], atol=1e-6)


def test_a_run_is_kept_and_replaced_only_when_asked(
    tmp_path: Path, store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hepflow")
    model, output = write_h5(tmp_path / "net.h5", HLF_NET), tmp_path / "runs" / "x"
    imported(model, store, output)
    before = (output / "run.json").read_bytes()
    imported(model, store, output)
    assert "are up to date: same net, same store" in caplog.text
    (tmp_path / "runs" / "x_offsets" / "predictions.parquet").unlink()
    imported(model, store, output)
    assert (tmp_path / "runs" / "x_offsets" / "predictions.parquet").is_file()
    assert (output / "run.json").read_bytes() == before
    other = write_bigdl(tmp_path / "other.bigdl", HLF_NET)
    with pytest.raises(ConfigError, match=r"holds a run with net net\.h5 .*other\.bigdl"):
        imported(other, store, output)
    imported(other, store, output, overwrite=True)
    assert read_json(output / "run.json")["engine"] == "NumPy, file of BigDL 0.10.0"


def test_the_classes_of_the_store_may_have_another_order(tmp_path: Path, store: EventStore) -> None:
    order = ("wjets", "qcd", "ttbar")
    other = make_store(tmp_path / "other.zarr", classes=order)
    model = write_h5(tmp_path / "net.h5", HLF_NET)
    imported(model, other, tmp_path / "x")
    found = read_predictions(tmp_path / "x" / "predictions.parquet")
    given = events(other)
    wanted = [plain_logits(None, given[event][1], HLF_NET)[[2, 0, 1]] for event in found.event_id]
    np.testing.assert_allclose(found.logits, wanted, rtol=1e-3, atol=1e-3)
    assert found.classes == order


def test_features_that_were_scaled_at_cern_are_taken_as_they_are(tmp_path: Path) -> None:
    units = tuple(replace(feature, unit="1") for feature in HLF)
    scaled = make_store(tmp_path / "scaled.zarr", hlf=units)
    imported(write_h5(tmp_path / "net.h5", HLF_NET), scaled, tmp_path / "x")
    found = read_predictions(tmp_path / "x" / "predictions.parquet")
    rows = {e: h for b in scaled.blocks("test") for e, h in zip(b.event_id, b.hlf, strict=True)}
    wanted = [plain_logits(None, rows[event], HLF_NET) for event in found.event_id]
    np.testing.assert_allclose(found.logits, wanted, rtol=1e-3, atol=1e-2)
    model = write_h5(tmp_path / "all.h5", INCLUSIVE)
    refuse(model, scaled, tmp_path / "y", "has particles that are standardised already")


def refuse(model: Path, store: EventStore, output: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        imported(model, store, output)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(store.path))
    assert not output.exists()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"definitions": "corrected"}, "has corrected definitions, .*--definitions reference"),
        ({"classes": ("a", "b", "c")}, "has the classes a, b, c, the net qcd, ttbar, wjets"),
        ({"hlf": (*HLF[:-1], HLF[0])}, "has other high-level features"),
        ({"particles": (*PARTICLE[:-1], HLF[0])}, "has other particle features"),
    ],
)
def test_a_store_of_other_features_is_refused(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    other = make_store(tmp_path / "other.zarr", **changed)
    refuse(write_h5(tmp_path / "net.h5", INCLUSIVE), other, tmp_path / "x", match)


def test_a_store_without_particles_is_refused_for_the_nets_that_need_them(
    tmp_path: Path, store: EventStore
) -> None:
    spec = StoreSpec(CLASSES, hlf_features("reference"), PARTICLE, "reference", "bare")
    writer, blocks = StoreWriter.create(tmp_path / "bare.zarr", spec), {}
    for split in SPLITS:
        for name in CLASSES:
            (rows,) = store.ranges(split, name)
            blocks[split, name] = store.read(rows, particles=False)
    total = sum(map(len, blocks.values()))
    writer.write_part(0, blocks, Ledger(total, total))
    writer.finalise()
    bare = EventStore.open(tmp_path / "bare.zarr")
    model = write_h5(tmp_path / "net.h5", SEQUENCE)
    refuse(model, bare, tmp_path / "x", "has no particles, which the sequence net needs")
    imported(write_h5(tmp_path / "hlf.h5", HLF_NET), bare, tmp_path / "y")
    assert (tmp_path / "y_offsets" / "run.json").is_file()


def test_a_command_line_is_of_data_or_of_a_net(
    tmp_path: Path, store: EventStore, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_h5(tmp_path / "net.h5", HLF_NET)
    for words in ([], ["--train", "a"], ["--model", str(model), "--test", "b"]):
        with pytest.raises(SystemExit) as end:
            cli.main(["import-cern", *words])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert "give --train and --test to import datasets, or --model alone" in re.sub(
            r"\s+", " ", said
        )
    words = ["--model", str(model), "--data.store", str(store.path)]
    with pytest.raises(SystemExit) as end:
        cli.main(["import-cern", *words, "--output", str(tmp_path / "runs" / "c")])
    assert not end.value.code
    found = read_predictions(tmp_path / "runs" / "c" / "predictions.parquet")
    assert isinstance(found, Predictions)
    assert found.provenance["split"] == "test"
