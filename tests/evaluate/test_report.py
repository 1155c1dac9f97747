"""The whole report: its files, the same bytes in a second run, and what happens without a store."""

import base64
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import auc as area
from sklearn.metrics import roc_auc_score

from hepflow.config.stages import EvaluateConfig
from hepflow.data.predictions import read_predictions
from hepflow.data.runs import read_record
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate import published
from hepflow.evaluate.figures import Bars
from hepflow.evaluate.figures.plots import save
from hepflow.evaluate.job import _write, evaluate_runs, inputs_hash, run
from hepflow.evaluate.kinematics import bin_edges, store_hashes
from hepflow.evaluate.report import write_report
from hepflow.evaluate.runs import content_hash, find_runs, read_run
from hepflow.evaluate.tables import (
    ablation,
    ablation_differences,
    for_terminal,
    models,
    summary_table,
    working_points,
)
from hepflow.evaluate.text import headline
from hepflow.schema import HLF, METRICS_SCHEMA_VERSION
from hepflow.system.files import read_json
from tests.support.commands import hepflow
from tests.support.toy_runs import (
    toy_about,
    toy_ids,
    toy_labels,
    toy_logits,
    toy_report,
    toy_runs,
    toy_store,
    write_run,
)

pytestmark = pytest.mark.slow

SIZES = (250, 200, 300)
ROOT = Path(__file__).parents[2]


def make(folder: Path, *, store: bool = True, **options: Any) -> Path:
    ids, label = toy_ids(sum(SIZES)), toy_labels(SIZES)
    place = toy_store(folder / "features.zarr", test=(ids, label)) if store else None
    return toy_runs(folder / "runs", per_class=SIZES, store=place, **options)


def report(folder: Path, **options: Any) -> dict[str, Any]:
    output = folder / "report"
    run(EvaluateConfig(**{"input": folder / "runs", "output": output, "bootstrap": 10, **options}))
    metrics: dict[str, Any] = read_json(output / "metrics.json")
    return metrics


def measured(folder: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Return metrics and names of figures, without drawing them."""
    config = EvaluateConfig(**{"input": folder / "runs", "bootstrap": 10, **options})
    runs = [read_run(path, path.name, "content") for path in find_runs(config)]
    metrics, figures = evaluate_runs(runs, config)
    return metrics, [figure.name for section in figures.values() for figure in section]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_report(tmp_path_factory.getbasetemp())


def test_metrics_json_has_the_documented_keys(whole: Path) -> None:
    metrics = read_json(whole / "report" / "metrics.json")
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(
        re.findall(r"^- `([a-z_]+)`", text.split("## The file")[1].split("## A model")[0], re.M)
    )
    assert set(metrics) == documented
    entry_keys = set(
        re.findall(
            r"^- `([a-z_]+)`", text.split("## A model")[1].split("## A working point")[0], re.M
        )
    )
    assert set(metrics["models"]["hlf"]) == entry_keys
    point_keys = set(re.findall(r"^- `([a-z_0-9]+)`", text.split("## A working point")[1], re.M))
    assert (
        set(metrics["models"]["hlf"]["selections"]["headline"]["working_points"][0]) == point_keys
    )
    assert metrics["schema_version"] == METRICS_SCHEMA_VERSION
    assert f"version {METRICS_SCHEMA_VERSION}" in text


def test_numbers_are_those_of_the_predictions(whole: Path) -> None:
    metrics = read_json(whole / "report" / "metrics.json")
    for name in ("hlf", "sequence", "inclusive"):
        predictions = read_predictions(whole / "runs" / name / "predictions.parquet")
        weight = (1 / np.bincount(predictions.label))[predictions.label]
        for k, class_name in enumerate(predictions.classes):
            expected = roc_auc_score(
                predictions.label == k, predictions.probabilities[:, k], sample_weight=weight
            )
            assert metrics["models"][name]["auc"][class_name]["value"] == pytest.approx(
                expected, abs=1e-9
            )
            assert 0 < metrics["models"][name]["auc"][class_name]["error"] < 0.05
    assert metrics["best"] == "inclusive"


def test_every_figure_is_a_png_a_pdf_and_a_csv(whole: Path) -> None:
    folder = whole / "report" / "figures"
    names = read_json(whole / "report" / "metrics.json")["figures"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{end}" for name in names for end in ("png", "pdf", "csv")
    )
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with (folder / f"{name}.csv").open() as stream:
            header, *rows = csv.reader(stream)
        assert rows
        assert all(len(row) == len(header) for row in rows)


def test_the_csv_of_a_roc_curve_holds_its_points(whole: Path) -> None:
    with (whole / "report" / "figures" / "roc_qcd_vs_rest.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["series"].startswith("hlf")]
    x, y = (np.array([float(row[key]) for row in rows]) for key in list(rows[0])[1:3])
    assert area(x, 1 - y) == pytest.approx(
        read_json(whole / "report" / "metrics.json")["models"]["hlf"]["auc"]["qcd"]["value"],
        abs=0.01,
    )


def test_the_page_needs_no_other_file_and_no_network(whole: Path) -> None:
    text = (whole / "report" / "report.html").read_text()
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=[\"'](?!data:)", text)
    assert "@import" not in text
    assert "url(http" not in text
    assert not re.search(r"<[^>]* (style|on\w+)=", text)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        hashed = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{hashed}'"
    assert not rules


def test_the_headline_is_first_and_the_published_numbers_are_labelled(whole: Path) -> None:
    text = (whole / "report" / "report.html").read_text()
    first = re.search(r"<h1>(.*?)</h1>", text, re.S)
    assert first is not None
    assert (
        first.group(1)
        .replace("\u00a0", " ")
        .startswith(
            "Keeping 99 % of each of ttbar and wjets, inclusive cuts the qcd rate by a factor of "
        )
    )
    assert "Another sample." in text
    assert published.REPOSITORY in text
    assert "WJETS" not in text


def test_training_times_do_not_include_the_start_of_the_command(whole: Path) -> None:
    page = (whole / "report" / "report.html").read_text()
    for section in ("training", "published"):
        assert (
            "the start of the command"
            in page.split(f'<section id="{section}">')[1].split("</section>")[0]
        )
    assert "time within training" in page


def test_a_report_of_other_settings_is_not_up_to_date(whole: Path) -> None:
    config = EvaluateConfig(input=whole / "runs", output=whole / "report", bootstrap=10)
    contents = {path.name: content_hash(path) for path in find_runs(config)}
    stores = [store_hashes(config, read_record(path)) for path in find_runs(config)]
    hashes = {
        inputs_hash(replace(config, **changed), contents, stores)
        for changed in ({}, {"seed": 2}, {"targets": (0.5,)})
    }
    assert len(hashes) == 3
    assert read_json(whole / "report" / "metrics.json")["inputs"] in hashes
    assert inputs_hash(replace(config, output=whole), contents, stores) in hashes


def test_a_report_whose_store_changed_or_is_gone_is_not_up_to_date(
    tmp_path: Path,
) -> None:
    make(tmp_path, models={"hlf": 1.2})
    config = EvaluateConfig(input=tmp_path / "runs")
    found = [store_hashes(config, read_record(tmp_path / "runs" / "hlf"))]
    toy_store(
        tmp_path / "features.zarr",
        test=(toy_ids(sum(SIZES)), toy_labels(SIZES)),
        provenance="grown",
    )
    found.append(store_hashes(config, read_record(tmp_path / "runs" / "hlf")))
    shutil.rmtree(tmp_path / "features.zarr")
    found.append(store_hashes(config, read_record(tmp_path / "runs" / "hlf")))
    assert len({inputs_hash(config, {"hlf": "content"}, [stores]) for stores in found}) == 3


def test_a_second_run_is_up_to_date_and_touches_nothing(
    whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "report").rglob("*")}
    caplog.set_level("INFO")
    report(whole)
    assert "is up to date" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (whole / "report").rglob("*")} == before


def test_json_prints_the_content_of_metrics_json(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = report(whole, json=True)
    assert json.loads(capsys.readouterr().out) == metrics


def test_an_unfinished_report_has_no_metrics_json(tmp_path: Path) -> None:
    """Its figures are of the new runs, so metrics.json of the old runs has to go."""
    (tmp_path / "figures" / "bars.png").mkdir(parents=True)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(OSError, match=r"bars\.png"):
        _write(
            tmp_path,
            {},
            {"importance": [Bars("bars", "", "", "loss", ("HT",), np.ones(1), np.ones(1))]},
        )
    assert not (tmp_path / "metrics.json").exists()


def test_the_command_repairs_a_damaged_report_to_the_same_bytes_and_prints_a_table(
    tmp_path: Path,
) -> None:
    make(tmp_path, models={"hlf": 1.2})
    report(tmp_path, features=("HT",))
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "report", damaged)
    (damaged / "figures" / "calibration.pdf").unlink()
    (damaged / "figures" / "old.png").write_bytes(b"")
    place = ("--input", str(tmp_path / "runs"), "--output", str(damaged))
    done = hepflow("evaluate", *place, "--bootstrap", "10", "--features", "[HT]")
    assert done.returncode == 0, done.stderr
    assert "hlf" in done.stdout
    assert str(damaged / "report.html") in done.stderr
    whole, repaired = (
        {path.relative_to(folder): path for path in folder.rglob("*.*")}
        for folder in (tmp_path / "report", damaged)
    )
    assert set(whole) == set(repaired)
    for name, path in whole.items():
        assert path.read_bytes() == repaired[name].read_bytes(), name


def test_another_model_in_the_report_changes_no_error_of_the_first(whole: Path) -> None:
    alone, together = (
        measured(whole, runs=names)[0]["models"]["hlf"] for names in (("hlf",), ("hlf", "sequence"))
    )
    assert alone == together


def test_if_no_background_passes_the_headline_is_a_limit() -> None:
    """It holds if all that could pass is of the smallest class: 0.14 of the 20 events of b."""
    point = {"target": 0.9, "rejection": None, "background_efficiency": {"value": 0.0}}
    selection = {"signal": ["c"], "background": ["a", "b"], "working_points": [point]}
    confusion = {"counts": [[200, 0, 0], [0, 20, 0], [0, 0, 50]]}
    entries = {
        "net": {"selections": {"headline": selection}, "confusion": confusion, "auc_mean": 1.0}
    }
    text = headline(entries, ("a", "b", "c")).replace("\u00a0", " ")
    limit = "rate to below 7 % (95 % confidence): none of 220 test events passes."
    assert text == f"Keeping 90 % of c, net cuts the a or b {limit}"


@pytest.mark.parametrize("classes", [("signal", "noise"), ("qcd", "ttbar", "wjets", "zjets")])
def test_two_and_four_classes_work_too(tmp_path: Path, classes: tuple[str, ...]) -> None:
    sizes = (120, 100, 140, 90)[: len(classes)]
    toy_runs(tmp_path / "runs", per_class=sizes, classes=classes, models={"a": 1.2, "b": 1.6})
    metrics, _ = measured(tmp_path)
    assert metrics["classes"] == list(classes)
    notes = " ".join(note["text"] for note in metrics["notes"])
    without = "signal, noise" if len(classes) == 2 else "zjets"
    assert f"No share of the trigger rate is given for {without}" in notes
    assert metrics["models"]["a"]["selections"]["headline"]["working_points"][0]["purity"] is None
    assert metrics["selections"]["headline"]["signal"] == list(classes[1:])
    assert "so it is every class but the first" in notes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"signal": ("tbar",)},
            "--signal names tbar, but the classes of these runs are qcd, ttbar, wjets",
        ),
        ({"signal": ("qcd", "ttbar", "wjets")}, "--signal names every class"),
        ({"mix": {"qdc": 1.0}}, "--mix names qdc, but the classes"),
        (
            {"mix": dict.fromkeys(("qcd", "ttbar", "wjets"), 0.0)},
            "--mix gives no class of these runs a share of the rate",
        ),
        (
            {"features": ("HT", "Met")},
            "--features names Met, but the high-level features of .* are HT, MET",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(
    whole: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        measured(whole, runs=("hlf",), **options)


def test_two_classes_are_not_shown_twice(tmp_path: Path) -> None:
    toy_runs(
        tmp_path / "runs",
        per_class=(60, 60),
        classes=("noise", "signal"),
        models={"a": 1.5, "b": 1.8},
    )
    metrics, figures = measured(tmp_path)
    assert not [name for name in figures if "noise" in name]
    assert {
        "roc_headline",
        "roc_signal_vs_rest",
        "calibration",
        "calibration_signal",
        "score_a_signal",
    } <= set(figures)
    assert models(metrics).columns == ("model", "accuracy", "AUC signal", "ECE", "parameters")
    assert {pair["quantity"] for pair in metrics["pairs"]} == {
        "background passing at 99 %",
        "AUC signal",
        "accuracy",
    }
    assert set(metrics["models"]["a"]["auc"]) == {"noise", "signal"}


def test_notes_are_printed_on_the_terminal_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy_runs(tmp_path / "runs", per_class=(60, 60), classes=("noise", "signal"), models={"a": 1.5})
    caplog.set_level("INFO")
    report(tmp_path)
    assert "working points: No signal is named (--signal)" in caplog.text


def test_names_of_classes_and_runs_cannot_break_the_page(tmp_path: Path) -> None:
    toy_runs(
        tmp_path / "runs",
        per_class=(60, 60),
        classes=("<b>x/y", '@y"&'),
        models={"<script>alert(1)": 1.5, "=1+1": 1.2},
    )
    config = EvaluateConfig(input=tmp_path / "runs", bootstrap=10)
    metrics, figures = evaluate_runs(
        [read_run(path, path.name, "content") for path in find_runs(config)], config
    )
    write_report(tmp_path / "report.html", metrics, figures, "figures")
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "<b>x" not in text
    for section in figures.values():
        for figure in section:
            save(figure, tmp_path)
            with (tmp_path / f"{figure.name}.csv").open(newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            assert not [cell for cell in cells if re.match(r"[=+@]|-[^\d.]", cell)]
    assert "the classes of this report differ" in text
    assert all(
        re.fullmatch(r"[\w.-]+", figure.name) for section in figures.values() for figure in section
    )


def test_without_a_store_the_rest_is_there_with_a_note(tmp_path: Path) -> None:
    make(tmp_path, store=False, models={"hlf": 1.2})
    metrics, _ = measured(tmp_path)
    assert metrics["checks"]["leak"] is False
    assert any("used in training not found" in note["text"] for note in metrics["notes"])
    assert metrics["models"]["hlf"]["efficiency"] == {}


def test_a_store_that_has_changed_since_the_training_is_named_with_what_to_do(
    tmp_path: Path,
) -> None:
    make(tmp_path, models={"hlf": 1.2})
    toy_store(
        tmp_path / "features.zarr",
        test=(toy_ids(sum(SIZES)), toy_labels(SIZES)),
        provenance="grown",
    )
    metrics, _ = measured(tmp_path)
    (note,) = (note["text"] for note in metrics["notes"] if note["topic"] == "kinematics")
    assert "features.zarr has changed since" in note
    assert "Train it again with the same command." in note
    with pytest.raises(DataError, match=r"was made from .* Train it again with the same command"):
        measured(tmp_path, store=tmp_path / "features.zarr")


def test_scores_without_a_training_are_compared_too(tmp_path: Path) -> None:
    make(tmp_path, store=False, models={"hlf": 1.2})
    label = toy_labels(SIZES)
    write_run(
        tmp_path / "runs" / "trees",
        event_id=toy_ids(len(label)),
        label=label,
        logits=toy_logits(label, 3, 1.1),
        history=False,
    )
    metrics, _ = measured(tmp_path)
    assert set(metrics["models"]) == {"hlf", "trees"}
    assert any("No learning curves for trees" in note["text"] for note in metrics["notes"])


def test_close_models_are_not_ranked(tmp_path: Path) -> None:
    toy_runs(tmp_path / "runs", per_class=(80, 80, 80), models={"a": 1.5, "b": 1.5})
    metrics, _ = measured(tmp_path)
    assert not any(pair["resolved"] for pair in metrics["pairs"])
    assert any("do not rank the models" in text for text in metrics["cautions"])


def test_models_with_few_events_in_common_are_not_compared_and_named(tmp_path: Path) -> None:
    toy_runs(tmp_path / "runs", per_class=(15, 15, 15), models={"a": 1.5, "b": 1.8})
    metrics, _ = measured(tmp_path)
    assert metrics["pairs"] == []
    assert any("so not compared: a and b." in text for text in metrics["cautions"])


def test_efficiencies_are_counted_in_the_stores_features(whole: Path) -> None:
    metrics = read_json(whole / "report" / "metrics.json")
    store = EventStore.open(whole / "features.zarr")
    rows = metrics["models"]["hlf"]["efficiency"]
    assert set(rows) == {"HT", "MET", "nJets", "LepPt"}
    for name, row in rows.items():
        for class_name in metrics["classes"]:
            blocks = [
                store.read(part, particles=False) for part in store.ranges("test", class_name)
            ]
            x = np.concatenate(
                [block.hlf[:, [f.name for f in HLF].index(name)] for block in blocks]
            )
            assert sum(row["efficiency"][class_name]["events"]) == len(x)
            first = np.sum(x < row["edges"][1])
            assert row["efficiency"][class_name]["events"][0] == first
    point = metrics["models"]["hlf"]["selections"]["headline"]["working_points"][-1]
    one = rows["HT"]["efficiency"]["qcd"]
    total = sum(v * n for v, n in zip(one["value"], one["events"], strict=True)) / sum(
        one["events"]
    )
    assert total == pytest.approx(point["efficiency"]["qcd"]["value"])


def test_the_csv_of_an_efficiency_has_the_width_of_its_bins(whole: Path) -> None:
    edges = read_json(whole / "report" / "metrics.json")["models"]["hlf"]["efficiency"]["HT"][
        "edges"
    ]
    with (whole / "report" / "figures" / "efficiency_hlf_HT.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["series"] == "qcd"]
    lower = [float(row["HT [GeV]"]) - float(row["half width of the bin"]) for row in rows]
    assert set(np.round(lower, 6)) <= set(np.round(edges[:-1], 6))


@pytest.mark.parametrize("name", ["efficiency_hlf_HT", "calibration_qcd"])
def test_error_bars_of_shares_end_within_0_and_1_in_the_csv_and_on_the_page(
    whole: Path, name: str
) -> None:
    with (whole / "report" / "figures" / f"{name}.csv").open() as stream:
        rows = list(csv.reader(stream))
    column = {heading: index for index, heading in enumerate(rows[0])}
    points = [
        [float(row[index]) for index in (column["low"], 2, column["high"])] for row in rows[1:]
    ]
    assert all(0 <= low <= share <= high <= 1 and low < high for low, share, high in points)
    page = (whole / "report" / "report.html").read_text()
    data = json.loads(
        re.search(rf'id="fig-{name}".*?<script type="application/json">(.*?)</script>', page, re.S)[
            1
        ]
    )
    drawn = [end for series in data["series"] for end in series["ends"]]
    assert drawn == pytest.approx(np.array(points)[:, [0, 2]], rel=1e-4)


def test_counts_have_one_bin_per_number() -> None:
    edges, integer = bin_edges(np.array([0, 1, 2, 2, 3, 1, 0, 5] * 40, dtype=np.float32))
    assert integer
    assert edges.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert bin_edges(np.array([-1, 1, 1, -1], dtype=np.float32))[0].tolist() == [-1, 0, 1, 2], (
        "charges"
    )
    edges, integer = bin_edges(np.random.default_rng(0).exponential(50, 1000).astype(np.float32))
    assert not integer
    assert len(edges) == 11
    edges, integer = bin_edges(np.full(10, 2.5, dtype=np.float32))
    assert edges.tolist() == [2.5, 3.5]


def test_the_hardest_events_are_misclassified_with_the_highest_confidence(whole: Path) -> None:
    metrics = read_json(whole / "report" / "metrics.json")
    predictions = read_predictions(whole / "runs" / "hlf" / "predictions.parquet")
    listed = metrics["models"]["hlf"]["hardest"]
    ratio = (
        predictions.logits.max(axis=1)
        - predictions.logits[np.arange(len(predictions.label)), predictions.label]
    )
    order = np.argsort(-ratio, kind="stable")[: len(listed)]
    assert [event["event_id"] for event in listed] == [
        str(predictions.event_id[index]) for index in order
    ]
    assert all(event["true"] != event["predicted"] for event in listed)
    assert set(listed[0]["features"]) == {feature.name for feature in HLF}


def test_chosen_events_are_drawn_and_unknown_ones_noted(whole: Path) -> None:
    chosen = int(toy_ids(sum(SIZES))[17])
    metrics, figures = measured(whole, runs=("hlf",), events=(chosen, 12345))
    assert f"event_{chosen}" in figures
    assert any("12345" in note["text"] for note in metrics["notes"])


def test_an_event_display_has_all_particles(whole: Path) -> None:
    name = next(
        name
        for name in read_json(whole / "report" / "metrics.json")["figures"]
        if name.startswith("event_")
    )
    store = EventStore.open(whole / "features.zarr")
    blocks = [
        store.read(part) for label in store.spec.classes for part in store.ranges("test", label)
    ]
    wanted = int(name.removeprefix("event_"))
    block, row = next(
        (block, int(np.flatnonzero(block.event_id == wanted)[0]))
        for block in blocks
        if wanted in block.event_id
    )
    with (whole / "report" / "figures" / f"{name}.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == block.offsets[row + 1] - block.offsets[row]
    assert {row["kind"] for row in rows} == {"charged hadron", "photon", "neutral hadron", "lepton"}


def test_an_ablation_pairs_the_definitions_on_common_events(tmp_path: Path) -> None:
    ids, label = toy_ids(sum(SIZES)), toy_labels(SIZES)
    for own, (definitions, keep, distance) in enumerate(
        (("corrected", slice(None), 1.6), ("reference", slice(20, None), 1.4))
    ):
        name = "hlf" if definitions == "corrected" else "hlf-reference"
        origin = {"store": f"hash-{definitions}", "definitions": definitions}
        logits = toy_logits(label, 3, distance, 0, own)[keep]
        about = toy_about(name, definitions=definitions)
        write_run(
            tmp_path / "runs" / name,
            event_id=ids[keep],
            label=label[keep],
            logits=logits,
            provenance=origin,
            about=about,
        )
    metrics, _ = measured(tmp_path, ablation=True)
    (row,) = metrics["ablation"]
    assert row["model"] == "HLFNet"
    assert row["definitions"] == {"corrected": ["hlf"], "reference": ["hlf-reference"]}
    assert {pair["n_events"] for pair in row["differences"]} == {len(ids) - 20}
    table = ablation(metrics)
    assert [[cell.text for cell in row.cells][:3] for row in table.rows] == [
        ["HLFNet", "corrected", "hlf"],
        ["HLFNet", "reference", "hlf-reference"],
    ]
    assert len(ablation_differences(metrics).rows) == 5


def test_shuffling_the_only_used_feature_costs_the_most(tmp_path: Path) -> None:
    """A model that reads HT alone, in an ONNX file next to the predictions."""
    ids, label = toy_ids(sum(SIZES)), toy_labels(SIZES)
    store = EventStore.open(toy_store(tmp_path / "features.zarr", test=(ids, label)))
    weights = np.zeros((len(HLF), 3), dtype=np.float32)
    weights[0] = [-0.02, 0.0, 0.02]
    x = np.empty((len(ids), len(HLF)), dtype=np.float32)
    for name in store.spec.classes:
        for part in store.ranges("test", name):
            block = store.read(part, particles=False)
            x[np.searchsorted(ids, block.event_id)] = block.hlf
    about = toy_about("hlf", tmp_path / "features.zarr")
    folder = write_run(
        tmp_path / "runs" / "hlf", event_id=ids, label=label, logits=x @ weights, about=about
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["hlf", "weights"], ["logits"])],
        "toy",
        [helper.make_tensor_value_info("hlf", TensorProto.FLOAT, ["batch", len(HLF)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, folder / "model.onnx")
    metrics, figures = measured(tmp_path)
    worth = metrics["models"]["hlf"]["importance"]
    assert max(worth, key=lambda name: worth[name]["value"]) == "HT"
    assert worth["HT"]["value"] > 0.03
    assert all(abs(number["value"]) < 1e-9 for name, number in worth.items() if name != "HT")
    assert "importance_hlf" in figures


def test_a_table_of_the_report_is_the_same_in_a_terminal(whole: Path) -> None:
    table = working_points(read_json(whole / "report" / "metrics.json"), "headline")
    shown = for_terminal(table)
    assert [str(column.header) for column in shown.columns] == list(table.columns)
    for index, column in enumerate(shown.columns):
        assert [str(cell) for cell in column.cells] == [row.cells[index].text for row in table.rows]


def test_the_terminal_table_shows_every_model(whole: Path) -> None:
    table = summary_table(read_json(whole / "report" / "metrics.json"))
    assert table.row_count == 3
    assert [str(column.header) for column in table.columns][:3] == ["model", "accuracy", "AUC qcd"]


def test_the_published_table_is_what_was_published() -> None:
    best = next(line for line in published.TABLE if line.where == "GRU notebook")
    assert dict(best.auc) == {"qcd": 0.99535, "ttbar": 0.99726, "wjets": 0.99537}
    assert all(0.5 < value < 1 for line in published.TABLE for value in line.auc.values())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"targets": (0.9, 1.0)}, "targets must be below 1, got 1.0"),
        ({"targets": ()}, "targets must hold at least one value"),
        ({"mix": {"qcd": -0.1}}, "mix must be at least 0, got -0.1"),
        ({"bootstrap": 0}, "bootstrap must be at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        EvaluateConfig(**options)
