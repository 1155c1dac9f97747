"""A checksum of a file inside the file itself, in text for which its format has room.

    JSON      a value          "_checksum": "hepflow-crc32c:0123abcd"
    YAML      a comment        # hepflow-crc32c:0123abcd
    Parquet   metadata in the footer (`hepflow.data.parquet`)
    ONNX      metadata of the model
    zip       comment at the end, in checkpoints of torch and archives of NumPy

The digits are the CRC32C of the whole file with zeros in their place, so any flipped bit is found
before a parser reads the file: none allocates by a wrong length. The last such text of a file
counts. Files without one, of earlier versions or other programs, are read as they are; and if the
text itself is damaged, so that none is found, all the rest is whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c

from hepflow.errors import DataError

KEY = "_checksum"
"""Key of the text in JSON."""
_MARK, _ZEROS, _DIGITS = b"hepflow-crc32c:", b"00000000", frozenset(b"0123456789abcdef")
EMPTY = (_MARK + _ZEROS).decode()
"""Text to be sealed."""
_END = 1 << 20  # bytes at the end of a large file in which the text is
_CHUNK = 1 << 20
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22  # record at the end of an archive without comment


def sealed(content: bytes) -> bytes:
    """Return a content that has an `EMPTY` text, with its checksum."""
    place = _place(content)
    assert place is not None, "no place for a checksum"
    return content[:place] + _digits(google_crc32c.value(content)) + content[place + len(_ZEROS) :]


def text_of(content: bytes) -> str:
    """Return the text with the checksum of a content that does not have it."""
    return (_MARK + _digits(google_crc32c.value(content))).decode()


def sealed_zip(content: bytes) -> bytes:
    """Return a zip archive without a comment, with its checksum as the comment."""
    end = content[-_ZIP_END_BYTES:]
    assert end[:4] + end[-2:] == _ZIP_END + b"\0\0", "no zip archive without comment"
    comment = EMPTY.encode()
    return sealed(content[:-2] + len(comment).to_bytes(2, "little") + comment)


def seal_file(path: Path) -> None:
    """Put the checksum into a file, not yet published, that has an `EMPTY` text near its end."""
    with path.open("r+b") as file:
        place, size = _place_in(file)
        assert place is not None, "no place for a checksum"
        digits = _digits(_checksum_of(file, place, size))
        file.seek(place)
        file.write(digits)


def check(content: bytes, path: Path, advice: str) -> bool:
    """Return whether a content has a checksum; raise a DataError with an advice if it is wrong."""
    place = _place(content)
    if place is None:
        return False
    digits, end = content[place : place + len(_ZEROS)], place + len(_ZEROS)
    checksum = google_crc32c.value(b"".join((content[:place], _ZEROS, content[end:])))
    _require(digits, checksum, path, advice)
    return True


def check_file(path: Path, advice: str) -> bool:
    """Do what `check` does with a local file of any size."""
    with path.open("rb", buffering=0) as file:
        place, size = _place_in(file)
        if place is None:
            return False
        checksum = _checksum_of(file, place, size)
        file.seek(place)
        _require(file.read(len(_ZEROS)), checksum, path, advice)
    return True


def _require(digits: bytes, checksum: int, path: Path, advice: str) -> None:
    if digits != _digits(checksum):
        what = "damaged, or changed since hepflow wrote it: its checksum is wrong"
        raise DataError(f"{path}: {what}. {advice}")


def _digits(checksum: int) -> bytes:
    return b"%08x" % checksum


def _place(content: bytes) -> int | None:
    """Return where the digits of the last text are."""
    place = content.rfind(_MARK) + len(_MARK)
    digits = content[place : place + len(_ZEROS)]
    found = place >= len(_MARK) and len(digits) == len(_ZEROS) and _DIGITS.issuperset(digits)
    return place if found else None


def _place_in(file: IO[bytes]) -> tuple[int | None, int]:
    """Return where the digits are in a file, and its size."""
    size = file.seek(0, 2)
    start = max(0, size - _END)
    file.seek(start)
    place = _place(b"".join(_chunks(file, size - start)))
    return (None if place is None else start + place), size


def _checksum_of(file: IO[bytes], place: int, size: int) -> int:
    """Return the checksum of a file, with zeros in place of the digits."""
    file.seek(0)
    checksum = 0
    for chunk in _chunks(file, place):
        checksum = google_crc32c.extend(checksum, chunk)
    checksum = google_crc32c.extend(checksum, _ZEROS)
    file.seek(place + len(_ZEROS))
    for chunk in _chunks(file, size - place - len(_ZEROS)):
        checksum = google_crc32c.extend(checksum, chunk)
    return int(checksum)


def _chunks(file: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    while n_bytes > 0:
        chunk = file.read(min(_CHUNK, n_bytes))
        if not chunk:  # it has become shorter
            return
        n_bytes -= len(chunk)
        yield chunk
