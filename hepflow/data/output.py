"""An output folder: the marker by which it is known, and when it may be replaced.

A stage writes the marker last, so a folder without one is unfinished. Feature stores and run
folders have markers of their own formats (`hepflow.data.store`, `hepflow.data.runs`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hepflow.errors import ConfigError
from hepflow.system.files import read_json, recorded, write_json
from hepflow.system.storage import flush_names

MARKER = "_hepflow.json"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's marker; None if there is none."""
    path = folder / MARKER
    with recorded(path):
        return dict(read_json(path)) if path.is_file() else None


def write_marker(folder: Path, about: Mapping[str, Any]) -> None:
    """Write a folder's marker: readers see the old or the new one, never a part."""
    flush_names(folder)  # of folders that a killed process has created
    write_json(folder / MARKER, dict(about))


def refuse_to_replace(
    output: Path, held: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse an output that holds something, such as "a dataset", made with other settings.

    A setting that only one of ``before`` and ``now`` names is not compared.
    """
    names = [name for name in now if name in before and before[name] != now[name]]
    changed = [f"{name} {before[name]} (now {now[name]})" for name in names]
    if changed:
        advice = "Give another --output, or --overwrite to replace it."
        raise ConfigError(f"{output} holds {held} with {', '.join(changed)}. {advice}")
