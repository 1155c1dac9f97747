"""Scoring: the numbers of the training's test, every event accounted for, no wrong model."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.stages import EvaluateConfig
from hepflow.data.events import open_events, read_fragment
from hepflow.data.ledger import Ledger
from hepflow.data.predictions import read_predictions
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.job import run as evaluate
from hepflow.models.drift import Spread
from hepflow.models.onnx_net import OnnxNet
from hepflow.physics.columns import columns
from hepflow.physics.selection import passes
from hepflow.reading.delphes import DelphesFile
from hepflow.score.job import run
from hepflow.score.scorer import BATCH, MAX_CANDIDATES, OVERSIZED, Scorer
from hepflow.score.tables import read_scores
from hepflow.score.working_points import resolve
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support import toy_trigger
from tests.support.root_files import corrupt_basket
from tests.support.seals import unseal
from tests.support.toy_trigger import Trigger, rewritten
from tests.support.trainings import fit

pytestmark = pytest.mark.slow

N_EVENTS = 6 * 110
CLASSES = ("qcd", "ttbar", "wjets")


@pytest.fixture(scope="module")
def trigger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trigger]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        where = ClusterConfig(kind="address", address=cluster.scheduler_address)
        yield toy_trigger.make(tmp_path_factory.mktemp("trigger"), where, ("hlf", "inclusive"))


def config(trigger: Trigger, output: Path, net: str = "inclusive", **more: object) -> ScoreConfig:
    options = {"input": trigger.raw, "report": trigger.report, "cluster": trigger.cluster} | more
    return ScoreConfig(model=trigger.run(net) / "model.onnx", output=output, **options)


def some_events(trigger: Trigger) -> ak.Array:
    with DelphesFile(str(trigger.raw / "qcd" / "0.root")) as file:
        return next(iter(file.iterate(0, file.n_entries)))[2]


@pytest.mark.parametrize("net", ["hlf", "inclusive"])
@pytest.mark.parametrize("source", ["raw", "events"])
def test_scores_are_the_test_predictions_of_the_training(
    trigger: Trigger, tmp_path: Path, net: str, source: str
) -> None:
    run(config(trigger, tmp_path / "scores", net, input=getattr(trigger, source)))
    scores = read_scores(tmp_path / "scores")
    tested = read_predictions(trigger.run(net) / "predictions.parquet")
    row = {event_id: i for i, event_id in enumerate(scores["event_id"].to_pylist())}
    assert len(row) == len(scores), "an event twice"
    rows = scores.take([row[event_id] for event_id in tested.event_id.tolist()])
    assert rows["selected"].to_numpy().all()
    assert (
        len(rows) > 25
    )  # a fifth of 317 or so: files have UUIDs at random, and by them events their split
    found = np.stack([rows[f"p_{name}"].to_numpy() for name in CLASSES], axis=1)
    np.testing.assert_allclose(found, tested.probabilities, rtol=0, atol=1e-5)
    assert tested.probabilities.std() > 0.01, "a constant net proves nothing"


def test_every_event_has_a_score_or_a_reason(trigger: Trigger, tmp_path: Path) -> None:
    run(config(trigger, tmp_path / "scores"))
    about = read_json(tmp_path / "scores" / "_hepflow.json")
    ledger = Ledger.from_dict(about["ledger"]).check()
    scores = read_scores(tmp_path / "scores")
    assert about["complete"]
    assert ledger.n_in == len(scores) == N_EVENTS
    selected = scores["selected"].to_numpy()
    assert ledger.n_out == selected.sum() == trigger.store.ledger().n_out
    reasons = scores["reason"].to_pylist()
    assert all(
        (reason is None) == bool(good) for reason, good in zip(reasons, selected, strict=True)
    )
    assert {reason: reasons.count(reason) for reason in set(reasons) - {None}} == dict(
        ledger.rejected
    )
    assert set(ledger.rejected) == {"no lepton above 23 GeV", "no isolated lepton"}
    assert scores["p_qcd"].null_count == scores["logit_qcd"].null_count == (~selected).sum()
    assert scores["decision"].filter(scores["selected"]).null_count == ledger.n_out, (
        "no working point was given"
    )
    next((tmp_path / "scores").glob("*.parquet")).unlink()
    with pytest.raises(DataError, match=f"the files here hold .* of {N_EVENTS:,} scores"):
        read_scores(tmp_path / "scores")


def test_a_second_run_scores_missing_files_only(trigger: Trigger, tmp_path: Path) -> None:
    raw, output = tmp_path / "raw", tmp_path / "scores"
    shutil.copytree(trigger.raw, raw)
    run(config(trigger, output, "hlf", input=raw))
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    lost = next(iter(sorted(output.glob("*.parquet"))))
    lost.unlink()
    copy_as_new(raw / "qcd" / "0.root", raw / "qcd" / "late.root", 7)
    changed = copy_as_new(raw / "qcd" / "0.root", raw / "ttbar" / "1.root", 8)
    run(config(trigger, output, "hlf", input=raw))
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    assert {name for name in after if before.get(name) == after[name]} == {
        name for name in before if name != lost.name and not name.startswith(f"{changed.stem}-")
    }
    scores = read_scores(output)
    assert len(set(scores["event_id"].to_pylist())) == len(scores) == N_EVENTS + 110
    with pytest.raises(
        ConfigError,
        match=r"scores with model HLFNet \w+ \(now InclusiveNet \w+\)\. Give another --output, or",
    ):
        run(config(trigger, output, "inclusive", input=raw))
    with pytest.raises(
        ConfigError,
        match=r"with working points none \(now ttbar@0.9 at \S+\), report none \(now \w+\)\. Give",
    ):
        run(config(trigger, output, "hlf", input=raw, working_point="ttbar@0.9"))
    run(config(trigger, output, "inclusive", input=raw, overwrite=True))
    scores = read_scores(output)
    assert len(set(scores["event_id"].to_pylist())) == len(scores) == N_EVENTS + 110


def test_a_run_that_scored_nothing_leaves_the_output_free(trigger: Trigger, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match="neither ROOT files nor a dataset"):
        run(
            config(
                trigger,
                tmp_path / "scores",
                "hlf",
                input=tmp_path / "raw",
                working_point="ttbar@0.9",
            )
        )
    run(config(trigger, tmp_path / "scores", "hlf", input=trigger.raw, working_point="ttbar@0.5"))


def test_a_second_run_reports_that_nothing_is_left(
    trigger: Trigger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(config(trigger, tmp_path / "scores", "hlf"))
    with caplog.at_level(logging.INFO, logger="hepflow"):
        run(config(trigger, tmp_path / "scores", "hlf"))
    assert "up to date: 6 files scored before" in caplog.text
    assert not any("resuming" in text or "events/s" in text for text in caplog.messages)


def test_bad_files_and_copies_are_quarantined_and_the_rest_goes_on(
    trigger: Trigger, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(trigger.raw / "qcd", raw)
    corrupt_basket(raw / "0.root")
    (raw / "text.root").write_text("hello")
    (raw / "short.root").write_bytes((raw / "3.root").read_bytes()[:9000])
    shutil.copy(raw / "3.root", raw / "9.root")
    with pytest.raises(DataError, match=r"4 of 5 files lost events .* the rest is done"):
        run(config(trigger, tmp_path / "scores", "hlf", input=raw))
    ledger = Ledger.from_dict(read_json(tmp_path / "scores" / "_hepflow.json")["ledger"]).check()
    reasons = {item.file: (item.reason, item.events) for item in ledger.lost}
    assert reasons["text.root"] == ("not a ROOT file", None)
    assert reasons["short.root"][0].startswith(("truncated", "not a ROOT file", "damaged"))
    assert reasons["0.root"][0].startswith("corrupt baskets in entries 0 to 60")
    one, other = ("3.root", "9.root") if "9.root" in reasons else ("9.root", "3.root")
    assert reasons[other] == (f"a copy of {one} (same identity)", 110)
    scores = read_scores(tmp_path / "scores")
    assert len(scores) == 50 + 110
    run(config(trigger, tmp_path / "scores", "hlf", input=raw, max_lost_files=4))


def test_a_damaged_parquet_file_loses_its_own_events_only(trigger: Trigger, tmp_path: Path) -> None:
    events = tmp_path / "events"
    shutil.copytree(trigger.events, events)
    damaged = sorted(events.glob("*/*.parquet"))[0]
    content = bytearray(damaged.read_bytes())
    content[100:2000] = b"\xff" * 1900
    damaged.write_bytes(content)
    run(config(trigger, tmp_path / "scores", "hlf", input=events, max_lost_files=1))
    ledger = Ledger.from_dict(read_json(tmp_path / "scores" / "_hepflow.json")["ledger"]).check()
    assert [item.file for item in ledger.lost] == [damaged.relative_to(events).as_posix()]
    assert ledger.n_lost == pq.read_metadata(damaged).num_rows


def test_a_working_point_has_the_efficiency_of_the_report(trigger: Trigger, tmp_path: Path) -> None:
    run(config(trigger, tmp_path / "scores", working_point="ttbar@0.9, headline@0.5"))
    scores = read_scores(tmp_path / "scores")
    tested = read_predictions(trigger.run("inclusive") / "predictions.parquet")
    row = {event_id: i for i, event_id in enumerate(scores["event_id"].to_pylist())}
    rows = scores.take([row[event_id] for event_id in tested.event_id.tolist()])
    measured = read_json(trigger.report / "metrics.json")["models"]["inclusive"]["selections"]
    for stream, selection, target in (
        ("ttbar", "ttbar_vs_rest", 0.9),
        ("headline", "headline", 0.5),
    ):
        point = next(
            point for point in measured[selection]["working_points"] if point["target"] == target
        )
        accepted = rows[f"accept_{stream}"].to_numpy()
        for label, name in enumerate(CLASSES):
            if name in point["efficiency"]:
                assert accepted[tested.label == label].mean() == pytest.approx(
                    point["efficiency"][name]["value"]
                )
    decision = scores["decision"].to_numpy()
    assert (
        decision == (scores["accept_ttbar"].to_numpy() | scores["accept_headline"].to_numpy())
    ).all()
    assert not decision[~scores["selected"].to_numpy()].any()
    about = read_json(tmp_path / "scores" / "_hepflow.json")
    assert [point["name"] for point in about["working_points"]] == ["ttbar@0.9", "headline@0.5"]
    assert about["accepted"]["ttbar"] == scores["accept_ttbar"].to_numpy().sum()


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("ttbar", ConfigError, "must be SELECTION@EFFICIENCY"),
        ("top@0.9", ConfigError, "no selection 'top', only qcd, ttbar, wjets"),
        ("ttbar@0.8", ConfigError, "has the efficiencies 0.5, 0.9. For others run"),
        ("ttbar@0.5,ttbar@0.9", ConfigError, "Name each only once"),
    ],
)
def test_a_missing_working_point_is_refused(
    trigger: Trigger, asked: str, error: type[Exception], message: str
) -> None:
    model = trigger.run("hlf") / "model.onnx"
    with pytest.raises(error, match=message):
        resolve(asked, trigger.report, OnnxNet(model))


def test_a_threshold_of_another_model_is_refused(trigger: Trigger, tmp_path: Path) -> None:
    net = OnnxNet(trigger.run("hlf") / "model.onnx")
    shutil.copytree(trigger.run("hlf"), tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no model 'elsewhere' in it, only hlf, inclusive"):
        resolve("ttbar@0.9", trigger.report, OnnxNet(tmp_path / "elsewhere" / "model.onnx"))
    metrics = read_json(trigger.report / "metrics.json")
    metrics["models"]["hlf"]["provenance"]["store"] = "another"
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match="another feature store"):
        resolve("ttbar@0.9", tmp_path, net)
    with pytest.raises(DataError, match="no readable report"):
        resolve("ttbar@0.9", tmp_path / "none", net)


def test_a_threshold_of_an_earlier_training_is_refused(trigger: Trigger, tmp_path: Path) -> None:
    fit(trigger.store, tmp_path / "hlf", "--seed_everything", "2", "--trainer.max_epochs", "1")
    again = OnnxNet(tmp_path / "hlf" / "model.onnx")
    with pytest.raises(
        DataError,
        match=r"report is of an earlier training of hlf, or .*\. Run `hepflow evaluate` again",
    ):
        resolve("ttbar@0.9", trigger.report, again)
    evaluate(
        EvaluateConfig(
            input=tmp_path, runs=("hlf",), output=tmp_path / "report", targets=(0.9,), bootstrap=2
        )
    )
    assert resolve("ttbar@0.9", tmp_path / "report", again)
    again.weights = ""  # exported before the file said so
    assert resolve("ttbar@0.9", trigger.report, again)


def test_events_do_not_depend_on_the_others_in_a_call(trigger: Trigger) -> None:
    """Alone, in a batch, sliced, out of Parquet, and from flat arrays."""
    scorer, events = Scorer(trigger.run("inclusive") / "model.onnx"), some_events(trigger)
    together = scorer.score(events)
    assert together.selected.sum() > 2 * BATCH
    chosen = np.concatenate(
        [np.flatnonzero(together.selected)[:4], np.flatnonzero(~together.selected)[:2]]
    )
    for i in chosen:
        alone = scorer.score(events[i : i + 1])
        assert alone.reason.tolist() == [together.reason[i]]
        np.testing.assert_allclose(alone.logits[0], together.logits[i], rtol=1e-5, atol=1e-5)
    flat = scorer.score_columns(columns(events))
    assert flat.reason.tolist() == together.reason.tolist()
    np.testing.assert_array_equal(flat.logits, together.logits)
    fragment = open_events(trigger.events, 2**40).fragments[0]
    assert scorer.score(read_fragment(fragment)).selected.any()
    assert len(scorer.score(events[:0]).reason) == 0
    np.testing.assert_allclose(together.probabilities[together.selected].sum(axis=1), 1)


def broken(events: ak.Array, collection: str, field: str, value: float) -> ak.Array:
    """The first element of the first event that has one gets the value."""
    column = ak.to_packed(events[collection])
    values = ak.to_numpy(ak.flatten(column[field])).copy()
    values[0] = value
    fields = {name: column[name] for name in column.fields} | {
        field: ak.unflatten(values, ak.num(column))
    }
    return ak.zip(
        {name: events[name] if name != collection else ak.zip(fields) for name in events.fields},
        depth_limit=1,
    )


def test_events_with_nan_or_too_many_particles_have_a_reason_each(trigger: Trigger) -> None:
    scorer = Scorer(trigger.run("inclusive") / "model.onnx")
    events = some_events(trigger)[passes(some_events(trigger))][:3]
    for value in (np.nan, np.inf, -np.inf):
        scores = scorer.score(broken(events, "EFlowTrack", "Eta", value))
        assert scores.reason.tolist() == ["NaN or infinite values", "", ""]
        assert (
            scorer.score_columns(
                columns(broken(events, "EFlowTrack", "Eta", value))
            ).reason.tolist()
            == scores.reason.tolist()
        )
    assert scorer.score(broken(events, "EFlowTrack", "Eta", 3e38)).reason[1:].tolist() == ["", ""]
    many = ak.concatenate(
        [events["EFlowPhoton"][:1]]
        * (MAX_CANDIDATES // max(int(ak.num(events["EFlowPhoton"])[0]), 1) + 1),
        axis=1,
    )
    huge = ak.zip(
        {n: events[n][:1] if n != "EFlowPhoton" else many for n in events.fields}, depth_limit=1
    )
    assert scorer.score(ak.concatenate([huge, events])).reason.tolist() == [OVERSIZED, "", "", ""]


def test_events_without_a_collection_or_a_field_are_refused(trigger: Trigger) -> None:
    scorer, events = Scorer(trigger.run("hlf") / "model.onnx"), some_events(trigger)
    with pytest.raises(DataError, match="no collection 'Jet'"):
        scorer.score(events[[name for name in events.fields if name != "Jet"]])
    jets = events["Jet"][["Eta", "Phi", "Mass", "BTag"]]
    with pytest.raises(DataError, match="'Jet' has no field 'PT'"):
        scorer.score(ak.zip({**{n: events[n] for n in events.fields}, "Jet": jets}, depth_limit=1))


OWN = """
from dataclasses import replace
import numpy as np
from hepflow.physics.features import compute_features
def half(events, definitions):
    f = compute_features(events, definitions)
    return replace(f, hlf=f.hlf * np.float32(0.5), status=None)
def fewer(events, definitions):
    f = compute_features(events, definitions)
    return replace(f, hlf=f.hlf[:, 1:], hlf_features=f.hlf_features[1:], status=None)
"""


def test_a_users_own_physics_is_used_and_named(
    trigger: Trigger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scored_physics.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    shipped = trigger.run("hlf") / "model.onnx"
    own = rewritten(shipped, tmp_path / "own.onnx", physics="scored_physics:half@0123")
    events = some_events(trigger)
    scores = Scorer(own, "scored_physics:half").score(events)
    plain = Scorer(shipped).score(events)
    np.testing.assert_allclose(scores.hlf, plain.hlf * 0.5)
    assert (scores.selected == plain.selected).all()
    assert Scorer(own, "scored_physics:half").physics_identity.startswith("scored_physics:half@")
    with pytest.raises(
        DataError,
        match=r"trained on the features of scored_physics:half, not of hepflow.*--physics",
    ):
        Scorer(own)
    with pytest.raises(DataError, match=r"made for hlf HT, MET.*this physics makes MET"):
        Scorer(rewritten(shipped, tmp_path / "other.onnx", physics=""), "scored_physics:fewer")


def test_a_model_that_differs_from_its_description_is_refused(
    trigger: Trigger, tmp_path: Path
) -> None:
    model = trigger.run("hlf") / "model.onnx"
    inputs = json.loads(
        next(item.value for item in onnx.load(model).metadata_props if item.key == "hepflow")
    )["inputs"]
    (tmp_path / "pickle.onnx").write_bytes(b"cbuiltins\nexec\n(Vraise SystemExit('it ran')\ntR.")
    (tmp_path / "half.onnx").write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    stranger = onnx.load(model)
    del stranger.metadata_props[:]
    onnx.save(stranger, tmp_path / "stranger.onnx")
    fewer = {**inputs, "hlf": inputs["hlf"][1:]}
    swapped = {**inputs, "hlf": [inputs["hlf"][1], inputs["hlf"][0], *inputs["hlf"][2:]]}
    cases = {
        tmp_path / "none.onnx": "no model here",
        model.parent: "a folder, not a model. Give its file .*model.onnx",
        tmp_path / "pickle.onnx": "not an ONNX model",
        shutil.copy(
            trigger.run("hlf") / "checkpoints" / "best.ckpt", tmp_path / "best.onnx"
        ): "not an ONNX model",
        tmp_path / "half.onnx": "not an ONNX model",
        tmp_path / "stranger.onnx": "not one that hepflow exported",
        rewritten(
            model, tmp_path / "fewer.onnx", inputs=fewer
        ): r"the net takes .*\(2, 14\).* describe .*\(2, 13\)",
        rewritten(
            model, tmp_path / "swapped.onnx", inputs=swapped
        ): "made for hlf MET, HT.*this physics makes HT, MET",
        rewritten(
            model, tmp_path / "classes.onnx", inputs={**inputs, "classes": ["a", "b"]}
        ): "not logits of 2 classes",
        rewritten(
            model, tmp_path / "definitions.onnx", inputs={**inputs, "definitions": "mine"}
        ): "no set named 'mine'",
    }
    for path, message in cases.items():
        with pytest.raises((DataError, ConfigError), match=message):
            Scorer(Path(path))
    Scorer(model, store=trigger.store.path)
    other = json.loads(json.dumps(inputs))
    other["statistics"]["hlf"]["std"][3] *= 1.0000005
    Scorer(rewritten(model, tmp_path / "close.onnx", inputs=other), store=trigger.store.path)
    shutil.copytree(trigger.store.path, tmp_path / "other.zarr")
    content = json.loads(unseal(tmp_path / "other.zarr" / "zarr.json").read_text())
    content["attributes"]["hepflow"]["statistics"]["hlf"]["mean"][3] += 1
    (tmp_path / "other.zarr" / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"its normalisation \(mean of MT in hlf\) is not that of"):
        Scorer(model, store=tmp_path / "other.zarr")


def test_scoring_needs_no_torch(trigger: Trigger) -> None:
    code = (
        "import sys; from pathlib import Path; import hepflow.score.job; "
        "from hepflow.score.scorer import Scorer; "
        f"Scorer(Path({str(trigger.run('hlf') / 'model.onnx')!r})); "
        "sys.exit('torch' in sys.modules or 'pyspark' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_drift_is_distinguished_from_chance() -> None:
    rng = np.random.default_rng(3)
    classes = [
        np.stack([rng.normal(i, 1, 5000), rng.integers(0, 3, 5000)], axis=1).astype(np.float32)
        for i in range(2)
    ]
    spread = Spread.from_dict(json.loads(json.dumps(Spread.of(classes).to_dict())))
    same = np.stack([rng.normal(rng.integers(0, 2, 300), 1), rng.integers(0, 3, 300)], axis=1)
    psi, chance = spread.distance(spread.count(same))
    assert (psi < chance).all()
    psi, chance = spread.distance(spread.count(same + np.array([1.0, 0.0])))
    assert psi[0] > 0.2 + chance[0]
    assert psi[1] < chance[1]
    only_first = spread.count(classes[0][:300])
    assert spread.distance(only_first)[0][0] > 0.2, "another mix is another spread"
    assert spread.distance(only_first, np.array([1.0, 0.0]))[0][0] < 0.1, (
        "unless it is the one to expect"
    )
