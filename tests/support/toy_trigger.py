"""A small trigger for the tests of scoring: ROOT files, events, feature store, trained nets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import awkward as ak
import numpy as np
import onnx

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.stages import EvaluateConfig, FeaturesConfig
from hepflow.data.identity import event_ids
from hepflow.data.store import EventStore
from hepflow.evaluate.job import run as evaluate
from hepflow.features import job as features
from hepflow.ingest import dataset
from hepflow.ingest.task import Settings, run_task
from hepflow.models.drift import Spread
from hepflow.models.export import write_onnx
from hepflow.models.hlf import HLFNet
from hepflow.models.inputs import Inputs
from hepflow.models.order import features_of
from hepflow.physics.features import compute_features
from hepflow.reading.delphes import DelphesFile
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import plan
from hepflow.reading.reader import Access
from hepflow.schema import CLASSES
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of
from hepflow.score.tables import read_scores
from hepflow.score.task import prepare, score_task
from tests.support.root_files import write_delphes
from tests.support.seals import unseal
from tests.support.toy_store import toy_store
from tests.support.trainings import fit

TEMPLATE_EVENTS = 60
"""Events of the file of which the tests of streams make copies."""


@dataclass(frozen=True)
class Trigger:
    root: Path
    cluster: ClusterConfig

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def store(self) -> EventStore:
        return EventStore.open(self.root / "features.zarr")

    @property
    def report(self) -> Path:
        return self.root / "report"

    def run(self, net: str) -> Path:
        return self.root / "runs" / net


def spread_out(collections: dict[str, ak.Array]) -> dict[str, ak.Array]:
    """Angles and momenta as a detector sees them, and leptons that are isolated as often as not."""
    narrow = {"Eta": 0.1, "Phi": 0.1, "PT": 1.0, "ET": 0.3}
    made = {}
    for name, column in collections.items():
        factors = narrow | ({"PT": 0.1} if name == "EFlowTrack" else {})
        fields = {
            field: ak.values_astype(column[field] * factors[field], np.float32)
            for field in factors
            if field in column.fields
        }
        made[name] = ak.zip({**{field: column[field] for field in column.fields}, **fields})
    return made


def write_raw(path: Path, clusters: Sequence[int], seed: int) -> Path:
    return write_delphes(path, clusters, seed=seed, reshape=spread_out)


def events_of(path: Path) -> ak.Array:
    with DelphesFile(str(path)) as file:
        return next(iter(file.iterate(0, file.n_entries)))[2]


def untrained(folder: Path, template: Path) -> Path:
    """Write a model with random weights, and the spread of the template's events."""
    store = toy_store(folder / "toy.zarr", events=4)
    net = HLFNet(Inputs.of(store)).eval()
    hlf = compute_features(events_of(template)).hlf
    block = next(store.blocks("test"))
    write_onnx(
        net,
        folder / "model.onnx",
        features_of(net.inputs.particles, "delta_r", block),
        spread=Spread.of([hlf] * 3).to_dict(),
    )
    return folder / "model.onnx"


def ingest(
    raw: Path | str,
    output: Path,
    classes: tuple[str, ...] = CLASSES,
    target_bytes: int = 128 << 20,
    access: Access | None = None,
) -> None:
    """Ingest like `hepflow ingest`, without Spark."""
    ranges = plan(assign(list_files(raw), {name: (name,) for name in classes}, raw), target_bytes)
    settings = Settings(output, classes, access or Access())
    about = dataset.manifest(output)
    if about is not None and dataset.is_up_to_date(about, ranges, settings, False):
        dataset.sweep(about, output)
        return
    dataset.prepare(output)
    records, left = dataset.finished(ranges, settings, retry_quarantined=False)
    records += [run_task((one,), settings) for one in left]
    dataset.commit(records, ranges, settings)


def make(root: Path, cluster: ClusterConfig, nets: Sequence[str]) -> Trigger:
    trigger = Trigger(root, cluster)
    for number, name in enumerate(CLASSES * 2):
        write_raw(trigger.raw / name / f"{number}.root", [60, 50], seed=number)
    ingest(trigger.raw, trigger.events)
    features.run(
        FeaturesConfig(input=trigger.events, output=root / "features.zarr", cluster=cluster)
    )
    for net in nets:
        fit(trigger.store, trigger.run(net), net=net)
    evaluate(
        EvaluateConfig(input=root / "runs", output=trigger.report, targets=(0.5, 0.9), bootstrap=2)
    )
    return trigger


def all_ids(raw: Path) -> list[int]:
    found: list[int] = []
    for path in raw.rglob("*.root"):
        with DelphesFile(str(path)) as file:
            found += event_ids(file.uuid, np.arange(file.n_entries)).tolist()
    return sorted(found)


def scored_ids(output: Path) -> list[int]:
    return sorted(read_scores(output, ["event_id"])["event_id"].to_pylist())


def rewritten(model: Path, path: Path, **changes: object) -> Path:
    """The model with another description."""
    content = onnx.load(model)
    about = next(item for item in content.metadata_props if item.key == "hepflow")
    about.value = json.dumps(json.loads(about.value) | changes)
    onnx.save(content, path)
    return unseal(path)


def score_here(config: ScoreConfig) -> None:
    """Score all ROOT files of an input in this process, a file per task."""
    _, task, about = prepare(config)
    scores = ScoreFolder(task.output, about)
    task = replace(task, run=scores.run)
    for entries in scores.pending(ranges_of(config.input, task.access, 1 << 30)):
        scores.add(score_task((entries,), task))
    scores.finish(complete=True)
