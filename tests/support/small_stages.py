"""Each stage as a command on a small input: its run, what it must leave, and what a reader sees."""

import csv
import io
import re
import shutil
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.stages import EvaluateConfig, FeaturesConfig, IngestConfig, SimulateConfig
from hepflow.config.tools import ImportConfig
from hepflow.data.events import open_events
from hepflow.data.output import read_marker
from hepflow.data.predictions import read_predictions
from hepflow.data.runs import read_record
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.evaluate.job import run as evaluate
from hepflow.features import import_cern
from hepflow.features.job import run as features
from hepflow.schema import CLASSES, HLF
from hepflow.score.job import run as score
from hepflow.system.files import read_json
from tests.support.delphes_events import random_events as plain_events
from tests.support.delphes_events import to_arrow, write_dataset, write_fragment, write_marker
from tests.support.root_files import write_delphes
from tests.support.toy_runs import toy_runs
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import untrained, write_raw
from tests.support.trainings import fit, weights

Version = Hashable | None
TIMES = re.compile(rb'"(seconds|elapsed_s)": [0-9.e-]+')
CHECKSUM = re.compile(rb"hepflow-crc32c:\w{8}")
LOCK = re.compile(r"\..*\.lock")


def contents(folder: Path) -> dict[str, Any]:
    """Return all files, without times, and without the checksums of what has times.

    Without locks: one that a dead run has left excludes nobody, and an output that is up to date is
    not locked.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not LOCK.fullmatch(path.name):
            content = path.read_bytes()
            if TIMES.search(content):
                content = CHECKSUM.sub(b"", TIMES.sub(b"", content))
            found[path.relative_to(folder).as_posix()] = content
    return found


@dataclass(frozen=True)
class Stage:
    """A command whose output is in a folder, in which it is the only one.

    ``seen`` returns the version that a reader finds there, or None, and raises an error if what the
    reader finds is not whole. ``before`` holds the output of an earlier run.
    """

    run: Callable[[Path], object]
    seen: Callable[[Path], Version]
    before: Path | None = None
    content: Callable[[Path], Mapping[str, Any]] = contents

    def begin(self, folder: Path) -> Path:
        """Make the folder as it is before the run."""
        if self.before is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.before, folder)
        return folder

    def after(self, later: "Stage", before: Path) -> "Stage":
        """Run this command once, and return the later one on what it leaves."""
        self.run(self.begin(before))
        return Stage(later.run, later.seen, before, later.content)


def ingest_stage(place: Path, *, update: bool) -> Stage:
    """Two files; or one is changed, one is added and one is gone since the first run."""
    from hepflow.ingest.job import run  # noqa: PLC0415 - needs Spark

    first, then = place / "first", place / "then"
    for seed, name in enumerate(("qcd/a", "ttbar/b", "ttbar/z"), 1):
        write_delphes(first / f"{name}.root", [20], seed=seed)
    write_delphes(then / "ttbar/b.root", [25], seed=7)
    write_delphes(then / "qcd/c.root", [30], seed=8)
    shutil.copy2(first / "qcd/a.root", then / "qcd")
    samples = {"qcd": ("qcd",), "ttbar": ("ttbar",)}

    def stage(raw: Path) -> Stage:
        def work(folder: Path) -> None:
            own = {"samples": samples, "target_partition_mb": 1, "spark": SparkConfig()}
            run(IngestConfig(input=raw, output=folder / "events", **own))

        return Stage(work, lambda folder: _events(folder / "events"))

    return stage(first).after(stage(then), place / "before") if update else stage(first)


def _events(dataset: Path) -> Version:
    if read_marker(dataset) is None:
        return None
    names = {fragment.path for fragment in open_events(dataset).fragments}
    tables = [pq.read_table(name, columns=["event_id"]) for name in sorted(names)]
    ids = sorted(i for table in tables for i in table["event_id"].to_pylist())
    assert len(ids) == len(set(ids))
    return tuple(ids)


def features_stage(place: Path, cluster: ClusterConfig, *, update: bool) -> Stage:
    """Two fragments of events, a part each; or one is changed and one is added."""
    first = write_dataset(place / "first", fragments=2, events=20, classes=CLASSES[:2])
    then = place / "then"
    shutil.copytree(first, then)
    for number, events in ((1, 25), (2, 15)):
        name = CLASSES[number % 2]
        table = to_arrow(plain_events(events, seed=90 + number))
        write_fragment(then, f"part-{number:03d}", table, number % 2, name)
    write_marker(then, 20 + 25 + 15, CLASSES[:2])

    def stage(events: Path) -> Stage:
        def work(folder: Path) -> None:
            own = {"cluster": cluster, "part_mb": 0.001}
            features(FeaturesConfig(input=events, output=folder / "s.zarr", **own))

        return Stage(work, lambda folder: _store(folder / "s.zarr"))

    return stage(first).after(stage(then), place / "before") if update else stage(first)


def _store(path: Path) -> Version:
    try:
        store = EventStore.open(path)
    except DataError as error:
        if not any(what in str(error) for what in ("unfinished", "no feature store here")):
            raise
        return None
    blocks = [block for split in ("train", "val", "test") for block in store.blocks(split)]
    ids = sorted(i for block in blocks for i in block.event_id.tolist())
    assert len(ids) == len(set(ids)) == store.ledger().n_out
    return tuple(ids)


def import_stage(place: Path) -> Stage:
    """Two parts of training events, and one of test events."""
    rng = np.random.default_rng(3)
    for split, n in (("train", 24), ("test", 12)):
        columns = {
            "HLF_input": rng.random((n, len(HLF))),
            "encoded_label": np.eye(3)[np.arange(n) % 3],
        }
        table = pa.table({name: values.tolist() for name, values in columns.items()})
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place / f"{split}.parquet")

    def work(folder: Path) -> None:
        sources = {split: place / f"{split}.parquet" for split in ("train", "test")}
        config = ImportConfig(**sources, output=folder / "cern.zarr", rows_per_part=12)
        import_cern.run(config)

    return Stage(work, lambda folder: _store(folder / "cern.zarr"))


def train_stage(place: Path) -> Stage:
    """Two epochs, with checkpoints within them."""
    store = toy_store(place / "toy.zarr", events=12, mean_particles=1)

    def work(folder: Path) -> None:
        own = ("--trainer.max_epochs", "2", "--checkpoint_every_steps", "2")
        fit(store, folder / "run", *own)

    return Stage(work, lambda folder: _run(folder / "run"), content=lambda f: _trained(f / "run"))


def _run(folder: Path) -> Version:
    if not read_record(folder).get("finished"):
        return None
    ids = read_predictions(folder / "predictions.parquet").event_id
    return ids.tobytes(), (folder / "model.onnx").read_bytes()


def _trained(folder: Path) -> dict[str, Any]:
    """Return what does not depend on the clock, and the names of all files but TensorBoard's."""
    record, table = read_json(folder / "run.json"), (folder / "metrics.csv").read_text()
    losses = [
        {name: row[name] for name in ("epoch", "step", "val_loss")}
        for row in csv.DictReader(io.StringIO(table))
    ]
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }
    values = {
        f"{kind}.{name}": value.numpy().tobytes()
        for kind in ("last", "best")
        for name, value in weights(folder, kind).items()
    }
    same = {key: record[key] for key in ("events_trained", "epochs", "finished", "test")}
    files = {name: (folder / name).read_bytes() for name in ("predictions.parquet", "model.onnx")}
    return {**same, **values, **files, "losses": losses, "names": sorted(names)}


def evaluate_stage(place: Path, *, update: bool) -> Stage:
    """A run; or one that was trained again since the report that is there."""
    for n in (1, 2):
        own: Any = {"per_class": (40, 30), "classes": CLASSES[:2]}
        toy_runs(place / f"runs-{n}", models={"hlf": 1.2}, seed=n, **own)

    def stage(n: int) -> Stage:
        def work(folder: Path) -> None:
            own = {"bootstrap": 2, "targets": (0.5,)}
            evaluate(EvaluateConfig(input=place / f"runs-{n}", output=folder / "report", **own))

        return Stage(work, lambda folder: _report(folder / "report"))

    return stage(1).after(stage(2), place / "before") if update else stage(1)


def _report(folder: Path) -> Version:
    if not (folder / "metrics.json").is_file():
        return None
    assert read_json(folder / "metrics.json")["figures"]
    files = contents(folder).items()
    return tuple(sorted((name, own) for name, own in files if not Path(name).name.startswith(".")))


def score_stage(place: Path, cluster: ClusterConfig, *, update: bool) -> Stage:
    """Two files in a task; or one is changed and one is added since they were scored."""
    first, then = place / "first", place / "then"
    template = write_raw(first / "a.root", [30, 20], seed=1)
    write_raw(first / "b.root", [25], seed=2)
    write_raw(then / "b.root", [15], seed=5)
    write_raw(then / "c.root", [20], seed=3)
    shutil.copy2(template, then)
    model = untrained(place / "model", template)

    def stage(raw: Path) -> Stage:
        def work(folder: Path) -> None:
            own = {"target_partition_mb": 1, "cluster": cluster}
            score(ScoreConfig(input=raw, model=model, output=folder / "scores", **own))

        return Stage(work, lambda folder: _scores(folder / "scores"))

    return stage(first).after(stage(then), place / "before") if update else stage(first)


def _scores(folder: Path) -> Version:
    ids = [
        i
        for path in sorted(folder.glob("*.parquet"))
        for i in pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    ]
    assert len(ids) == len(set(ids))
    marker = read_marker(folder) if folder.is_dir() else None
    return tuple(sorted(ids)) if marker and marker["complete"] else None


def simulate_stage(place: Path, pool: Path | None) -> Stage:
    """Two files of a class, of two selected events each; without a pool, it is made too."""
    place.mkdir(parents=True, exist_ok=True)

    def work(folder: Path) -> None:
        from hepflow.simulate.job import run  # noqa: PLC0415 - needs Pythia

        own: dict[str, Any] = {"classes": ("wjets",), "events": 4, "events_per_file": 2, "jobs": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # of the pool
            run(SimulateConfig(input=pool, output=folder / "raw", pool=10, pileup=1.0, **own))

    return Stage(work, lambda folder: _simulated(folder / "raw"))


def _simulated(folder: Path) -> Version:
    for path in folder.glob("*/*.json"):
        if path.with_suffix(".root").is_file():
            with uproot.open(path.with_suffix(".root")) as file:
                assert file["Delphes"].num_entries == read_json(path)["written"]
    return None
