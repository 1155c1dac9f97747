"""The feature store that one process makes, part after part, to compare others with."""

from pathlib import Path

from hepflow.config.stages import FeaturesConfig
from hepflow.data.events import open_events
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.features.packing import plan_parts
from hepflow.features.parts import make_part


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def made_calmly(config: FeaturesConfig, path: Path) -> dict[str, bytes]:
    """Return the files of the store that one process makes of the events of a finished one."""
    spec = EventStore.open(config.output).spec
    store = StoreWriter.create(path, spec)
    fragments = open_events(config.input, config.task_mb * 2**20).fragments
    parts, _ = plan_parts(store, fragments, int(config.part_mb * 2**20))
    for part in parts:
        make_part(store, part, config.physics, config.task_mb * 2**20)
    store.finalise()
    return contents(path)
