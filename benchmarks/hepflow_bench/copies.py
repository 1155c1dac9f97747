"""More events than were simulated, for measurements: copies of ROOT files under identities of their own."""

import hashlib
from pathlib import Path

from hepflow.system.files import whole

UUID_AT = 47
"""Byte of the UUID in the header of a file below 2 GB: behind the magic, ten numbers of 4 bytes, one of 1 byte, and its version's 2."""


def multiply(raw: Path, copies: int) -> None:
    """Leave every file of a folder of classes so many times in it; what is there already stays.

    Parameters
    ----------
    raw : Path
        ``CLASS/NAME.root``; the copies are ``CLASS/NAME-copyN.root``.
    copies : int
        The first included.
    """
    for path in sorted(raw.glob("*/*.root")):
        for number in range(1, copies):
            copy = path.with_name(f"{path.stem}-copy{number}.root")
            if "-copy" not in path.stem and not copy.exists():
                copy_as_new(path, copy, number)


def copy_as_new(path: Path, copy: Path, number: int) -> Path:
    """The same events under another UUID, which makes them other events to every stage.

    Parameters
    ----------
    path : Path
        A ROOT file below 2 GB.
    copy : Path
    number : int
        Tells copies of one file apart; other files give other UUIDs.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray(path.read_bytes())
    own = content[UUID_AT : UUID_AT + 16]
    content[UUID_AT : UUID_AT + 16] = hashlib.blake2b(
        own + number.to_bytes(8, "big"), digest_size=16
    ).digest()
    with whole(copy) as part:
        part.write_bytes(content)
    return copy
