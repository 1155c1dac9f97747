"""An exported net, run without torch. The file may come from anywhere: what it says of itself is checked before it is believed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from hepflow.errors import DataError
from hepflow.models.drift import Spread
from hepflow.models.inputs import Inputs

METADATA = "hepflow"
ZIP = b"PK\x03\x04"
"""With which the checkpoints of torch begin."""
READABLE = ("hlf", "particles", "lengths")
TOLERANCE = 1e-4
"""Relative difference at which the normalisation in a file is another one than its statistics say (both are rounded to 32 bits)."""


class OnnxNet:
    """An exported net: the same logits as the checkpoint's.

    Parameters
    ----------
    path : Path
        What `hepflow export` wrote. It is read as ONNX and as JSON, never as pickle; data outside the file are not followed.
    threads : int
        For its arithmetic; 0: as many as there are cores.

    Raises
    ------
    DataError
        It is not an ONNX file, not one of hepflow's, or its inputs, outputs or normalisation are not those that it names.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            content = path.read_bytes()
        except IsADirectoryError as error:
            raise DataError(
                f"{path}: a folder, not a model. Give the file in it, such as {path / 'model.onnx'}."
            ) from error
        except OSError as error:
            raise DataError(
                f"{path}: no model here ({error.strerror}). Write one with `hepflow export`, or train one with `hepflow train fit`."
            ) from error
        if content.startswith(ZIP):
            raise DataError(
                f"{path}: a checkpoint, not an ONNX model. Make one of it with `hepflow export --run {path}`."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its errors are raised here, in a line
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = str(error).splitlines()[0][:200]
            raise DataError(
                f"{path}: not an ONNX model, or a damaged one ({reason}). Write one with `hepflow export`."
            ) from error
        self.path = path
        self.identity = hashlib.blake2b(content, digest_size=8).hexdigest()
        """Hash of the file."""
        about = _about(path, self.session.get_modelmeta().custom_metadata_map)
        self.inputs = Inputs.from_dict(about["inputs"])
        self.reads: tuple[str, ...] = tuple(about["reads"])
        self.net = str(about["net"])
        self.physics = str(about.get("physics", ""))
        """``package.module:function@hash`` that made the features of its training; empty where the file does not say."""
        self.weights = str(about.get("weights", ""))
        """Hash of the weights, as `hepflow.models.net.weights_hash` makes it; empty where the file does not say."""
        self.spread = Spread.from_dict(about["spread"]) if about.get("spread") else None
        """How the training events' high-level features are spread; None where the file does not say."""
        self._check_shapes()
        if about["arguments"].get("scale") == "standard":
            _check_normalisation(path, content, self.inputs)

    def logits(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits (events, classes) float32, of features by name."""
        (logits_BK,) = self.session.run(["logits"], {name: features[name] for name in self.reads})
        return np.asarray(logits_BK)

    def _check_shapes(self) -> None:
        wanted: dict[str, tuple[int, ...]] = {
            "hlf": (2, len(self.inputs.hlf)),
            "particles": (3, len(self.inputs.particles)),
            "lengths": (1,),
        }
        found = {
            item.name: (len(item.shape), *_width(item.shape)) for item in self.session.get_inputs()
        }
        expected = {name: wanted[name] for name in self.reads if name in READABLE}
        if found != expected:
            raise DataError(
                f"{self.path}: it takes {found}, what it says of itself means {expected} (axes, features). Export it again."
            )
        outputs = {
            item.name: (len(item.shape), *_width(item.shape)) for item in self.session.get_outputs()
        }
        if outputs != {"logits": (2, len(self.inputs.classes))}:
            raise DataError(
                f"{self.path}: it gives {outputs}, not logits of {len(self.inputs.classes)} classes. Export it again."
            )


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What hepflow wrote into the file's metadata."""
    try:
        about: dict[str, Any] = json.loads(metadata[METADATA])
        missing = {"inputs", "reads", "net", "arguments"} - about.keys()
        Inputs.from_dict(about["inputs"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: an ONNX model, but not one that hepflow exported: it does not say what it reads. Write one with `hepflow export`."
        ) from error
    if missing:
        raise DataError(
            f"{path}: it says nothing of {', '.join(sorted(missing))}. Export it again with this version of hepflow."
        )
    return about


def _width(shape: list[Any]) -> tuple[int, ...]:
    """The last axis, which is fixed for all but the lengths."""
    return (int(shape[-1]),) if len(shape) > 1 and isinstance(shape[-1], int) else ()


def _check_normalisation(path: Path, content: bytes, inputs: Inputs) -> None:
    """The constants that the net subtracts and divides by against the statistics that the file names.

    Raises
    ------
    DataError
        They differ: features would be normalised in another way than in the training.
    """
    constants = {tensor.name: tensor for tensor in onnx.load_from_string(content).graph.initializer}
    for layer, group in (("norm_hlf", "hlf"), ("norm_particles", "particles"), ("norm", "")):
        if f"{layer}.shift" not in constants or f"{layer}.width" not in constants:
            continue
        shift, width = (
            onnx.numpy_helper.to_array(constants[f"{layer}.{name}"]) for name in ("shift", "width")
        )
        which = group or ("hlf" if len(shift) == len(inputs.hlf) else "particles")
        mean, std = (
            np.asarray(inputs.statistics[which][name], dtype=np.float64) for name in ("mean", "std")
        )
        std = np.where(std > 0, std, 1.0)
        good = (
            shift.shape == mean.shape
            and np.all(np.abs(shift - mean) <= TOLERANCE * std)
            and np.allclose(width, std, rtol=TOLERANCE)
        )
        if not good:
            raise DataError(
                f"{path}: the normalisation of {which} in it is not that of the statistics it names. Export it again from its run."
            )
