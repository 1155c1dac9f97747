"""Compiled functions that are compiled anew once a source has changed from which they may take something.

numba compares only the file in which a function stands with what is in its cache; the functions and constants that are compiled into it
come from other files too.
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
    """``numba.njit(cache=True)`` for functions that call others in files of the same folder, and take constants from ``schema``."""

    def compile_(function: Callable[..., Any]) -> Any:
        compiled = numba.njit(cache=True, **options)(function)
        file = compiled._cache._cache_file  # noqa: SLF001 - numba has no public way
        file._source_stamp = (file._source_stamp, sources(Path(inspect.getfile(function)).parent))  # noqa: SLF001
        return compiled

    return compile_


@cache
def sources(folder: Path) -> bytes:
    """Hash of the Python files in a folder, and of the schema."""
    files = [*sorted(folder.glob("*.py")), Path(schema.__file__)]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=16).digest()
