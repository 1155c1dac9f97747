"""BigDL's files of a net (also Analytics Zoo's) -> the net. Nothing in them is executed.

The module is a message of bigdl.proto. Of its fields, by number:

    BigDLModule     2 subModules, 7 moduleType (a Java class), 8 attr, 9 version, 16 parameters
    AttrValue       10 tensor, 13 module, 14 NameAttrList, 15 ArrayValue with modules in 13
    NameAttrList    2 attr                       every attr: entries of 1 name, 2 AttrValue
    BigDLTensor     2 size, 3 stride, 4 offset (the first number is 1), 8 storage
    TensorStorage   2 floats, 3 doubles, 9 id

Its numbers are in storages, which tensors share: in the attribute global_storage, or in a second
file, all big-endian, with the MD5 of what is before:

    int 3721, int count; count x (int id, int type, int size, size numbers); int 16, 16 bytes
"""

import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import md5
from itertools import chain

import numpy as np

from hepflow.models.cern.net import Dense, Gru, Part, PublishedNet
from hepflow.schema import CLASSES, HLF

MAGIC = struct.pack(">i", 3721)
WRONG = (ValueError, IndexError, KeyError, RecursionError, struct.error)
_TYPES = (">f4", ">f8", ">u2", "?", "", ">i4", ">i2", ">i8", "", "i1")
"""Types of numbers, by their number; texts and bytes have no type."""
_ACTIVATIONS = {
    "relu",
    "softmax",
    "logsoftmax",
    "tanh",
    "sigmoid",
    "hardsigmoid",
    "elu",
    "softplus",
}
_OTHERS = {"lstm", "lstmpeephole", "rnncell", "birecurrent", "reverse"}
_NOT_BIGDL = "it is neither HDF5, nor a zip, nor a whole module of BigDL"
_MAX_NUMBERS = 10**6  # of a tensor

_Fields = Mapping[int, list["int | memoryview"]]
_Storages = Mapping[int, np.ndarray]


def read_bigdl(module: bytes, weights: bytes | None) -> PublishedNet:
    """Return the net of a module and, if it has none of its numbers, of their file."""
    root = _Module(memoryview(module))
    if not root.kind:
        raise ValueError(_NOT_BIGDL)
    storages = root.storages
    if not storages:
        if weights is None:
            raise ValueError("its weights are in a second file, which is not next to it")
        storages = _read_weights(weights)
    kinds = {one.kind for one in root.walk()}
    if unknown := kinds & _OTHERS:
        raise ValueError(f"it has a layer {', '.join(sorted(unknown))}, which none of them has")
    recurrent = next((one for one in root.walk() if one.kind == "recurrent"), None)
    gru = None if recurrent is None else _gru(recurrent, storages)
    found = _dense(root, storages)
    own = 0 if gru is None else len(gru.recurrent)
    inputs: list[tuple[int, tuple[Part, ...]]] = [(own, ("particles",))] if own else []
    inputs.append((own + len(HLF), ("particles", "hlf") if own else ("hlf",)))
    widths = [len(layer.kernel) for layer in found]
    width, parts = next(((n, p) for n, p in inputs if n in widths), inputs[-1])
    return PublishedNet(f"BigDL {root.version}", parts, gru, _in_order(found, width))


def _gru(recurrent: "_Module", storages: _Storages) -> Gru:
    """Return the layer, whose rows are of the gates r and z, and of the candidate."""
    kinds = {one.kind for one in recurrent.walk()}
    gates = kinds & {"sigmoid", "hardsigmoid"}
    if "gru" not in kinds or "tanh" not in kinds or len(gates) != 1:
        cell = ", ".join(sorted(kinds & (_ACTIVATIONS | {"gru"}))) or "nothing known"
        raise ValueError(
            f"its recurrent layer has {cell}, not a GRU with tanh and one kind of gate"
        )
    arrays: dict[tuple[int, ...], np.ndarray] = {}  # shape -> the first one: layers are repeated
    for one in recurrent.walk():
        for array in one.parameters(storages):
            arrays.setdefault(array.shape, array)
    n = next((shape[1] for shape in arrays if len(shape) == 2 and shape[0] == 2 * shape[1]), 0)
    kernel = next((a for shape, a in arrays.items() if len(shape) == 2 and shape[0] == 3 * n), None)
    if not n or kernel is None or not {(n, n), (3 * n,)} <= arrays.keys():
        raise ValueError(f"the weights of its GRU are {', '.join(map(str, arrays))}")
    z_r_hat = np.r_[n : 2 * n, :n, 2 * n : 3 * n]
    own = np.concatenate([arrays[2 * n, n], arrays[n, n]]).T[:, z_r_hat]
    hard = gates == {"hardsigmoid"}
    return Gru(kernel.T[:, z_r_hat], own, arrays[3 * n,][z_r_hat], None, hard_gates=hard)


def _dense(root: "_Module", storages: _Storages) -> list[Dense]:
    """Return the dense layers, each once, outside of recurrent ones."""
    found: dict[bytes, tuple[Dense, set[str]]] = {}
    outside = list(root.walk(without="recurrent"))
    for one in [own for own in outside if own.kind == "dense"] or [root]:
        inner = list(one.walk(without="recurrent"))
        activations = {own.kind for own in inner} & _ACTIVATIONS if one is not root else set()
        for linear in (own for own in inner if own.kind == "linear"):
            arrays = linear.parameters(storages)
            if len(arrays) != 2:
                raise ValueError(f"a dense layer has {len(arrays)} arrays of weights, not two")
            layer = Dense(arrays[0].T, arrays[1])
            found.setdefault(arrays[0].tobytes(), (layer, activations))
    if "softmax" not in {one.kind for one in outside}:
        raise ValueError("it has no softmax")
    for layer, activations in found.values():
        wanted = "softmax" if len(layer.bias) == len(CLASSES) else "relu"
        if activations and activations != {wanted}:
            names = ", ".join(sorted(activations))
            raise ValueError(f"a dense layer to {len(layer.bias)} has {names}, not {wanted}")
    return [layer for layer, _ in found.values()]


def _in_order(layers: list[Dense], width: int) -> tuple[Dense, ...]:
    """Return layers in the order in which each takes what the one before it gives."""
    ordered: list[Dense] = []
    rest = list(layers)
    while rest:
        at = next((i for i, layer in enumerate(rest) if len(layer.kernel) == width), None)
        if at is None:
            widths = ", ".join(f"{len(layer.kernel)} to {len(layer.bias)}" for layer in layers)
            raise ValueError(f"its dense layers ({widths}) do not follow an input of {width}")
        ordered.append(rest.pop(at))
        width = len(ordered[-1].bias)
    return tuple(ordered)


class _Module:
    """A module of the file, read where it is needed."""

    def __init__(self, data: memoryview) -> None:
        self._fields = _fields(data)

    @property
    def kind(self) -> str:
        """Java class without its package, in small letters; Zoo puts Internal before some."""
        return _text(self._fields, 7).rpartition(".")[2].removeprefix("Internal").lower()

    @property
    def version(self) -> str:
        """Version of BigDL."""
        return _text(self._fields, 9)

    @cached_property
    def _attributes(self) -> dict[str, _Fields]:
        return dict(sorted(_entries(self._fields, 8)))

    @cached_property
    def _children(self) -> list["_Module"]:
        """Modules below this one, then those in its attributes."""
        own = list(_messages(self._fields, 2))
        for value in self._attributes.values():
            own += _messages(value, 13)
            for array in _messages(value, 15):
                own += _messages(_fields(array), 13)
        return [_Module(data) for data in own]

    def walk(self, without: str = "") -> Iterator["_Module"]:
        """Yield this module and all below, except those of a kind."""
        yield self
        for one in self._children:
            if one.kind != without:
                yield from one.walk(without)

    def parameters(self, storages: _Storages) -> list[np.ndarray]:
        """Return the weights of this module, without those below."""
        return [_tensor(_fields(data), storages) for data in _messages(self._fields, 16)]

    @cached_property
    def storages(self) -> dict[int, np.ndarray]:
        """Storages in the file itself, by their ids."""
        found = {}
        for attributes in _messages(self._attributes.get("global_storage", {}), 14):
            for _, value in _entries(_fields(attributes), 2):
                for storage in chain(*(_messages(_fields(t), 8) for t in _messages(value, 10))):
                    own = _fields(storage)
                    floats, doubles = (b"".join(_messages(own, number)) for number in (2, 3))
                    numbers = np.frombuffer(floats or doubles, "<f4" if floats else "<f8")
                    found[_integer(own, 9)] = numbers.astype(np.float32)
        return found


def _tensor(fields: _Fields, storages: _Storages) -> np.ndarray:
    size, stride = (_integers(fields, number) for number in (2, 3))
    first = _integer(fields, 4) - 1
    storage = next(_messages(fields, 8), None)
    number = -1 if storage is None else _integer(_fields(storage), 9)  # -1: none, as in BigDL
    if number not in storages:
        raise ValueError(f"the storage {number} of a tensor is not among its weights")
    values = storages[number]
    last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    too_small = min([*size, *(step + 1 for step in stride)], default=1) < 1
    if too_small or math.prod(size) > _MAX_NUMBERS or first < 0 or last >= len(values):
        raise ValueError(f"a tensor {size} is not within its {len(values):,} numbers")
    places = np.zeros((), np.int64) + first
    for n, step in zip(size, stride, strict=True):
        places = places[..., None] + np.arange(n) * step
    return values[places]


def _read_weights(content: bytes) -> dict[int, np.ndarray]:
    """Return the storages of the second file by their ids."""
    if not content.startswith(MAGIC):
        raise ValueError("its file of weights is none of BigDL")
    found, at = {}, 8
    (count,) = struct.unpack_from(">i", content, 4)
    for _ in range(count):
        number, kind, size = struct.unpack_from(">iii", content, at)
        at += 12
        if not 0 <= kind < len(_TYPES) or size < 0:
            raise ValueError("its file of weights is damaged")
        if not _TYPES[kind]:
            for _ in range(size):
                (length,) = struct.unpack_from(">i", content, at)
                at += 4 + max(length, 0)
            continue
        if at + size * np.dtype(_TYPES[kind]).itemsize > len(content):
            raise ValueError("its file of weights is damaged: it ends too early")
        values = np.frombuffer(content, _TYPES[kind], size, at)
        at += values.nbytes
        if values.dtype.kind == "f":
            found[number] = values.astype(np.float32)
    (length,) = struct.unpack_from(">i", content, at)
    if md5(content[:at], usedforsecurity=False).digest() != content[at + 4 : at + 4 + length]:
        raise ValueError("its file of weights does not have its own checksum. Download it again")
    return found


def _fields(data: memoryview) -> _Fields:
    """Return the fields of a message by number: integers, or the bytes of all else."""
    found: dict[int, list[int | memoryview]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            found[key >> 3].append(value)
            continue
        length = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            length, at = _varint(data, at)
        if length is None or at + length > len(data) or key < 8:
            raise ValueError(_NOT_BIGDL)
        found[key >> 3].append(data[at : at + length])
        at += length
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(_NOT_BIGDL)


def _messages(fields: _Fields, number: int) -> Iterator[memoryview]:
    return (value for value in fields.get(number, ()) if isinstance(value, memoryview))


def _entries(fields: _Fields, number: int) -> Iterator[tuple[str, _Fields]]:
    """Yield name and value of a map."""
    for data in _messages(fields, number):
        entry = _fields(data)
        yield _text(entry, 1), _fields(next(_messages(entry, 2), memoryview(b"")))


def _text(fields: _Fields, number: int) -> str:
    return bytes(next(_messages(fields, number), memoryview(b""))).decode()


def _integers(fields: _Fields, number: int) -> list[int]:
    """Return 32-bit integers with a sign, packed or not."""
    found = []
    for value in fields.get(number, ()):
        if isinstance(value, int):
            found.append(value)
        else:
            at = 0
            while at < len(value):
                one, at = _varint(value, at)
                found.append(one)
    return [(value + 2**31) % 2**32 - 2**31 for value in found]


def _integer(fields: _Fields, number: int) -> int:
    """Return the last value; 0, which is not written, if there is none."""
    return (_integers(fields, number) or [0])[-1]
