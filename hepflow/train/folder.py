"""A run folder: its files, and whether a training is finished in it, can go on in it, or would replace another one."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from hepflow.config.options import shown
from hepflow.data.provenance import digest
from hepflow.data.runs import BEST, CHECKPOINTS, CONFIG, FILES, LAST, PREDICTIONS, RECORD
from hepflow.errors import ConfigError
from hepflow.system.files import read_json

log = logging.getLogger(__name__)

WHERE_IT_RUNS = {
    "trainer": {
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "logger",
        "profiler",
        "enable_progress_bar",
        "default_root_dir",
    },
    "data": {"store", "workers", "prefetch", "memory_mb", "predict_split", "eval_batch_size"},
    "": {"config", "output", "overwrite", "checkpoint_every_steps", "threads"},
}
"""Options that change how fast a run is or where it lies, never its result."""
NAMED = 3
"""Differences that a message names."""

State = Literal["fresh", "resume", "done"]


def decisive(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration without the options that do not change the result."""
    kept = {
        key: value
        for key, value in resolved.items()
        if key not in WHERE_IT_RUNS[""] and (key, value) != ("ckpt_path", None)
    }
    for group in WHERE_IT_RUNS.keys() & kept.keys():
        kept[group] = {
            key: value for key, value in kept[group].items() if key not in WHERE_IT_RUNS[group]
        }
    return kept


def config_hash(resolved: Mapping[str, Any]) -> str:
    """Hash of what decides the result."""
    return digest(decisive(resolved))


def run_state(folder: Path, own_hash: str, provenance: str) -> State:
    """Whether a training of this configuration on this store is finished in the folder, was begun, or neither."""
    if not (folder / RECORD).is_file():
        return "fresh"
    record = read_json(folder / RECORD)
    if (record.get("config_hash"), record.get("provenance")) != (own_hash, provenance):
        return "fresh"
    checkpoints = folder / CHECKPOINTS
    if (
        record.get("finished")
        and (folder / PREDICTIONS).is_file()
        and (checkpoints / BEST).is_file()
    ):
        return "done"
    return "resume" if (checkpoints / LAST).is_file() else "fresh"


def check_replaceable(folder: Path, resolved: Mapping[str, Any], provenance: str) -> None:
    """Refuse to begin a training where another one has left what it learnt. One of the same store, whose events have changed, may begin.

    Parameters
    ----------
    folder : Path
        Of a run, fresh for this training.
    resolved : mapping
        Configuration of the training.
    provenance : str
        Of its store.

    Raises
    ------
    ConfigError
        There is another training, finished or with a checkpoint to go on from; or files of somebody's own with names of ours.
    """
    if not (folder / RECORD).is_file():
        if theirs := [name for name in FILES if (folder / name).exists()]:
            raise ConfigError(
                f"{folder} holds {', '.join(theirs)}, but no run. Give another --output, or --overwrite to replace what is there."
            )
        return
    record = read_json(folder / RECORD)
    if not record.get("finished") and not (folder / CHECKPOINTS / LAST).is_file():
        return
    before = yaml.safe_load((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else {}
    if before:
        before["ckpt_path"] = record.get("began_with")
    changed = (
        [*_differences(decisive(before), decisive(resolved))]
        if before
        else [f"another model ({record.get('model', 'unknown')})"]
    )
    if record.get("provenance") != provenance:
        there, here = (str(config.get("data", {}).get("store")) for config in (before, resolved))
        if Path(there).absolute() != Path(here).absolute():
            changed.append(f"data.store {there} (now {here})")
        elif not changed:
            log.info(
                "%s: the events of %s have changed since; the training starts afresh", folder, here
            )
    if not changed:
        return
    named = ", ".join(changed[:NAMED]) + (
        f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    )
    kind = "a finished run" if record.get("finished") else "an unfinished run"
    raise ConfigError(
        f"{folder} holds {kind} with {named}. Give another --output, or --overwrite to replace it."
    )


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if all(
            isinstance(value, Mapping | None) for value in (old, new)
        ):  # an option's own options; those of a class may be left out
            yield from _differences(old or {}, new or {}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} {shown(old)} (now {shown(new)})"
