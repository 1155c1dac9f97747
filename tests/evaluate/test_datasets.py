"""`hepflow compare`: equal datasets stay equal, a difference is found and named, limits hold."""

import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepflow.cli import main, parse
from hepflow.config.compare import CompareConfig
from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.identity import fold_index
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError, LimitExceeded
from hepflow.evaluate.datasets import sources, text
from hepflow.evaluate.datasets.job import NUMBERS, PAGE, compare_datasets, page_of, run
from hepflow.evaluate.datasets.measure import ALL, EVERYTHING, FEATURES, differing
from hepflow.evaluate.datasets.pair import open_pair
from hepflow.evaluate.datasets.sample import take
from hepflow.evaluate.datasets.sources import EventsSource, opened
from hepflow.evaluate.datasets.trees import Sides, tell_apart
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import make_part
from hepflow.physics.features import compute_features
from hepflow.physics.multiplicities import OF_EVENTS
from hepflow.schema import CLASSES, HLF, PARTICLE, Feature
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.publishing import publish_folder
from tests.support.browser import CHROMIUM, browser
from tests.support.delphes_events import random_events, to_arrow, write_fragment, write_marker
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest

pytestmark = pytest.mark.slow

TWO = ("qcd", "ttbar")


def write_events(
    folder: Path,
    seed: int,
    n: int = 170,
    row_group_size: int = 40,
    tracks: tuple[int, int] = (20, 28),
) -> Path:
    """Write a dataset of two classes, each in two files."""
    total = 0
    for label, name in enumerate(TWO):
        for part in range(2):
            own = random_events(n // 2, seed=[seed, label, part], n_tracks=tracks[label])
            where = (folder, f"{seed}-{name}-{part}", to_arrow(own), label, name)
            total += write_fragment(*where, row_group_size=40)
    write_marker(folder, total, TWO)
    return folder


def make_store(events: Path, path: Path, definitions: str = "corrected") -> Path:
    dataset = sources.open_events(events, 2**26)
    spec = StoreSpec(dataset.classes, HLF, PARTICLE, definitions, f"{path.name}-hash")
    spec = replace(spec, splits={"train": 0.6, "val": 0.2, "test": 0.2})
    store = StoreWriter.create(path, spec)
    for number, fragment in enumerate(dataset.fragments):
        assert make_part(store, PlannedPart(number, (fragment,)), None, 2**26).error is None
    store.finalise()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of events of other seeds, and a store of each."""
    folder = tmp_path_factory.mktemp("compared")
    for seed, name in enumerate(("a", "b")):
        write_events(folder / name / "events", seed)
        make_store(folder / name / "events", folder / name / "features.zarr")
    return folder


def config(first: Path, second: Path, **options: Any) -> CompareConfig:
    return CompareConfig(**{"input": first, "reference": second, "output": first.parent, **options})


def compared(first: Path, second: Path, **options: Any) -> dict[str, Any]:
    wanted = config(first, second, **options)
    return compare_datasets(open_pair(wanted), wanted)


def block_of(hlf: np.ndarray, label: int, seed: int) -> EventBlock:
    n = len(hlf)
    ids = np.random.default_rng([seed, label]).integers(-(2**62), 2**62, n)
    none = np.empty((0, len(PARTICLE)), np.float32)
    return EventBlock(
        hlf.astype(np.float32), none, np.zeros(n + 1, np.int64), np.full(n, label, np.int8), ids
    )


def hlf_store(
    path: Path, seed: int, n: int, shift: float = 0.0, names: tuple[Feature, ...] = HLF
) -> Path:
    """Write a store of Gaussian features without particles, of which LepPt is shifted in ttbar."""
    store = StoreWriter.create(path, StoreSpec(TWO, names, PARTICLE, "corrected", f"{seed}"))
    rng, blocks = np.random.default_rng(seed), {}
    column = [feature.name for feature in HLF].index("LepPt")
    for label, name in enumerate(TWO):
        hlf = rng.normal(size=(n, len(names)))
        hlf[:, column] += shift * label
        blocks["train", name] = block_of(hlf, label, seed)
    store.write_part(0, blocks, Ledger(2 * n, 2 * n))
    store.finalise()
    return path


def test_halves_of_a_sample_cannot_be_told_apart_and_reach_thresholds_as_often_as_stated() -> None:
    pulls = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, ids = rng.normal(size=(600, 6)).astype(np.float32), rng.integers(2**62, size=600)
        group = fold_index(ids, 2) + 2 * rng.integers(2, size=600)
        auc = tell_apart(Sides(x, group, ids), range(6), seed=seed).auc
        pulls.append((auc.value - 0.5) / auc.error)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(len(pulls))
    assert 0.4 < np.std(pulls) < 1.8


def test_copies_of_an_event_in_both_datasets_do_not_help_the_trees() -> None:
    """They would be told apart worse than by chance if one were trained on, the other tested."""
    rng = np.random.default_rng(4)
    x, ids = rng.normal(size=(400, 5)).astype(np.float32), rng.integers(2**62, size=400)
    sides = Sides(np.vstack([x, x]), np.repeat([0, 1], 400), np.concatenate([ids, ids]))
    assert tell_apart(sides, range(5), seed=1).auc.value == pytest.approx(0.5, abs=1e-9)


def test_a_shifted_feature_is_found_and_named(tmp_path: Path) -> None:
    first = hlf_store(tmp_path / "first.zarr", 1, 1500, shift=0.5)
    found = compared(first, hlf_store(tmp_path / "second.zarr", 2, 1500))
    qcd, ttbar, overall = (found["trees"][name] for name in (*TWO, ALL))
    assert ttbar["given_away_by"] == overall["given_away_by"] == "LepPt"
    assert qcd["given_away_by"] is None
    assert abs(qcd["auc"][EVERYTHING]["value"] - 0.5) < 4 * qcd["auc"][EVERYTHING]["error"]
    # shifted by d standard deviations, the best AUC is that of the quantity alone
    auc = found["classes"]["ttbar"]["quantities"]["LepPt"]["auc"]
    assert auc["value"] == pytest.approx(0.638, abs=4 * auc["error"])
    assert 0.57 < ttbar["auc"][EVERYTHING]["value"] < auc["value"] + 0.02
    largest = max(ttbar["importance"].items(), key=lambda one: one[1]["value"])
    assert largest[0] == "LepPt"
    assert largest[1]["value"] > 5 * largest[1]["error"] > 0
    own = differing(found["classes"]["ttbar"])
    assert "LepPt" in own
    assert len(own) < 5
    assert "LepPt gives it away most" in text.headline(found)


def test_a_quantity_that_is_left_out_enters_neither_trees_nor_limits(tmp_path: Path) -> None:
    stores = hlf_store(tmp_path / "a.zarr", 1, 800, shift=2), hlf_store(tmp_path / "b.zarr", 2, 800)
    limits = {"max_ks": 0.2, "max_auc": 0.6}
    with_it = config(*stores, **limits)
    one: Any = {"classes": ("ttbar",)}
    assert len([*text.exceeded(compared(*stores, **one), with_it)]) == 2
    without = compared(*stores, leave_out=("LepPt",), **one)
    assert "LepPt" not in without["trees"]["ttbar"]["importance"]
    assert without["classes"]["ttbar"]["quantities"]["LepPt"]["differs"]
    assert [*text.exceeded(without, with_it)] == []
    assert "Left out of the trees and of the limits: LepPt." in without["cautions"]


def test_numbers_are_those_of_the_events(made: Path) -> None:
    found = compared(made / "a" / "events", made / "b" / "events", classes=("ttbar",))
    assert found["names"] == ["a/events", "b/events"]
    names = [quantity["name"] for quantity in found["quantities"]]
    assert names == [feature.name for feature in (*HLF, *OF_EVENTS)]
    entry = found["classes"]["ttbar"]
    for side, name in (("input", "a"), ("reference", "b")):
        events = sources.open_events(made / name / "events").read()
        hlf = compute_features(events[events["label"] == 1]).hlf
        assert entry["events"][side] == len(hlf)
        for column, feature in enumerate(HLF):
            row = entry["quantities"][feature.name]
            quantiles = np.quantile(hlf[:, column], [0.1, 0.5, 0.9])
            np.testing.assert_allclose(row["quantiles"][side], quantiles, rtol=1e-6)
            mean = hlf[:, column].astype(float)
            assert row["mean"][side]["value"] == pytest.approx(mean.mean(), rel=1e-9)
            assert sum(row["histogram"][side]) == len(hlf)
    assert entry["pieces"] == {"input": None, "reference": None}
    assert {*found["trees"]["ttbar"]["auc"]} == {FEATURES, EVERYTHING}


def test_more_tracks_are_found_in_events_and_in_stores(made: Path, tmp_path: Path) -> None:
    more = write_events(tmp_path / "more" / "events", 5, tracks=(26, 28))
    store = make_store(more, tmp_path / "more" / "features.zarr")
    for first, second in ((more, made / "a" / "features.zarr"), (store, made / "a" / "events")):
        found = compared(first, second)
        assert found["trees"]["qcd"]["given_away_by"] == "nTracks"
        assert found["trees"]["ttbar"]["given_away_by"] is None
        assert found["trees"]["qcd"]["auc"][EVERYTHING]["value"] > 0.7
        n_tracks = found["classes"]["qcd"]["quantities"]["nTracks"]
        assert n_tracks["ratio"]["value"] == pytest.approx(26 / 20, rel=0.1)


def test_a_store_and_its_events_are_equal(made: Path) -> None:
    found = compared(made / "a" / "features.zarr", made / "a" / "events")
    for entry in found["classes"].values():
        assert entry["events"]["input"] == entry["events"]["reference"] == entry["shared"]
        assert {row["ks"] for row in entry["quantities"].values()} == {0.0}
    assert any("are in both samples" in one for one in found["cautions"])
    assert [one["given_away_by"] for one in found["trees"].values()] == [None] * 3


@pytest.mark.parametrize("limit", [40, 70, 10_000])
def test_a_sample_does_not_depend_on_the_size_of_reads_nor_on_the_order_of_files(
    made: Path, limit: int
) -> None:
    dataset = opened(made / "a" / "events")
    taken = []
    for block_bytes in (1, 2**17, 2**30):
        source = EventsSource(dataset, "corrected", None)
        source.extra = OF_EVENTS
        source.block_bytes = block_bytes
        taken.append(take(source, "ttbar", limit, 1, lambda _: None))
        dataset = replace(dataset, fragments=dataset.fragments[::-1])
    for other in taken[1:]:
        assert np.array_equal(other.rows.values, taken[0].rows.values)
        assert np.array_equal(other.rows.event_id, taken[0].rows.event_id)
        assert other.n_pieces == taken[0].n_pieces
    assert taken[0].whole == (limit == 10_000)
    assert len(taken[0].rows) == min(limit, len(taken[0].rows))
    assert len(np.unique(taken[0].rows.event_id)) == len(taken[0].rows)


def test_a_sample_of_another_seed_is_another_one_and_is_stated(made: Path) -> None:
    first, second = made / "a" / "features.zarr", made / "b" / "features.zarr"
    how: Any = {"events": 60, "classes": ("qcd",)}
    one = compared(first, second, **how, seed=1)
    assert one["classes"]["qcd"]["events"] == {"input": 60, "reference": 60}
    assert one == compared(first, second, **how, seed=1)
    other = compared(first, second, **how, seed=2)
    assert one["classes"]["qcd"]["quantities"] != other["classes"]["qcd"]["quantities"]
    said = " ".join(text.samples(one))
    assert "The qcd are a random sample (seed 1) of the" in said
    assert "neighbouring events" in said


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """Of stores of 4,000 and 40,000 events, 100 of a class are wanted."""
    stores = [hlf_store(tmp_path / f"{n}.zarr", n, n) for n in (2_000, 20_000)]
    peaks = []
    for path in stores:
        source = sources.StoreSource(EventStore.open(path))
        tracemalloc.start()
        take(source, "qcd", 100, 1, lambda _: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


@pytest.fixture(scope="module")
def output(made: Path) -> Path:
    """Return the output of the command."""
    folder = made / "report"
    run(config(made / "a" / "events", made / "b" / "events", output=folder, names=("new", "old")))
    return folder


def test_the_page_needs_no_other_file_and_names_what_was_compared(output: Path) -> None:
    page = (output / "compare.html").read_text()
    assert sorted(path.name for path in output.iterdir()) == ["compare.html", "compare.json"]
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=[\"'](?!data:)", page)
    assert not re.search(r"<[^>]* (style|on\w+)=", page)
    assert "new" in re.findall(r"<h1>(.*?)</h1>", page)[0]
    names = [f.name for f in (*HLF, *OF_EVENTS)]
    for name in names:
        assert f'id="fig-ratio_{name}"' in page
        assert all(f'id="fig-distribution_{one}_{name}"' in page for one in TWO)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page_of(read_json(output / "compare.json")) == page


def test_the_page_of_the_docs_has_every_key(output: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "validation.md").read_text()
    documented = set(re.findall(r"^- `([a-z_]+)`", text, re.MULTILINE))
    found = read_json(output / "compare.json")
    entry = found["classes"]["qcd"]
    keys = {*found, *entry, *entry["quantities"]["HT"], *found["trees"]["qcd"]}
    assert documented == keys


def test_a_second_run_is_up_to_date_and_other_options_or_events_are_not(
    output: Path, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    same = config(made / "a" / "events", made / "b" / "events", output=output, names=("new", "old"))
    run(same)
    assert caplog.messages[-1].startswith(f"{output / 'compare.html'} is up to date")
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    with pytest.raises(LimitExceeded, match="is above --max-ks"):
        run(replace(same, max_ks=0.001))
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


def test_the_command_prints_a_table_and_its_status_is_that_of_the_limits(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("COLUMNS", "200")
    words = ["compare", str(made / "a" / "features.zarr"), str(made / "b" / "features.zarr")]
    words += ["--output", str(tmp_path), "--leave-out", "PhiMET,LepPhi"]
    status = {}
    for limit in ("0.99", "0.5"):
        with pytest.raises(SystemExit) as end:
            main([*words, "--max-auc", limit])
        status[limit] = end.value.code, *capsys.readouterr()
    code, printed, _ = status["0.99"]
    assert code == 0
    assert "nTracks" in printed
    assert "ttbar: ratio" in printed
    assert caplog.messages[-1].startswith(f"{tmp_path / 'compare.html'} is up to date")
    (done,) = [text for text in caplog.messages if text.startswith("compared ")]
    assert done.endswith(str(tmp_path / "compare.html"))
    code, _, messages = status["0.5"]
    assert code == 1
    assert re.match(r"hepflow: error: AUC .* is above --max-auc 0.5", messages.splitlines()[-1])
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["classes"].keys() == {*TWO}


def refused(first: Path, second: Path, **options: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as error:
        run(config(first, second, output=first.parent / "refused", **options))
    assert "\n" not in str(error.value)
    assert not (first.parent / "refused").exists()
    return str(error.value)


def test_datasets_that_cannot_be_compared_are_one_line(made: Path, tmp_path: Path) -> None:
    a, b = made / "a" / "features.zarr", made / "b" / "features.zarr"
    three = toy_store(tmp_path / "three.zarr").path
    message = refused(a, three)
    assert message.startswith(f"{three}: its classes are qcd, ttbar, wjets, those of {a} qcd,")
    assert message.endswith("--classes qcd,ttbar.")
    assert "--classes names top, but the classes of" in refused(a, b, classes=("top",))
    other = toy_store(tmp_path / "other.zarr", classes=("x", "y")).path
    assert "They have none in common." in refused(a, other)
    assert refused(a, tmp_path / "nothing").startswith(f"{tmp_path / 'nothing'}: no such folder")
    named = (*HLF[:-1], Feature("Mine", "1"))
    mine = hlf_store(tmp_path / "mine.zarr", 1, 60, names=named)
    assert "it has Mine and lacks LepIsEle, unlike" in refused(a, mine)
    swapped = hlf_store(tmp_path / "swapped.zarr", 1, 60, names=(HLF[1], HLF[0], *HLF[2:]))
    assert "its high-level features are in another order than" in refused(a, swapped)
    square = tuple(replace(f, unit="GeV^2") if f.name == "MT" else f for f in HLF)
    squared = hlf_store(tmp_path / "squared.zarr", 1, 60, names=square)
    assert "the unit of MT is GeV^2, in" in refused(a, squared)
    scaled = hlf_store(
        tmp_path / "scaled.zarr", 1, 60, names=tuple(Feature(f.name, "1") for f in HLF)
    )
    assert refused(a, scaled).startswith(f"{scaled}: its values are scaled and have no units")
    assert refused(scaled, a).startswith(f"{scaled}: its values are scaled and have no units")
    reference = make_store(made / "a" / "events", tmp_path / "reference.zarr", "reference")
    assert "features of the reference definitions, those of" in refused(a, reference)
    assert "not of --definitions reference" in refused(
        made / "a" / "events", a, definitions="reference"
    )
    assert "--physics is for events" in refused(a, b, physics="mine:features")
    assert "--leave-out names Nothing, but the quantities" in refused(a, b, leave_out=("Nothing",))


def test_an_empty_class_and_too_few_events_are_one_line(made: Path, tmp_path: Path) -> None:
    few = hlf_store(tmp_path / "few.zarr", 1, 49)
    many = hlf_store(tmp_path / "many.zarr", 2, 60)
    assert "49 events of class qcd passing the trigger, and 50 are needed" in refused(many, few)
    write_marker(
        tmp_path / "one",
        write_fragment(tmp_path / "one", "x", to_arrow(random_events(90)), 0, "qcd"),
        TWO,
    )
    message = refused(tmp_path / "one", made / "a" / "events")
    assert message.startswith(f"{tmp_path / 'one'}: 0 events of class ttbar")
    found = compared(tmp_path / "one", made / "a" / "events", classes=("qcd",))
    assert [*found["trees"]] == [*found["classes"]] == ["qcd"]


def test_scaled_stores_of_one_import_have_numbers_of_particles_and_a_note(tmp_path: Path) -> None:
    scaled = tuple(Feature(f.name, "1") for f in HLF), tuple(Feature(f.name, "1") for f in PARTICLE)
    how: Any = {"hlf": scaled[0], "particles": scaled[1], "events": 30}
    first, second = (toy_store(tmp_path / f"{n}.zarr", seed=n, **how).path for n in (1, 2))
    pair = open_pair(config(first, second))
    names = [quantity.name for quantity in pair.quantities]
    assert names[len(HLF) :] == ["nTracks", "nPhotons", "nNeutral"]
    assert any(one.startswith("The values have no units.") for one in pair.notes)


def test_own_physics_is_compared_by_its_own_features(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_physics.py").write_text(
        "from dataclasses import replace\n"
        "from hepflow.physics.features import compute_features\n"
        "def features(events, definitions):\n"
        "    made = compute_features(events, definitions)\n"
        "    return replace(made, hlf=made.hlf[:, :3], hlf_features=made.hlf_features[:3])\n"
    )
    monkeypatch.chdir(tmp_path)
    wanted = config(made / "a" / "events", made / "b" / "events", physics="my_physics:features")
    pair = open_pair(wanted)
    assert [quantity.name for quantity in pair.quantities[:4]] == ["HT", "MET", "PhiMET", "nTracks"]
    own = take(pair.sources[0], "ttbar", 100, 1, lambda _: None).rows
    usual = open_pair(config(made / "a" / "events", made / "b" / "events"))
    same = take(usual.sources[0], "ttbar", 100, 1, lambda _: None).rows
    assert np.array_equal(own.values[:, :3], same.values[:, :3])
    assert np.array_equal(own.values[:, 3:], same.values[:, len(HLF) :])
    message = refused(made / "a" / "features.zarr", made / "b" / "events", physics=wanted.physics)
    assert "it lacks MT, nJets" in message


def test_definitions_of_events_follow_the_store_or_the_option(made: Path, tmp_path: Path) -> None:
    events = made / "a" / "events"
    reference = make_store(events, tmp_path / "reference.zarr", "reference")
    units = StoreSpec(TWO, HLF, PARTICLE, "reference", "x")
    assert units.hlf == EventStore.open(reference).spec.hlf  # as the toy store has them: GeV
    wanted = config(events, made / "b" / "events", definitions="reference")
    assert {source.definitions for source in open_pair(wanted).sources} == {"reference"}
    plain = config(events, made / "b" / "events")
    assert {source.definitions for source in open_pair(plain).sources} == {"corrected"}
    mixed = config(events, made / "b" / "features.zarr")
    assert open_pair(mixed).sources[0].definitions == "corrected"


def test_words_without_options_are_the_two_datasets() -> None:
    for words in ("a b --json", "--json a b", "--output=x a b --json", "a --reference b --json"):
        found = parse("compare", words.replace("--output=x", "--output x").split())
        assert (found.input, found.reference, found.json) == (Path("a"), Path("b"), True)
    with pytest.raises(ConfigError, match="'c' is not an option or its value"):
        parse("compare", ["a", "b", "c"])
    with pytest.raises(ConfigError, match="required: reference"):
        parse("compare", ["a"])
    with pytest.raises(ConfigError, match="names must hold two different names, got a"):
        parse("compare", ["a", "b", "--names", "a"])


@pytest.mark.s3
def test_events_and_stores_on_s3_give_the_same_numbers(made: Path, tmp_path: Path, s3: str) -> None:
    places = made / "a" / "events", made / "b" / "features.zarr"
    there = place(f"{s3}/compared")
    for local in places:
        publish_folder(Path(shutil.copytree(local, tmp_path / local.name)), there / local.name)
    how: Any = {"names": ("new", "old"), "classes": ("ttbar",), "events": 50}
    away = config(there / "events", there / "features.zarr", **how)
    found = [
        compare_datasets(open_pair(wanted), wanted) for wanted in (config(*places, **how), away)
    ]
    own = [one.pop("datasets")["input"]["path"] for one in found]
    assert own == [str(places[0]), f"{s3}/compared/events"]
    assert found[0] == found[1]
    run(config(*places, **how, output=there / "report"))
    assert "".join(sorted(path.name for path in (there / "report").iterdir())) == PAGE + NUMBERS


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian: apt install chromium)")
def test_the_page_opens_without_errors_and_draws_every_figure(output: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        page.open(output / "compare.html")
        assert page.errors == []
        page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        shapes = "[...document.querySelectorAll('svg path, svg circle, svg line')]"
        assert page.run(f"{shapes}.length") > 500
        assert page.run(f"{shapes}.filter(n => /NaN|Infinity/.test(n.outerHTML)).length") == 0
        widths = "[...document.querySelectorAll('figure svg:not([hidden]):not(.key)')]"
        assert page.run(f"Math.min(...{widths}.map(s => s.getBoundingClientRect().width))") > 200
        page.open(output / "compare.html", width=390, height=844)
        assert page.run("document.documentElement.scrollWidth") <= 390


@pytest.fixture(scope="module")
def delphes(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("delphes")

    def dataset(name: str) -> Path:
        if not (shared / name).is_dir():
            pytest.skip(f"no {name} in {shared}")
        ingest(shared / name, folder / name / "events", CLASSES)
        return folder / name / "events"

    return dataset


def test_real_delphes_events_have_the_quantiles_of_a_larger_sample(
    delphes: Callable[[str], Path],
) -> None:
    """Of 1,635 to 1,967 events per class, printed when these 300 were chosen."""
    dataset = delphes("delphes/phase2_20pu")
    pair = open_pair(config(dataset, dataset))
    names = [quantity.name for quantity in pair.quantities]
    values = {
        name: take(pair.sources[0], name, 10_000, 1, lambda _: None).rows.values
        for name in pair.classes
    }
    printed = {
        ("qcd", "LepPt"): (23.6, 27.7, 40.3),
        ("ttbar", "HT"): (121, 242, 458),
        ("ttbar", "MET"): (21.8, 61.4, 127),
        ("ttbar", "nTracks"): (183, 285, 417),
        ("wjets", "MT"): (35.6, 68.5, 94.8),
        ("wjets", "nPhotons"): (31, 59, 97),
        ("wjets", "sumEtNeutral"): (118, 225, 361),
        ("qcd", "rmsZ"): (30.8, 45.6, 63.5),
    }
    for (name, quantity), quantiles in printed.items():
        x = values[name][:, names.index(quantity)]
        for share, value in zip((0.1, 0.5, 0.9), quantiles, strict=True):
            spread = np.sqrt(share * (1 - share) * (1 / len(x) + 1 / 1635))
            assert np.mean(x <= value) == pytest.approx(share, abs=4 * spread), (name, quantity)
    means = {"qcd": (1.20, 2.32), "ttbar": (3.66, 5.33), "wjets": (0.805, 1.49)}
    for name, numbers in means.items():
        for quantity, expected in zip(("nJets", "nJets15"), numbers, strict=True):
            x = values[name][:, names.index(quantity)]
            error = x.std() * np.sqrt(1 / len(x) + 1 / 1635)
            assert x.mean() == pytest.approx(expected, abs=4 * error)
    found = compared(dataset, delphes("sample"), classes=("ttbar",))
    ratio = found["classes"]["ttbar"]["quantities"]["nJets15"]["ratio"]
    assert ratio["value"] < 1 - 2 * ratio["error"], "the simulation had too many soft jets"
