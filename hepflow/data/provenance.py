"""Hashes of plain values and of the code: where an output came from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


def digest(*parts: Any) -> str:
    """Short hash of configurations and other plain values: the same content, the same hash, in any process.

    Parameters
    ----------
    *parts
        Dataclasses, mappings, sequences, paths, numbers, strings.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    text = json.dumps(
        [_plain(part) for part in parts]
    )  # in the order given: that of the classes is their labels
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def code_hash(folder: Path = PACKAGE, leave_out: tuple[str, ...] = ()) -> str:
    """Hash of the sources under a folder, by default of hepflow itself: the same code, the same hash, wherever it is installed.

    Parameters
    ----------
    folder : Path
    leave_out : tuple of str
        How the paths of sources begin that do not count.
    """
    sources = sorted(
        path for path in folder.rglob("*.*") if path.suffix in {".py", ".j2", ".css", ".js"}
    )
    named = [(path.relative_to(folder).as_posix(), path) for path in sources]
    return digest(
        [(name, path.read_text()) for name, path in named if not name.startswith(leave_out)]
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
