"""numba's compiled functions on disk, compiled again when any source that they use has changed.

numba checks only the file of the function itself. The functions and constants that are compiled
into it come from other files too, so the hash of the whole folder is added to its stamp.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

from hepflow import schema


def cached_njit(**options: Any) -> Callable[[Any], Any]:
    """Return ``numba.njit(cache=True)`` for functions that use others of the same folder only."""

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to write to: read-only packages, and no home on this node
            return numba.njit(**options)(function)
        if compiled is function:  # NUMBA_DISABLE_JIT=1: plain Python, for a debugger
            return function
        file = compiled._cache._cache_file  # noqa: SLF001 - numba has no public way
        stamp = sources(Path(inspect.getfile(function)).parent)
        file._source_stamp = (file._source_stamp, stamp)  # noqa: SLF001
        return compiled

    return compile_


@cache
def sources(folder: Path) -> bytes:
    """Return the hash of the Python files in a folder, and of the schema."""
    files = [*sorted(folder.glob("*.py")), Path(schema.__file__)]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=16).digest()
