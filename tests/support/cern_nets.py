"""Published nets with random weights: their files, as each program writes them, and plain math.

Nothing here is of hepflow: the files are written by hand, and an event goes through loops.
"""

import hashlib
import io
import json
import math
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

N_STEPS, N_PARTICLE, N_HLF, N_CLASSES = 801, 19, 14, 3


@dataclass(frozen=True)
class Weights:
    """Weights of a net in Keras' order: gates z, r, candidate; inputs are rows."""

    kernel: np.ndarray | None  # (19, 3H); None if there is no GRU
    recurrent: np.ndarray | None  # (H, 3H)
    biases: np.ndarray | None  # (2, 3H) of inputs and state
    dense: tuple[tuple[np.ndarray, np.ndarray], ...]
    with_hlf: bool

    @property
    def hidden(self) -> int:
        return 0 if self.recurrent is None else len(self.recurrent)


def random_weights(
    *, particles: bool, hlf: bool, widths: Sequence[int] = (25,), hidden: int = 50, seed: int = 1
) -> Weights:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(0, 1.5 / math.sqrt(shape[0]), shape).astype(np.float32)

    sizes = [hidden * particles + N_HLF * hlf, *widths, N_CLASSES]
    dense = tuple((matrix(a, b), 0.3 * matrix(1, b)[0]) for a, b in pairwise(sizes))
    if not particles:
        return Weights(None, None, None, dense, hlf)
    gru = matrix(N_PARTICLE, 3 * hidden), matrix(hidden, 3 * hidden), 0.2 * matrix(2, 3 * hidden)
    return Weights(*gru, dense, hlf)


INCLUSIVE = random_weights(particles=True, hlf=True)
SEQUENCE = random_weights(particles=True, hlf=False, widths=(), seed=2)
HLF_NET = random_weights(particles=False, hlf=True, widths=(50, 20, 10), seed=3)


# ----- plain math, in double precision


def plain_state(x_TF: np.ndarray, w: Weights, *, bigdl: bool, masked: bool) -> np.ndarray:
    """Return the state of one event after its last step."""
    n = w.hidden
    state = [0.0] * n
    kernel, recurrent = w.kernel.astype(float), w.recurrent.astype(float)
    bias, state_bias = w.biases.astype(float)
    for x in x_TF.astype(float):
        if masked and not bigdl and all(value == 0 for value in x):
            continue
        new, before = x @ kernel + bias, np.array(state)
        z, r, hat = np.zeros(n), np.zeros(n), np.zeros(n)
        if bigdl:
            own = before @ recurrent[:, : 2 * n]
            for i in range(n):
                z[i], r[i] = (min(max(0.2 * (new[j] + own[j]) + 0.5, 0), 1) for j in (i, n + i))
            last = (r * before) @ recurrent[:, 2 * n :]
            for i in range(n):
                hat[i] = math.tanh(new[2 * n + i] + last[i])
        else:
            own = before @ recurrent + state_bias
            for i in range(n):
                z[i], r[i] = (1 / (1 + math.exp(-(new[j] + own[j]))) for j in (i, n + i))
                hat[i] = math.tanh(new[2 * n + i] + r[i] * own[2 * n + i])
        state = [z[i] * before[i] + (1 - z[i]) * hat[i] for i in range(n)]
    return np.array(state)


def plain_logits(
    x_TF: np.ndarray | None,
    hlf: np.ndarray,
    w: Weights,
    *,
    bigdl: bool = False,
    masked: bool = True,
) -> np.ndarray:
    """Return the logits of one event."""
    parts = [] if w.kernel is None else [plain_state(x_TF, w, bigdl=bigdl, masked=masked)]
    x = np.concatenate([*parts, *([hlf] if w.with_hlf else [])])
    for number, (kernel, bias) in enumerate(w.dense):
        if number:
            x = np.array([max(value, 0.0) for value in x])
        x = x @ kernel.astype(float) + bias
    return x


# ----- Keras


def _chain(w: Weights, layer: Any) -> list[dict[str, Any]]:
    """Return the layers of the model by ``layer(class, name, below, **options)``."""
    made, parts = [], []
    if w.kernel is not None:
        steps = {"return_sequences": False, "go_backwards": False, "stateful": False}
        how = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
        made = [
            layer("InputLayer", "gru_input", [], shape=[None, N_STEPS, N_PARTICLE]),
            layer("Masking", "masking", ["gru_input"], mask_value=0.0),
            layer("GRU", "gru", ["masking"], units=w.hidden, reset_after=True, **how, **steps),
            layer("Dropout", "dropout", ["gru"], rate=0.2),
        ]
        parts.append("dropout")
    if w.with_hlf:
        made.append(layer("InputLayer", "hlf_input", [], shape=[None, N_HLF]))
        made.append(layer("Dropout", "dropout_1", ["hlf_input"], rate=0.2))
        parts.append("dropout_1")
    last = parts[0]
    if len(parts) == 2:
        made.append(layer("Concatenate", "concatenate", parts, axis=-1))
        last = "concatenate"
    for number, (kernel, _) in enumerate(w.dense):
        name = f"dense_{number}" if number else "dense"
        activation = "relu" if number < len(w.dense) - 1 else "softmax"
        how = {"units": kernel.shape[1], "activation": activation, "use_bias": True}
        made.append(layer("Dense", name, [last], **how))
        last = name
    return made


def keras_2_config(w: Weights) -> dict[str, Any]:
    def layer(kind: str, name: str, below: list[str], **options: Any) -> dict[str, Any]:
        if "shape" in options:
            options["batch_input_shape"] = options.pop("shape")
        nodes = [[[one, 0, 0, {}] for one in below]] if below else []
        config = {"name": name, "trainable": True, "dtype": "float32", **options}
        return {"name": name, "class_name": kind, "config": config, "inbound_nodes": nodes}

    layers = _chain(w, layer)
    inputs = [[one["name"], 0, 0] for one in layers if one["class_name"] == "InputLayer"]
    outputs = [[layers[-1]["name"], 0, 0]]
    model = {"name": "model", "layers": layers, "input_layers": inputs, "output_layers": outputs}
    return {"class_name": "Model", "config": model}


def keras_3_config(w: Weights) -> dict[str, Any]:
    def tensor(name: str) -> dict[str, Any]:
        config = {"shape": [None, 1], "dtype": "float32", "keras_history": [name, 0, 0]}
        return {"class_name": "__keras_tensor__", "config": config}

    def layer(kind: str, name: str, below: list[str], **options: Any) -> dict[str, Any]:
        if "shape" in options:
            options["batch_shape"] = options.pop("shape")
        inputs = [tensor(one) for one in below]
        nodes = []
        if below:
            arguments = [inputs] if kind == "Concatenate" else inputs
            own = {"training": False, "mask": tensor("any")} if kind == "GRU" else {}
            nodes = [{"args": arguments, "kwargs": own}]
        place = {"module": "keras.layers", "registered_name": None}
        dtype = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
        config = {"name": name, "trainable": True, "dtype": dtype, **options}
        about = {"class_name": kind, "config": config, "inbound_nodes": nodes, "name": name}
        return place | about | {"build_config": {"input_shape": [None, 1]}}

    layers = _chain(w, layer)
    for place, one in enumerate(layers):
        if one["class_name"] == "Masking":  # what Keras makes of its mask
            other = layer("NotEqual", "not_equal", ["gru_input"])
            layers[place + 1 : place + 1] = [other, layer("Any", "any", ["not_equal"])]
    inputs = [[one["name"], 0, 0] for one in layers if one["class_name"] == "InputLayer"]
    output = [layers[-1]["name"], 0, 0]
    model = {"name": "functional", "layers": layers, "input_layers": inputs}
    about = {"module": "keras.src.models.functional", "class_name": "Functional"}
    return {**about, "config": {**model, "output_layers": [output]}, "compile_config": {}}


def write_h5(path: Path, w: Weights, *, keras: int = 2, config: Any = None) -> Path:
    """Write a whole model as HDF5; ``config`` replaces its description."""
    config = config or (keras_2_config(w) if keras == 2 else keras_3_config(w))
    ending, cell = (":0", "gru/gru") if keras == 2 else ("", "gru/gru_cell")
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.2.4-tf" if keras == 2 else "3.10.0"
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = (
            json.dumps(config).encode() if keras == 2 else json.dumps(config)
        )
        file.attrs["training_config"] = b"{}"
        above = file.create_group("model_weights")
        names = [one["config"]["name"] for one in config["config"]["layers"]]
        above.attrs["layer_names"] = np.array([name.encode() for name in names])
        for name in names:
            arrays: dict[str, np.ndarray] = {}
            if name == "gru":
                for key, array in (("kernel", w.kernel), ("recurrent_kernel", w.recurrent)):
                    arrays[f"{cell}/{key}{ending}"] = array
                arrays[f"{cell}/bias{ending}"] = w.biases
            elif name.startswith("dense"):
                kernel, bias = w.dense[int(name.partition("_")[2] or 0)]
                arrays = {f"{name}/kernel{ending}": kernel, f"{name}/bias{ending}": bias}
            group = above.create_group(name)
            group.attrs["weight_names"] = np.array([key.encode() for key in arrays] or [], "S")
            for key, array in arrays.items():
                group.create_dataset(key, data=array)
        file.create_group("optimizer_weights").create_dataset("iter:0", data=7)
    return path


def write_keras(
    path: Path, w: Weights, *, above: str = "layers", config: Any = None, version: str = "3.10.0"
) -> Path:
    """Write a zip."""
    stored = io.BytesIO()
    with h5py.File(stored, "w") as file:
        file.create_group("vars")
        file.create_dataset("optimizer/vars/0", data=7)
        for name in ("input_layer", "masking", "dropout", "dropout_1"):
            file.create_group(f"{above}/{name}/vars")
        if w.kernel is not None:
            file.create_group(f"{above}/gru/vars")
            for number, array in enumerate((w.kernel, w.recurrent, w.biases)):
                file.create_dataset(f"{above}/gru/cell/vars/{number}", data=array)
        for place, pair in enumerate(w.dense):
            name = f"dense_{place}" if place else "dense"
            for number, array in enumerate(pair):
                file.create_dataset(f"{above}/{name}/vars/{number}", data=array)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config or keras_3_config(w)))
        archive.writestr("model.weights.h5", stored.getvalue())
    return path


# ----- BigDL: bigdl.proto, and its file of weights

BIGDL, ZOO = "com.intel.analytics.bigdl.nn", "com.intel.analytics.zoo.pipeline.api.keras.layers"


def _varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def _message(*fields: tuple[int, int | bytes | str]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number * 8) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number * 8 + 2) + _varint(len(data)) + data
    return out


class BigdlWriter:
    """A module and its storages: one for all weights, as after a training, or one each."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.storages: list[list[np.ndarray]] = []
        self.tensors: list[bytes] = []

    def tensor(self, array: np.ndarray) -> bytes:
        if not self.storages or not self.shared:
            self.storages.append([])
        own = self.storages[-1]
        first = 1 + sum(one.size for one in own)
        own.append(array.astype(np.float32).ravel())
        strides = [stride // array.itemsize for stride in np.ascontiguousarray(array).strides]
        packed = [b"".join(map(_varint, numbers)) for numbers in (array.shape, strides)]
        number = 1000 + len(self.storages)
        storage = _message((1, 2), (9, number))
        fields = [(1, 2), (2, packed[0]), (3, packed[1]), (4, first), (5, array.ndim)]
        made = _message(*fields, (6, array.size), (8, storage), (9, 5000 + len(self.tensors)))
        self.tensors.append(made)
        return made

    def module(
        self,
        kind: str,
        below: Sequence[bytes] = (),
        tensors: Sequence[bytes] = (),
        attributes: Sequence[tuple[str, bytes]] = (),
    ) -> bytes:
        texts = _message((2, 15), (1, 1), (7, "Float"))
        every = [("module_tags", _message((1, 15), (15, texts))), *attributes]
        entries = [(8, _message((1, name), (2, value))) for name, value in every]
        middle = [(2, one) for one in below] + [(7, kind)] + entries + [(9, "0.10.0"), (10, 0)]
        last = [(12, 77), (15, 1)] + [(16, one) for one in tensors] if tensors else [(12, 77)]
        return _message((1, "some_name"), *middle, *last)

    def attribute(self, module: bytes) -> bytes:
        return _message((1, 13), (13, module))

    def linear(self, kernel: np.ndarray, bias: np.ndarray | None = None) -> bytes:
        """A layer with the weights of Keras' kernel, whose rows are the inputs."""
        arrays = [kernel.T] if bias is None else [kernel.T, bias]
        return self.module(f"{BIGDL}.Linear", tensors=[self.tensor(array) for array in arrays])

    def gru(self, w: Weights, *, gate: str = "HardSigmoid", cell: str = "GRU") -> bytes:
        n = w.hidden
        r_z_hat = np.r_[n : 2 * n, :n, 2 * n : 3 * n]
        recurrent = w.recurrent[:, r_z_hat]
        before = self.linear(w.kernel[:, r_z_hat], w.biases[0][r_z_hat])
        gates = self.linear(recurrent[:, : 2 * n])
        own = self.linear(recurrent[:, 2 * n :])
        graph = self.module(f"{BIGDL}.StaticGraph", [gates, own])
        shown = [
            ("cell", self.attribute(graph)),
            ("activation", self.attribute(self.module(f"{BIGDL}.Tanh"))),
            ("innerActivation", self.attribute(self.module(f"{BIGDL}.{gate}"))),
            ("preTopology", self.attribute(before)),
        ]
        again = [self.tensor(recurrent[:, : 2 * n].T), self.tensor(recurrent[:, 2 * n :].T)]
        topology = self.module(f"{BIGDL}.{cell}", tensors=again, attributes=shown)
        inner = [("topology", self.attribute(topology)), ("preTopology", self.attribute(before))]
        recurrent_layer = self.module(f"{BIGDL}.Recurrent", attributes=inner)
        chain = [recurrent_layer, self.module(f"{BIGDL}.Select")]
        return self.module(f"{ZOO}.GRU", [self.module(f"{BIGDL}.Sequential", chain)])

    def dense(self, kernel: np.ndarray, bias: np.ndarray, activation: str) -> bytes:
        chain = [self.linear(kernel, bias), self.module(f"{BIGDL}.{activation}")]
        inner = self.module("com.intel.analytics.bigdl.nn.keras.Sequential", chain)
        return self.module(f"{ZOO}.Dense", [inner])

    def root(self, w: Weights, **gru: str) -> bytes:
        branches = []
        if w.kernel is not None:
            chain = [self.module(f"{ZOO}.Masking"), self.gru(w, **gru)]
            branches.append(self.module(f"{ZOO}.Sequential", chain))
        if w.with_hlf:
            branches.append(self.module(f"{ZOO}.Dropout"))
        layers = branches
        if len(branches) == 2:
            array = _message((1, 2), (2, 13), *((13, one) for one in branches))
            layers = [self.module(f"{ZOO}.Merge", attributes=[("layers", _message((15, array)))])]
        for number, (kernel, bias) in enumerate(w.dense):
            activation = "ReLU" if number < len(w.dense) - 1 else "SoftMax"
            layers = [*layers, self.dense(kernel, bias, activation)]
        return self.module("com.intel.analytics.zoo.pipeline.api.keras.models.Sequential", layers)

    def global_storage(self) -> bytes:
        """The attribute with all numbers in it."""
        entries = []
        for number, arrays in enumerate(self.storages, 1):
            floats = np.concatenate(arrays).astype("<f4").tobytes()
            tensor = _message((8, _message((1, 2), (2, floats), (9, 1000 + number))))
            entries.append((2, _message((1, str(number)), (2, _message((10, tensor))))))
        value = _message((14, _message((1, "global_storage"), *entries)))
        return _message((8, _message((1, "global_storage"), (2, value))))

    def weights(self) -> bytes:
        """The second file."""
        out = struct.pack(">ii", 3721, len(self.storages) + 2)
        out += struct.pack(">iii", 8, 5, 2) + struct.pack(">ii", 1, 2)  # integers, and a text
        out += struct.pack(">iii", 9, 4, 1) + struct.pack(">i", 3) + b"abc"
        for number, arrays in enumerate(self.storages, 1):
            floats = np.concatenate(arrays)
            out += struct.pack(">iii", 1000 + number, 0, floats.size)
            out += floats.astype(">f4").tobytes()
        return out + struct.pack(">i", 16) + hashlib.md5(out).digest()


def write_bigdl(
    path: Path, w: Weights, *, shared: bool = True, inline: bool = False, **gru: str
) -> Path:
    """Write a module, and its weights next to it unless they are ``inline``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = BigdlWriter(shared=shared)
    module = writer.root(w, **gru)
    path.write_bytes(module + (writer.global_storage() if inline else b""))
    if not inline:
        second = path.parent / "weight" if path.name == "module" else path.with_suffix(".bin")
        second.write_bytes(writer.weights())
    return path
