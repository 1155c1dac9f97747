"""Hashes of plain values and of the code: the origin of an output."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


def digest(*parts: Any) -> str:
    """Return a hash of plain values and dataclasses in this order: 16 hexadecimal digits."""
    text = json.dumps([_plain(part) for part in parts])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def code_hash(folder: Path = PACKAGE, leave_out: tuple[str, ...] = ()) -> str:
    """Return a hash of the sources below a folder, the same wherever hepflow is installed.

    ``leave_out`` holds beginnings of the relative paths of sources that do not count.
    """
    kinds = {".py", ".yaml", ".j2", ".css", ".js"}
    sources = sorted(path for path in folder.rglob("*.*") if path.suffix in kinds)
    named = [(path.relative_to(folder).as_posix(), path) for path in sources]
    counted = [(name, path) for name, path in named if not name.startswith(leave_out)]
    return digest([(name, path.read_text()) for name, path in counted])


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
