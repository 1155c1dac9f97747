"""An exported net, run without torch.

The file may come from anywhere: its description of itself is checked before use.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hepflow.errors import DataError
from hepflow.models.drift import Spread
from hepflow.models.inputs import Inputs

METADATA = "hepflow"
ZIP = b"PK\x03\x04"
"""First bytes of a torch checkpoint."""


class OnnxNet:
    """An exported net, with the logits of its checkpoint.

    Parameters
    ----------
    path : Path
        Output of `hepflow export`. It is read as ONNX and JSON, never as pickle, and external
        data files are not opened.
    threads : int
        Threads of the arithmetic; 0: one per core.

    Raises
    ------
    DataError
        The file is not ONNX, not from hepflow, or its inputs or outputs differ from its
        description.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            content = path.read_bytes()
        except IsADirectoryError as error:
            model = path / "model.onnx"
            raise DataError(f"{path}: a folder, not a model. Give its file {model}.") from error
        except OSError as error:
            raise DataError(
                f"{path}: no model here ({error.strerror}). Write one with `hepflow export`, "
                "or train one with `hepflow train fit`."
            ) from error
        if content.startswith(ZIP):
            raise DataError(
                f"{path}: a checkpoint, not an ONNX model. "
                f"Convert it with `hepflow export --run {path}`."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors become exceptions below
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = str(error).splitlines()[0][:200]
            raise DataError(
                f"{path}: not an ONNX model, or a damaged one ({reason}). "
                "Write one with `hepflow export`."
            ) from error
        self.path = path
        self.identity = hashlib.blake2b(content, digest_size=8).hexdigest()
        """Hash of the file."""
        try:
            about = json.loads(self.session.get_modelmeta().custom_metadata_map[METADATA])
            self.inputs = Inputs.from_dict(about["inputs"])
            self.reads: tuple[str, ...] = tuple(about["reads"])
            self.net = str(about["net"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{path}: an ONNX model, but not one that hepflow exported: its metadata do not "
                "describe its inputs. Write one with `hepflow export`."
            ) from error
        self.physics = str(about.get("physics", ""))
        """``package.module:function@hash`` that made the training features; empty if unknown."""
        self.weights = str(about.get("weights", ""))
        """Hash of the weights, see `hepflow.models.net.weights_hash`; empty if unknown."""
        self.spread = Spread.from_dict(about["spread"]) if about.get("spread") else None
        """Spread of the training events' high-level features; None if unknown."""
        self._check_shapes()

    def logits(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return logits (events, classes) float32 of features by name."""
        (logits_BK,) = self.session.run(["logits"], {name: features[name] for name in self.reads})
        return np.asarray(logits_BK)

    def _check_shapes(self) -> None:
        expected: dict[str, tuple[int, ...]] = {
            "hlf": (2, len(self.inputs.hlf)),
            "particles": (3, len(self.inputs.particles)),
            "lengths": (1,),
        }
        expected = {name: shape for name, shape in expected.items() if name in self.reads}
        found = _shapes(self.session.get_inputs())
        if found != expected:
            raise DataError(
                f"{self.path}: the net takes {found}, its metadata describe {expected} "
                "(axes, features). Export it again."
            )
        found = _shapes(self.session.get_outputs())
        if found != {"logits": (2, len(self.inputs.classes))}:
            raise DataError(
                f"{self.path}: the net returns {found}, not logits of {len(self.inputs.classes)} "
                "classes. Export it again."
            )


def _shapes(values: Iterable[Any]) -> dict[str, tuple[int, ...]]:
    """Return the number of axes, and the last axis where it is fixed (not for the lengths)."""
    found = {}
    for value in values:
        fixed = len(value.shape) > 1 and isinstance(value.shape[-1], int)
        found[value.name] = (len(value.shape), *(value.shape[-1:] if fixed else ()))
    return found
