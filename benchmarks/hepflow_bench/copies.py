"""Copies of ROOT files whose events have other identities: more events than were simulated."""

import hashlib
from pathlib import Path

from hepflow.system.publishing import whole

UUID_AT = 47
"""Offset of the UUID in the header of a file below 2 GB: after the magic, ten numbers of 4 bytes,
one of 1 byte, and a version of 2 bytes."""


def multiply(raw: Path, copies: int) -> None:
    """Copy every file ``CLASS/NAME.root`` of a folder to ``CLASS/NAME-copyN.root``.

    Existing copies are kept. ``copies`` counts the original.
    """
    for path in sorted(raw.glob("*/*.root")):
        for number in range(1, copies):
            copy = path.with_name(f"{path.stem}-copy{number}.root")
            if "-copy" not in path.stem and not copy.exists():
                copy_as_new(path, copy, number)


def copy_as_new(path: Path, copy: Path, number: int) -> Path:
    """Copy a ROOT file below 2 GB with a UUID that follows from its own and the number.

    To every stage, its events are other events.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray(path.read_bytes())
    own = content[UUID_AT : UUID_AT + 16]
    new = hashlib.blake2b(own + number.to_bytes(8, "big"), digest_size=16).digest()
    content[UUID_AT : UUID_AT + 16] = new
    with whole(copy) as part:
        part.write_bytes(content)
    return copy
