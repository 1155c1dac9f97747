"""Damage to files, the same for the same seed: of any bytes, and of what a format says of itself.

Bytes are flipped, cut, moved, repeated and zeroed, and numbers in them become 0, -1 or huge. The
others take a file apart, change what is in it, and put it together, with its checksums and sizes
right: objects of a ROOT file are decompressed, changed and compressed; a checkpoint's pickle is
changed in its zip file; values of JSON and YAML take another type.
"""

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import uproot

NUMBERS = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, (1 << 24) - 1, (1 << 31) - 1, (1 << 32) - 1]
NUMBERS += [1 << 40, (1 << 62) + 1, (1 << 63) - 1, (1 << 64) - 1]
FORMATS = (">H", "<H", ">I", "<I", ">I", ">Q", "<Q", "B")


def mutated(content: bytes, rng: random.Random, start: int = 0) -> bytes:
    """Return bytes with one to four changes at or behind ``start``."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(CHANGES)(data, rng, min(start, max(len(data) - 1, 0)))
    return bytes(data)


def _flip(data: bytearray, rng: random.Random, start: int) -> None:
    for _ in range(rng.choice((1, 1, 2, 8)) if len(data) > start else 0):
        data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)


def _number(data: bytearray, rng: random.Random, start: int) -> None:
    kind = rng.choice(FORMATS)
    size = struct.calcsize(kind)
    if len(data) >= start + size:
        at = rng.randrange(start, len(data) - size + 1)
        (before,) = struct.unpack_from(kind, data, at)
        value = rng.choice((*NUMBERS, before + 1, before - 1, before * 2))
        struct.pack_into(kind, data, at, value % (1 << 8 * size))


def _slice(data: bytearray, rng: random.Random, start: int) -> tuple[int, int]:
    first = rng.randrange(start, len(data) + 1)
    return first, min(len(data), first + rng.choice((1, 4, 8, 32, 512, 8192)))


def _cut_off(data: bytearray, rng: random.Random, start: int) -> None:
    del data[rng.randrange(start, len(data) + 1) :]


def _remove(data: bytearray, rng: random.Random, start: int) -> None:
    first, last = _slice(data, rng, start)
    del data[first:last]


def _repeat(data: bytearray, rng: random.Random, start: int) -> None:
    first, last = _slice(data, rng, start)
    data[last:last] = data[first:last] * rng.choice((1, 2, 9))


def _copy(data: bytearray, rng: random.Random, start: int) -> None:
    first, last = _slice(data, rng, start)
    to = rng.randrange(start, len(data) + 1)
    data[to : to + last - first] = data[first:last]


def _fill(data: bytearray, rng: random.Random, start: int) -> None:
    first, last = _slice(data, rng, start)
    data[first:last] = bytes([rng.choice((0, 0, 0xFF))]) * (last - first)


CHANGES: tuple[Callable[[bytearray, random.Random, int], None], ...]
CHANGES = (_flip, _flip, _number, _number, _cut_off, _remove, _repeat, _copy, _fill)


class Key(NamedTuple):
    """A record of a ROOT file: its key, and the object behind it."""

    at: int
    n_bytes: int
    object_bytes: int
    key_bytes: int
    class_name: str


def keys_of(content: bytes) -> list[Key]:
    """Return the records of the kinds that matter in a ROOT file, in the order of their places."""
    found = dict[int, Key]()
    for name in (b"TFile", b"TTree", b"TBasket", b"TList", b"TDirectory"):
        pattern, after = bytes([len(name)]) + name, 0
        while (place := content.find(pattern, after)) >= 0:
            after = place + 1
            for offset in (26, 34):
                at = place - offset
                if at < 100:
                    continue
                n_bytes, version, object_bytes = struct.unpack_from(">ihi", content, at)
                (key_bytes,) = struct.unpack_from(">h", content, at + 14)
                large = version > 1000
                fits = 0 < key_bytes < n_bytes <= len(content) - at and object_bytes > 0
                if fits and key_bytes < 400 and large == (offset == 34):
                    found[at] = Key(at, n_bytes, object_bytes, key_bytes, name.decode())
    return [found[at] for at in sorted(found)]


def mutated_root(content: bytes, rng: random.Random) -> bytes:
    """Return a ROOT file with another header, key, object or basket."""
    found = keys_of(content)
    how = rng.randrange(6)
    if how == 0 or not found:
        return mutated(content[:400], rng) + content[400:]
    if how == 1:
        return mutated(content, rng)
    wanted = rng.choice(("TTree", "TBasket", "TBasket", "TList", ""))
    key = rng.choice([one for one in found if wanted in one.class_name] or found)
    if how == 2:
        data = bytearray(content)
        stop = key.at + key.key_bytes
        head = bytearray(data[key.at : stop])
        rng.choice((_flip, _number, _number))(head, rng, 0)
        data[key.at : stop] = head
        return bytes(data)
    try:
        return with_object(content, key, lambda unpacked: mutated(unpacked, rng))
    except Exception:  # noqa: BLE001 - a record of another kind than it seemed
        return mutated(content, rng, key.at)


def with_object(content: bytes, key: Key, change: Callable[[bytes], bytes]) -> bytes:
    """Return a ROOT file in which one object is another, if that takes no more room."""
    start, stop = key.at + key.key_bytes, key.at + key.n_bytes
    room = stop - start
    new = change(object_of(content, key))[: key.object_bytes].ljust(key.object_bytes, b"\0")
    if room == key.object_bytes:
        return content[:start] + new + content[stop:]
    packed = b"".join(block(new[at : at + BLOCK]) for at in range(0, len(new), BLOCK))
    if len(packed) > room:
        return content
    # readers go on until the announced bytes are used up
    data = bytearray(content)
    data[start:stop] = packed.ljust(room, b"\0")
    struct.pack_into(">i", data, key.at, key.key_bytes + len(packed))
    return bytes(data)


BLOCK = (1 << 24) - 1


def block(content: bytes, announced: int | None = None) -> bytes:
    """Return a compressed block as ROOT writes it, which may announce another size."""
    packed = zlib.compress(content, 9)
    sizes = [len(packed), len(content) if announced is None else announced]
    head = b"ZL\x08" + b"".join(size.to_bytes(3, "little") for size in sizes)
    return head + packed


def bomb(content: bytes, n_bytes: int, *, announced: bool) -> bytes:
    """Return a ROOT file, written by uproot, of which a basket unpacks into zeros.

    Its key announces all of them, or as many bytes as before. The basket is appended, and its place
    and size in the tree are changed.
    """
    keys = {one.at: one for one in keys_of(content)}
    tree = next(one for one in keys.values() if one.class_name == "TTree")
    unpacked = object_of(content, tree)
    with uproot.open(io.BytesIO(content)) as file:
        for branch in file["Delphes"].values():
            seek, size = (int(branch.member(f"fBasket{name}")[0]) for name in ("Seek", "Bytes"))
            places = struct.pack(">q", seek), struct.pack(">i", size)
            if all(unpacked.count(one) == 1 for one in places) and seek in keys:
                break
        else:
            raise AssertionError("no branch whose numbers occur once")
    n_blocks, zeros = (-(-n_bytes // BLOCK), bytes(BLOCK)) if announced else (1, bytes(n_bytes))
    one_block = block(zeros, None if announced else keys[seek].object_bytes)
    total = n_blocks * BLOCK if announced else keys[seek].object_bytes
    head = bytearray(content[seek : seek + keys[seek].key_bytes])
    new_size = len(head) + n_blocks * len(one_block)
    struct.pack_into(">i", head, 0, new_size)
    struct.pack_into(">i", head, 6, total)
    new = struct.pack(">q", len(content)), struct.pack(">i", new_size)
    for before, after in zip(places, new, strict=True):
        unpacked = unpacked.replace(before, after)
    changed = with_object(content, tree, lambda _: unpacked)
    assert changed != content
    longer = bytearray(changed + head + one_block * n_blocks)
    struct.pack_into(">i", longer, 12, len(longer))  # fEND
    return bytes(longer)


def object_of(content: bytes, key: Key) -> bytes:
    """Return the object of a record, decompressed."""
    start, stop = key.at + key.key_bytes, key.at + key.n_bytes
    if stop - start == key.object_bytes:
        return content[start:stop]
    chunk = uproot.source.chunk.Chunk.wrap(None, np.frombuffer(content[start:stop], np.uint8))
    cursor = uproot.source.cursor.Cursor(0)
    found = uproot.compression.decompress(chunk, cursor, {}, stop - start, key.object_bytes)
    return bytes(found.raw_data)


def mutated_json(value: Any, rng: random.Random) -> Any:
    """Return JSON of which one or two values are others, missing, or of another type."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        if rng.random() < 0.2:
            del holder[key]
        elif rng.random() < 0.3 and isinstance(holder[key], (int, float)):
            holder[key] = rng.choice((-1, 0, holder[key] + 1, 1 << 40, 1 << 70, 0.5, 1e308))
        elif rng.random() < 0.3 and isinstance(holder[key], str):
            holder[key] = mutated(holder[key].encode(), rng).decode("utf-8", "replace")
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


VALUES: list[Any] = [None, True, 0, -1, 1 << 40, 1 << 70, 1.5, float("nan"), float("inf"), "", "a"]
VALUES += ["../../x", "/etc/passwd", "a\0b", "\ud800", "x" * 10_000, [], {}, [[]], {"": 1}]
VALUES += [["a"], [1, 2], [None], {"a": {"b": []}}, [[1] * 1000] * 10]


def _places(value: Any) -> Any:
    """Yield every holder of a value, and its key there."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def mutated_json_text(content: bytes, rng: random.Random) -> bytes:
    """Return a JSON file, or one of a JSON object per line, of another content."""
    how = rng.random()
    if how < 0.3:
        return mutated(content, rng)
    if how < 0.33:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b"\xff\xfe", b""))
    lines = content.splitlines() if content.count(b"\n{") else [content]
    number = rng.randrange(len(lines))
    lines[number] = json.dumps(mutated_json(json.loads(lines[number]), rng)).encode()
    return b"\n".join(lines)


YAML_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
YAML_PIECES = [YAML_BOMB, "&x [*x]", "&x {a: *x}", "!!python/object/apply:os.system ['touch MARK']"]
YAML_PIECES += ["!!python/name:os.system", "!!binary aGVsbG8=", "<<: *x", "? [a, b]\n: c", "- - -"]
YAML_PIECES += ["[" * 2000, "{a: " * 500, "1e999999", "0x" + "f" * 5000, "2020-01-01", "!!set {a}"]
YAML_PIECES += ["9" * 5000, ".nan", "~", "null", "[]", "{}", "'", '"', "\t", "%YAML 9.9", "--- a"]
YAML_PIECES += ["!!int 1_000", "1:2:3:4", "!!timestamp x", "on", "\u2028", "\ufeff", "*nothing"]


def mutated_yaml(content: bytes, rng: random.Random) -> bytes:
    """Return a configuration with other bytes, values, or pieces of YAML."""
    if rng.random() < 0.4:
        return mutated(content, rng)
    lines = content.decode().splitlines()
    number = rng.randrange(len(lines))
    piece = rng.choice(YAML_PIECES)
    head, colon, _ = lines[number].partition(": ")
    if colon and rng.random() < 0.7:
        lines[number] = f"{head}: {piece}"
    else:
        lines.insert(number, piece)
    return "\n".join(lines).encode()


def mutated_zip(content: bytes, rng: random.Random) -> bytes:
    """Return a zip file with one other member, and checksums that are right, or other bytes."""
    how = rng.random()
    if how < 0.35:
        return mutated(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    names = [name for name in members if name.endswith(".pkl")] if how < 0.8 else list(members)
    name = rng.choice(names)
    members[name] = mutated(members[name], rng)
    return zipped(members)


def zipped(members: dict[str, bytes], compressed: bool = False) -> bytes:
    """Return a zip file; torch's have members that are not compressed."""
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, member in members.items():
            file.writestr(name, member)
    return out.getvalue()
