"""Limits of memory for ROOT files that announce huge objects, or pack them into few bytes.

A thousand zeros take one byte, so 20 MB of a file may hold a basket of 20 GB. uproot calls a hook
before it decompresses a block. Here it adds up what a thread unpacks, and refuses sums that no
detector writes: real baskets are two to five times their packed size, and all-zero ones are small.
"""

import threading
import zlib
from typing import Any

import uproot

MOST_BYTES = 1 << 30
"""Bytes that may be unpacked at once, of however few."""
MOST_RATIO = 64
"""Beyond `MOST_BYTES`, bytes that may be unpacked per packed byte."""


class _Sums(threading.local):
    packed = unpacked = 0


_SUMS = _Sums()


def restart() -> None:
    """Start to add up again, when what was unpacked before is no longer in memory."""
    _SUMS.packed = _SUMS.unpacked = 0


def _count(
    *, chunk: Any, compressed_bytes: int, uncompressed_bytes: int, num_blocks: int, **_: Any
) -> None:
    if num_blocks == 0:
        _SUMS.packed += min(compressed_bytes, chunk.stop - chunk.start)
        _SUMS.unpacked += uncompressed_bytes
        if _SUMS.unpacked > max(MOST_BYTES, MOST_RATIO * _SUMS.packed):
            what = f"{_SUMS.packed:,} bytes would unpack into {_SUMS.unpacked:,}"
            raise ValueError(what)


class _Zlib(type(uproot.compression._decompress_ZLIB)):  # type: ignore[misc] # noqa: SLF001
    """Unpack a block that may be larger than its header says, in memory for what it says."""

    def decompress(self, data: bytes, uncompressed_bytes: int | None = None) -> bytes:
        if self.library != "zlib" or uncompressed_bytes is None:
            return bytes(super().decompress(data, uncompressed_bytes))
        unpacking = zlib.decompressobj()
        found = unpacking.decompress(data, uncompressed_bytes + 1)
        if len(found) == uncompressed_bytes and not unpacking.eof:
            raise ValueError("an incomplete block")
        return found


uproot.compression.decompress.hook_before_block = _count
uproot.compression._decompress_ZLIB = _Zlib()  # noqa: SLF001 - zlib.decompress has no limit
