"""The commits of ingest and features, model-checked: two writers, two deaths, changing input.

Every state that can be reached is checked. The models are those of the code: each action names a
function, and the changes that real runs make are a way through the model. They can fail: each wrong
protocol violates an invariant.
"""

import importlib
import shutil
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hepflow.data.blocks import StoreSpec
from hepflow.data.events import open_events
from hepflow.data.records import write_plan
from hepflow.data.store_writer import StoreWriter
from hepflow.features.packing import plan_parts
from hepflow.features.parts import make_part
from hepflow.schema import CLASSES, HLF, PARTICLE
from tests.support import dataset_model, store_model
from tests.support.commit_model import Protocol, State, two_writers
from tests.support.delphes_events import write_dataset
from tests.support.faults import changes_of
from tests.support.model_check import Explored, explore, follows
from tests.support.root_files import write_delphes
from tests.support.toy_trigger import ingest

MODELS = [dataset_model, store_model]
A1, B1, B2 = ("a", 1), ("b", 1), ("b", 2)


def explored(model: ModuleType, how: Protocol, runs: int, *invariants: str) -> Explored[State]:
    """Explore the states of two writers with a number of runs each, for some invariants or all."""
    actions = two_writers(how, model.steps, model.IDLE, model.Writer())
    every = model.invariants(how)
    checked = {name: every[name] for name in invariants or every}
    return explore(model.START._replace(runs=(runs, runs)), actions, checked)


LOCKS = [
    (dataset_model, "flock", 2),
    (dataset_model, "stale", 1),
    pytest.param(dataset_model, "stale", 2, marks=[pytest.mark.system, pytest.mark.slow]),
    (store_model, "flock", 2),
]


@pytest.mark.parametrize(("model", "lock", "runs"), LOCKS)
def test_every_reachable_state_holds_the_invariants(
    model: ModuleType, lock: str, runs: int, record_property: Any
) -> None:
    found = explored(model, Protocol(lock=lock), runs)
    name = model.__name__.rpartition(".")[2]
    record_property("crash states", f"{name}, {lock}: {found.n_states:,} states of the model")
    assert not found.violated, f"{found.violated}:\n" + "\n".join(found.way)
    assert found.n_states > 1000


WRONG = [
    (
        dataset_model,
        {"record_first": True, "trust_records": True},
        "what the marker names is there",
    ),
    (dataset_model, {"remove_first": True}, "what the marker names is there"),
    (dataset_model, {"commit_first": True}, "what the marker names is there"),
    (dataset_model, {"lock": "none"}, "what the marker names is there"),
    (dataset_model, {"lock": "stale", "overlap": True}, "no event twice"),
    (dataset_model, {"any_version": True}, "a reader sees one version"),
    (dataset_model, {"lock": "file"}, "a rerun ends, and none is lost"),
    (store_model, {"record_first": True, "trust_records": True}, "what the store lists is there"),
    (store_model, {"commit_first": True}, "what the store lists is there"),
    (store_model, {"reuse_numbers": True}, "what was read of a shard stays true"),
    (store_model, {"any_version": True}, "a reader sees one version"),
    (store_model, {"lock": "file"}, "a rerun ends, and none is lost"),
    # and what a lock on a remote store does not prevent: docs/reliability.md
    (store_model, {"lock": "stale"}, "what the store lists is there"),
]


@pytest.mark.parametrize(("model", "wrong", "violated"), WRONG)
def test_a_wrong_protocol_violates_an_invariant(
    model: ModuleType, wrong: dict[str, Any], violated: str
) -> None:
    runs = 2 if "overlap" in wrong else 1
    found = explored(model, Protocol(**wrong), runs, violated)
    assert found.violated == violated, f"{found.n_states} states"


@pytest.mark.parametrize("model", MODELS)
def test_each_action_stands_for_a_function(model: ModuleType) -> None:
    for place in model.STANDS_FOR.values():
        module, _, name = place.partition(":")
        assert callable(reduce(getattr, name.split("."), importlib.import_module(module)))
    actions = two_writers(Protocol(lock="stale"), model.steps, model.IDLE, model.Writer())
    seen, waiting, kinds = {model.START}, [model.START], set()
    while waiting and len(seen) < 20_000:
        for label, state in actions(waiting.pop()):
            kinds.add(label.split(":")[0])
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    assert kinds - {"change", "death", "take over"} <= model.STANDS_FOR.keys()


def dataset_kind(event: str, path: Path) -> str:
    """Return the model's name of a change of a dataset; nothing for drafts, hints and lists."""
    removed = event == "os.remove"
    if path.name.startswith("."):
        return ""
    if path.suffix == ".parquet":
        return "remove fragment" if removed else "fragment"
    if path.parent.name == "_records" and path.suffix == ".json":
        return "remove record" if removed else "record"
    kinds = {"finished.jsonl": "merge", "_fragments.json": "catalogue", "_hepflow.json": "marker"}
    return kinds.get(path.name, "")


def test_what_ingest_does_is_a_way_through_the_model(tmp_path: Path) -> None:
    first, then, output = tmp_path / "first", tmp_path / "then", tmp_path / "events"
    for seed, name in enumerate(("qcd/a", "ttbar/b"), 1):
        write_delphes(first / f"{name}.root", [20], seed=seed)
    shutil.copytree(first, then)
    write_delphes(then / "ttbar/b.root", [25], seed=7)
    hidden = ("lock", "unlock", "list", "finished", "change")
    start = dataset_model.START
    for number, raw in enumerate((first, then, then), 1):
        made = changes_of(lambda _, raw=raw: ingest(raw, output, ("qcd", "ttbar")), output)
        trace = [kind for event, path in made if (kind := dataset_kind(event, path))]
        assert bool(trace) == (number < 3)
        begins = start._replace(runs=(1, 0), deaths=0, input=min(number, 2))
        assert not follows(begins, own_actions(dataset_model), trace, hidden), trace
        wrong = [*trace[1:2], *trace[:1], *trace[2:]]
        assert not trace or follows(begins, own_actions(dataset_model), wrong, hidden), wrong
        a, b, b2 = (dataset_model.fragments_of([one]) for one in (A1, B1, B2))
        present = a | (b if number == 1 else b2)
        disk = dataset_model.Dataset(present, merged=present, marker=present)
        start = dataset_model.START._replace(disk=disk)


def own_actions(model: ModuleType) -> Any:
    return two_writers(Protocol(), model.steps, model.IDLE, model.Writer())


def store_kind(event: str, path: Path, seen: list[str]) -> str:
    """Return the model's name of a change of a store; ``seen`` are those before."""
    removed = event == "os.remove"
    if path.name.startswith("."):
        return ""
    if path.name == "plan.json":
        return "remove plan" if removed else "plan"
    if path.name == "finished.json":
        return "merge" if "ranges" in seen else "discard"
    if path.parent.name == "_parts":
        return "remove record" if removed else "record"
    if path.parent.name == "ranges":
        return "ranges" if path.name.startswith("c.") else ""
    if path.name == "zarr.json":
        if removed or path.parent.suffix != ".zarr":  # of other settings, and of arrays
            return ""
        return "complete" if "merge" in seen else "begin"
    # two arrays of the five are enough for the model
    if path.parent.name not in {"hlf", "label"}:
        return ""
    return "remove shard" if removed else "shard"


def test_what_features_does_is_a_way_through_the_model(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "events", fragments=2, classes=CLASSES[:2])
    output = tmp_path / "s.zarr"
    splits = {"train": 1.0, "val": 0.0, "test": 0.0}
    spec = StoreSpec(CLASSES[:2], HLF, PARTICLE, "corrected", "events", splits=splits)

    def work(_: Path) -> None:
        store = StoreWriter.create(output, spec, keep=True)
        missing, stale = plan_parts(store, open_events(dataset).fragments, 1)
        write_plan(store.path, {part.number: part.sources for part in missing})
        if stale:
            store.discard(stale)
        for part in missing:
            make_part(store, part, None, 1 << 20)
        store.refresh()
        store.finalise()

    hidden = ("lock", "unlock", "list", "change")
    trace: list[str] = []
    for event, path in changes_of(work, output):
        if kind := store_kind(event, path, trace):
            trace.append(kind)
    begins = store_model.START._replace(runs=(1, 0), deaths=0)
    assert not follows(begins, own_actions(store_model), trace, hidden), trace
    place = trace.index("record")
    wrong = [*trace[: place - 1], "record", "shard", *trace[place + 1 :]]
    assert follows(begins, own_actions(store_model), wrong, hidden) == f"record (step {place - 1})"
