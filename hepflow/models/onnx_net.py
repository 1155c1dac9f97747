"""An exported net, run without torch: a file from anywhere, whose own description is checked."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hepflow.errors import ConfigError, DataError, one_line
from hepflow.models.drift import Spread
from hepflow.models.inputs import Inputs
from hepflow.system import seal

METADATA = "hepflow"
ZIP = b"PK\x03\x04"  # first bytes of a torch checkpoint
_ELSEWHERE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""Key of a tensor's place in another file, as Protobuf writes a string in a field number 1."""
GIVE = "Write one with `hepflow export`"


class OnnxNet:
    """An exported net, with the logits of its checkpoint.

    The file is read as ONNX and JSON, never as pickle, and external data files are not opened.
    ``threads`` are those of the arithmetic; 0: one per core.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            content = path.read_bytes()
        except IsADirectoryError as error:
            model = path / "model.onnx"
            raise DataError(f"{path}: a folder, not a model. Give its file {model}.") from error
        except OSError as error:
            advice = f"{GIVE}, or train one with `hepflow train fit`."
            raise DataError(f"{path}: no model here ({error.strerror}). {advice}") from error
        if content.startswith(ZIP):
            advice = f"Convert it with `hepflow export --run {path}`."
            raise DataError(f"{path}: a checkpoint, not an ONNX model. {advice}")
        self.session = session_of(content, path, threads)
        self.path = path
        self.identity = hashlib.blake2b(content, digest_size=8).hexdigest()
        """Hash of the file."""
        try:
            about = json.loads(self.session.get_modelmeta().custom_metadata_map[METADATA])
            self.inputs = Inputs.from_dict(about["inputs"])
            self.reads: tuple[str, ...] = tuple(about["reads"])
            self.net = str(about["net"])
            self.spread = Spread.from_dict(about["spread"]) if about.get("spread") else None
            """Spread of the training events' high-level features; None if unknown."""
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = "not one that hepflow exported: its metadata do not describe its inputs"
            raise DataError(f"{path}: an ONNX model, but {why}. {GIVE}.") from error
        self.physics = str(about.get("physics", ""))
        """``package.module:function@hash`` that made the training features; empty if unknown."""
        self.weights = str(about.get("weights", ""))
        """Hash of the weights, see `hepflow.models.net.weights_hash`; empty if unknown."""
        n_hlf, n_particle = len(self.inputs.hlf), len(self.inputs.particles)
        known = {"hlf": (2, n_hlf), "particles": (3, n_particle), "lengths": (1,)}
        expected = {name: shape for name, shape in known.items() if name in self.reads}
        if (found := _shapes(self.session.get_inputs())) != expected:
            why = f"takes {found}, its metadata describe {expected} (axes, features)"
            raise DataError(f"{path}: the net {why}. Export it again.")
        if self.spread is not None and len(self.spread.edges) != n_hlf:
            why = f"has {n_hlf} features, its metadata the spread of {len(self.spread.edges)}"
            raise DataError(f"{path}: the net {why}. Export it again.")
        n_classes = len(self.inputs.classes)
        if (found := _shapes(self.session.get_outputs())) != {"logits": (2, n_classes)}:
            why = f"returns {found}, not logits of {n_classes} classes"
            raise DataError(f"{path}: the net {why}. Export it again.")

    def logits(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return logits (events, classes) float32 of features by name."""
        given = {name: features[name] for name in self.reads}
        try:
            (logits_BK,) = self.session.run(["logits"], given)
        except Exception as error:  # of onnxruntime, which has no common base
            why = f"the net cannot be run ({one_line(error)[:200]})"
            raise ConfigError(f"{self.path}: {why}. Export it again.") from error
        wanted = len(features["hlf"]), len(self.inputs.classes)
        if np.shape(logits_BK) != wanted:
            what = f"the net returns {np.shape(logits_BK)} numbers, not {wanted}"
            raise ConfigError(f"{self.path}: {what}. Export it again.")
        return np.asarray(logits_BK)


def session_of(content: bytes, path: Path, threads: int = 0) -> Any:
    """Return a session that runs a model on the CPU; ``path`` is for messages.

    onnxruntime would open the files that a model names, and in the working directory.
    """
    if _ELSEWHERE.search(content) or content[4:8] == b"ORTM":
        raise DataError(f"{path}: an ONNX model with numbers in another file. {GIVE}.")
    seal.check(content, path, f"{GIVE} again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors become exceptions below
    # It would keep a plan of the memory for every shape of a batch: 35 MB after 1,400 lengths.
    options.enable_mem_pattern = False
    cpu = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(content, options, providers=cpu)
    except Exception as error:
        why = f"not an ONNX model, or a damaged one ({str(error).splitlines()[0][:200]})"
        raise DataError(f"{path}: {why}. {GIVE}.") from error


def _shapes(values: Iterable[Any]) -> dict[str, tuple[int, ...]]:
    """Return the number of axes, and the last axis where it is fixed (not for the lengths)."""
    found = {}
    for value in values:
        fixed = len(value.shape) > 1 and isinstance(value.shape[-1], int)
        found[value.name] = (len(value.shape), *(value.shape[-1:] if fixed else ()))
    return found
