"""The settled facts of a training, and whether its run folder holds it or another one."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from hepflow.config.options import shown
from hepflow.data.output import refuse_to_replace
from hepflow.data.provenance import digest
from hepflow.data.runs import BEST, CHECKPOINTS, CONFIG, FILES, LAST, PREDICTIONS, read_record
from hepflow.errors import ConfigError
from hepflow.system import seal
from hepflow.system.places import place
from hepflow.system.storage import read_bytes

log = logging.getLogger(__name__)
_EDITED = "Remove its last line if you have edited it, or else the file."

# Options that change the speed or the place of a run, never its result
WHERE_IT_RUNS = {
    "trainer": {
        *("accelerator", "devices", "num_nodes", "strategy", "logger", "profiler"),
        *("enable_progress_bar", "default_root_dir"),
    },
    "data": {
        *("store", "cache", "workers", "prefetch"),
        *("memory_mb", "predict_split", "eval_batch_size"),
    },
    "": {"config", "output", "overwrite", "checkpoint_every_steps", "threads"},
}


@dataclass(frozen=True)
class RunPlan:
    """The settled facts of a training, before anything is written."""

    folder: Path
    resolved: Mapping[str, Any]  # configuration with every option
    provenance: str  # hash of the feature store
    config_text: str  # content of config.yaml
    overwrite: bool  # replace another training in the folder

    @cached_property
    def config_hash(self) -> str:
        """Hash of the options that decide the result."""
        return digest(decisive(self.resolved))

    @cached_property
    def state(self) -> Literal["fresh", "resume", "done"]:
        """Whether the folder holds this training, finished or not, or another one; read once."""
        record, checkpoints = read_record(self.folder), self.folder / CHECKPOINTS
        same = {"config_hash": self.config_hash, "provenance": self.provenance}
        if not same.items() <= record.items():
            return "fresh"
        written = (self.folder / PREDICTIONS).is_file() and (checkpoints / BEST).is_file()
        if record.get("finished") and written:
            return "done"
        return "resume" if (checkpoints / LAST).is_file() else "fresh"

    @property
    def last(self) -> Path | None:
        """Checkpoint to resume from."""
        return self.folder / CHECKPOINTS / LAST if self.state == "resume" else None

    def check_replaceable(self) -> None:
        """Refuse to start where another training has left results, without --overwrite.

        A training may start if it differs from that one by the events of the same store only. A
        user's own files with names of ours are refused too.
        """
        folder = self.folder
        if self.state != "fresh" or self.overwrite:
            return
        record = read_record(folder)
        if not record:
            if theirs := [name for name in FILES if (folder / name).exists()]:
                held = f"{folder} holds {', '.join(theirs)}, but no run"
                advice = "Give another --output, or --overwrite to replace what is there."
                raise ConfigError(f"{held}. {advice}")
            return
        if not record.get("finished") and not (folder / CHECKPOINTS / LAST).is_file():
            return
        if not (folder / CONFIG).is_file():
            name = record.get("model", "unknown")
            refuse_other_run(folder, record, {"model": name}, {"model": "another one"})
            return
        content = read_bytes(folder / CONFIG)
        seal.check(content, folder / CONFIG, _EDITED)
        before = yaml.safe_load(content.decode())
        before["ckpt_path"] = record.get("began_with")
        changed = dict(_differences(decisive(before), decisive(self.resolved)))
        if record.get("provenance") != self.provenance:
            stores = [str(one.get("data", {}).get("store")) for one in (before, self.resolved)]
            if place(stores[0]).absolute() != place(stores[1]).absolute():
                changed["data.store"] = stores[0], stores[1]
            elif not changed:
                text = "%s: the events of %s have changed since; a new training starts"
                log.info(text, folder, stores[1])
        old, new = ({name: shown(pair[i]) for name, pair in changed.items()} for i in range(2))
        refuse_other_run(folder, record, old, new)


def refuse_other_run(
    folder: Path, record: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse to replace a run of nets or trees that was made with other settings."""
    held = "a finished run" if record.get("finished") else "an unfinished run"
    refuse_to_replace(folder, held, before, now)


def next_start(checkpoints: Path) -> str:
    """Return what an interrupted training will do when it is started again."""
    last = checkpoints / LAST
    return f"resume from {last}" if last.is_file() else "start again: no checkpoint yet"


def summary(metrics: Mapping[str, float]) -> str:
    """Return the measures of a split, such as ``test_loss``, in one line."""
    return ", ".join(f"{name.split('_', 1)[1]} {value:.4f}" for name, value in metrics.items())


def decisive(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the options that do not change the result."""
    kept = {key: value for key, value in resolved.items() if key not in WHERE_IT_RUNS[""]}
    if kept.get("ckpt_path") is None:
        kept.pop("ckpt_path", None)
    for group in WHERE_IT_RUNS.keys() & kept.keys():
        options = kept[group].items()
        kept[group] = {key: value for key, value in options if key not in WHERE_IT_RUNS[group]}
    return kept


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        # An option's own options; a class may be given without those.
        if isinstance(old, Mapping | None) and isinstance(new, Mapping | None):
            yield from _differences(old or {}, new or {}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", (old, new)
