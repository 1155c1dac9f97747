"""Keras' files of a net -> the net. Nothing in a file is executed.

    .h5      model_config, keras_version       attributes; the former is JSON
             model_weights/LAYER               its attribute weight_names has the paths below it
    .keras   a zip of config.json, metadata.json and
             model.weights.h5                  layers/CLASS[_NUMBER]/[cell/]vars/0, 1, ...

Keras 2 wrote HDF5 under both names. A file that is not understood raises an error of `WRONG`.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from hepflow.models.cern.net import Dense, Gru, Part, PublishedNet
from hepflow.schema import HLF, MAX_PARTICLES, PARTICLE

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"  # first bytes
WRONG = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)
_MAX_BYTES = 2**24  # of a member of a zip
_MAX_NUMBERS = 10**6  # of an array
_ABOVE = ("layers", "_layer_checkpoint_dependencies")  # the latter until Keras 2.13
_NAMES = ("kernel", "recurrent_kernel", "bias")
_INPUTS: Mapping[tuple[int | None, ...], Part] = {
    (len(HLF),): "hlf",
    (MAX_PARTICLES, len(PARTICLE)): "particles",
    (None, len(PARTICLE)): "particles",
}


@dataclass(frozen=True)
class _Layer:
    name: str
    kind: str  # its class
    options: Mapping[str, Any]
    below: list[str]  # names of the layers whose output it takes


_Layers = Mapping[str, _Layer]
_Weights = Callable[[_Layer], dict[str, np.ndarray]]


def read_h5(content: bytes) -> PublishedNet:
    """Return the net of an HDF5 file that has a whole model."""
    with h5py.File(io.BytesIO(content), "r") as file:
        if "model_config" not in file.attrs or "model_weights" not in file:
            raise ValueError("an HDF5 file without model_config and model_weights")
        layers, output = _layers(json.loads(_text(file.attrs["model_config"])))

        def weights(layer: _Layer) -> dict[str, np.ndarray]:
            group = _inside(file, f"model_weights/{layer.name}", h5py.Group)
            paths = [_text(path) for path in group.attrs["weight_names"]]
            names = [path.rpartition("/")[2].partition(":")[0] for path in paths]
            return {name: _array(group, path) for name, path in zip(names, paths, strict=True)}

        source = f"Keras {_text(file.attrs.get('keras_version', '2'))}"
        return _net(layers, output, weights, source)


def read_keras(content: bytes) -> PublishedNet:
    """Return the net of a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        layers, output = _layers(json.loads(_member(archive, "config.json")))
        about = json.loads(_member(archive, "metadata.json"))
        stored = _member(archive, "model.weights.h5")
    places: dict[str, str] = {}  # layer -> its group
    numbers: dict[str, int] = {}
    for layer in layers.values():
        number = numbers[layer.kind] = numbers.get(layer.kind, -1) + 1
        kind = layer.kind.lower()  # in snake case; all with weights are one word
        places[layer.name] = f"{kind}_{number}" if number else kind
    with h5py.File(io.BytesIO(stored), "r") as file:
        above = next((name for name in _ABOVE if name in file), None)
        if above is None:
            raise ValueError("model.weights.h5 has no layers")

        def weights(layer: _Layer) -> dict[str, np.ndarray]:
            cell = "/cell" if layer.kind == "GRU" else ""
            group = _inside(file, f"{above}/{places[layer.name]}{cell}/vars", h5py.Group)
            names = _NAMES if layer.kind == "GRU" else (_NAMES[0], _NAMES[2])
            return {name: _array(group, str(i)) for i, name in enumerate(names) if str(i) in group}

        return _net(layers, output, weights, f"Keras {about['keras_version']}")


def _net(layers: _Layers, output: str, weights: _Weights, source: str) -> PublishedNet:
    """Follow the layers from the output to the inputs."""
    dense: list[Dense] = []
    activation, layer = "softmax", layers[output]
    while layer.kind in {"Dense", "Dropout"}:
        if layer.kind == "Dense":
            _require(layer, activation=activation, use_bias=True)
            own = weights(layer)
            dense.insert(0, Dense(own["kernel"], own["bias"]))
            activation = "relu"
        layer = _only(layer, layers)
    joined = [layers[name] for name in layer.below] if layer.kind == "Concatenate" else [layer]
    gru, parts = None, []
    for branch in joined:
        part, above = _branch(branch, layers)
        parts.append(part)
        if above is not None:
            gru = _gru(above, layers, weights(above))
    return PublishedNet(source, tuple(parts), gru, tuple(dense))


def _branch(layer: _Layer, layers: _Layers) -> tuple[Part, _Layer | None]:
    """Return the input of a branch, and its GRU if it has one."""
    gru = None
    while layer.kind in {"Dropout", "Masking", "GRU"}:
        if layer.kind == "GRU":
            if gru is not None:
                raise ValueError("it has a GRU after another one")
            gru = layer
        layer = _only(layer, layers)
    if layer.kind != "InputLayer":
        raise ValueError(
            f"it has a layer {layer.kind} ({layer.name}), which none of them has there"
        )
    shape = layer.options.get("batch_shape") or layer.options["batch_input_shape"]
    part = _INPUTS.get(tuple(shape[1:]))
    if part is None:
        raise ValueError(f"its input {layer.name} has the shape {shape[1:]}")
    if (part == "particles") != (gru is not None):
        raise ValueError(f"its input {layer.name} of {part} is not read as in any of them")
    return part, gru


def _gru(layer: _Layer, layers: _Layers, own: Mapping[str, np.ndarray]) -> Gru:
    fixed = {"return_sequences": False, "go_backwards": False, "use_bias": True}
    _require(layer, activation="tanh", recurrent_activation="sigmoid", **fixed)
    below = _only(layer, layers)
    while below.kind == "Dropout":
        below = _only(below, layers)
    masked = below.kind == "Masking"
    if masked:
        _require(below, mask_value=0)
    bias = own["bias"]
    if not layer.options.get("reset_after", False):
        return Gru(own["kernel"], own["recurrent_kernel"], bias, None, skip_zeros=masked)
    input_bias, recurrent_bias = bias
    weights = own["kernel"], own["recurrent_kernel"]
    return Gru(*weights, input_bias, recurrent_bias, skip_zeros=masked)


def _require(layer: _Layer, **options: Any) -> None:
    for name, value in options.items():
        if (found := layer.options.get(name)) != value:
            what = f"{name} {found!r}, not {value!r}"
            raise ValueError(f"its layer {layer.kind} ({layer.name}) has {what}")


def _only(layer: _Layer, layers: _Layers) -> _Layer:
    if len(layer.below) != 1:
        count = len(layer.below)
        raise ValueError(f"its layer {layer.kind} ({layer.name}) has {count} inputs, not one")
    return layers[layer.below[0]]


def _layers(config: Any) -> tuple[_Layers, str]:
    """Return the layers of a model by name, in its order, and the name of the last one."""
    kind, model = config["class_name"], config["config"]
    found: dict[str, _Layer] = {}
    if kind == "Sequential":
        below: list[str] = []
        for entry in model if isinstance(model, list) else model["layers"]:
            options = entry["config"]
            if not below and entry["class_name"] != "InputLayer":
                found["input"] = _Layer("input", "InputLayer", options, [])
                below = ["input"]
            layer = _Layer(options["name"], entry["class_name"], options, below)
            found[layer.name], below = layer, [layer.name]
        return found, layer.name
    if kind not in {"Functional", "Model"}:
        raise ValueError(f"it is a {kind}, neither a Functional nor a Sequential model")
    for entry in model["layers"]:
        name = entry.get("name") or entry["config"]["name"]
        below = [own for node in entry["inbound_nodes"] for own in _tensors(node)]
        if missing := [own for own in below if own not in found]:  # or a circle
            raise ValueError(f"its layer {name} follows {missing[0]}, which is not above it")
        found[name] = _Layer(name, entry["class_name"], entry["config"], below)
    outputs = list(_tensors(model["output_layers"]))
    if len(outputs) != 1:
        raise ValueError(f"it has {len(outputs)} outputs, not one")
    return found, outputs[0]


def _tensors(node: Any) -> Iterator[str]:
    """Yield the layers that made the arguments of a call: ``[name, node, tensor, ...]`` each."""
    if isinstance(node, Mapping):  # Keras 3
        yield from _tensors(node.get("args") or node.get("config", {}).get("keras_history"))
    elif isinstance(node, list):
        if len(node) > 1 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
        else:
            for one in node:
                yield from _tensors(one)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    about = archive.getinfo(name)
    if about.file_size > _MAX_BYTES:
        raise ValueError(f"{name} has {about.file_size:,} bytes")
    return archive.read(about)


def _array(group: Any, path: str) -> np.ndarray:
    """Return an array that is in the file itself, not in another one that it names."""
    array = _inside(group, path, h5py.Dataset)
    if array.external or array.is_virtual or array.size > _MAX_NUMBERS or array.dtype.kind != "f":
        raise ValueError(f"{path} is no array of weights")
    return np.asarray(array[()], np.float32)


def _inside(group: Any, path: str, kind: type) -> Any:
    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or name not in group:
            raise ValueError(f"no {path} among its weights")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} is a link")
        group = group[name]
    if not isinstance(group, kind):
        raise ValueError(f"{path} is no {kind.__name__.lower()}")
    return group


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
