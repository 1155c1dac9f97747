"""A published net in NumPy: a GRU over the particles, then dense layers, up to the logits."""

# B events, T steps, F features, H hidden, N inputs, M outputs, K classes

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepflow.schema import CLASSES, HLF, PARTICLE

Part = Literal["particles", "hlf"]
_NAMES: dict[tuple[Part, ...], str] = {("particles",): "sequence", ("hlf",): "HLF"}


@dataclass(frozen=True)
class Gru:
    """A recurrent layer. Of each matrix the columns are: gate z, gate r, candidate."""

    kernel: np.ndarray
    """(F, 3H) float32, as all others"""
    recurrent: np.ndarray
    """(H, 3H)"""
    bias: np.ndarray
    """(3H)"""
    recurrent_bias: np.ndarray | None
    """(3H) if the gate r acts after the product with ``recurrent``, None if before"""
    hard_gates: bool = False
    """Whether the gates are hard sigmoids, clip(0.2 x + 0.5, 0, 1)"""
    skip_zeros: bool = False
    """Whether a step with zeros only leaves the state as it is (Keras' Masking)"""

    def last_state(self, x_BTF: np.ndarray) -> np.ndarray:
        """Return the state after the last step, (B, H)."""
        gate = _hard_sigmoid if self.hard_gates else _sigmoid
        n = len(self.recurrent)
        gates, candidate = slice(2 * n), slice(2 * n, None)
        h_BH = np.zeros((len(x_BTF), n), np.float32)
        for x_BF in np.ascontiguousarray(x_BTF.transpose(1, 0, 2), np.float32):
            new_B3H = x_BF @ self.kernel + self.bias
            if self.recurrent_bias is None:
                zr_B2H = gate(new_B3H[:, gates] + h_BH @ self.recurrent[:, gates])
                old_BH = (zr_B2H[:, n:] * h_BH) @ self.recurrent[:, candidate]
            else:
                old_B3H = h_BH @ self.recurrent + self.recurrent_bias
                zr_B2H = gate(new_B3H[:, gates] + old_B3H[:, gates])
                old_BH = zr_B2H[:, n:] * old_B3H[:, candidate]
            hat_BH = np.tanh(new_B3H[:, candidate] + old_BH)
            after_BH = hat_BH + zr_B2H[:, :n] * (h_BH - hat_BH)
            if self.skip_zeros:
                after_BH = np.where(x_BF.any(axis=1)[:, None], after_BH, h_BH)
            h_BH = after_BH
        return h_BH


@dataclass(frozen=True)
class Dense:
    """A dense layer."""

    kernel: np.ndarray  # (N, M) float32
    bias: np.ndarray  # (M)


@dataclass(frozen=True)
class PublishedNet:
    """The net of a file; a ValueError if it is none of the kind that was published."""

    source: str
    """Program that wrote the file, such as ``Keras 2.2.4-tf``"""
    parts: tuple[Part, ...]
    """Inputs of the first dense layer in their order; ``particles`` is the state of the GRU"""
    gru: Gru | None
    dense: tuple[Dense, ...]
    """Layers with ReLU between them; softmax follows the last one"""

    def __post_init__(self) -> None:
        if sorted(self.parts) not in (["hlf"], ["hlf", "particles"], ["particles"]):
            raise ValueError(f"its inputs are {', '.join(self.parts) or 'none'}")
        if (self.gru is not None) != ("particles" in self.parts):
            raise ValueError("a GRU and an input of particles do not occur together")
        widths = {"hlf": len(HLF)}
        if self.gru is not None:
            self._check_gru(self.gru)
            widths["particles"] = len(self.gru.recurrent)
        width = sum(widths[part] for part in self.parts)
        for layer in self.dense:
            if layer.kernel.ndim != 2 or len(layer.kernel) != width:
                shape = _shape(layer.kernel)
                raise ValueError(f"a dense layer of shape {shape} follows {width} numbers")
            width = layer.kernel.shape[1]
            if layer.bias.shape != (width,):
                raise ValueError(f"a dense layer to {width} has a bias of {_shape(layer.bias)}")
        if not self.dense or width != len(CLASSES):
            raise ValueError(f"it has {width} outputs, not one for each of {', '.join(CLASSES)}")
        if not all(np.isfinite(array).all() for array in self._arrays):
            raise ValueError("it has weights that are not finite: the training diverged")

    def _check_gru(self, gru: Gru) -> None:
        n = len(gru.recurrent)
        biases = [array for array in (gru.bias, gru.recurrent_bias) if array is not None]
        shapes = [gru.recurrent.shape == (n, 3 * n), *(b.shape == (3 * n,) for b in biases)]
        if not all(shapes) or gru.kernel.ndim != 2 or gru.kernel.shape[1] != 3 * n:
            what = f"{_shape(gru.kernel)}, {_shape(gru.recurrent)}"
            raise ValueError(f"the weights of its GRU do not fit each other ({what})")
        if len(gru.kernel) != len(PARTICLE):
            what = f"{len(gru.kernel)} features of a particle, not {len(PARTICLE)}"
            raise ValueError(f"its GRU takes {what}")

    @property
    def _arrays(self) -> list[np.ndarray]:
        arrays = [array for layer in self.dense for array in (layer.kernel, layer.bias)]
        if (gru := self.gru) is not None:
            own = (gru.kernel, gru.recurrent, gru.bias, gru.recurrent_bias)
            arrays += [array for array in own if array is not None]
        return arrays

    @property
    def name(self) -> str:
        """Name of the classifier in the published tables."""
        return _NAMES.get(self.parts, "inclusive")

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(array.size for array in self._arrays)

    def logits(self, particles_BTF: np.ndarray | None, hlf_BF: np.ndarray) -> np.ndarray:
        """Return (B, K) float32, the classes in the order of `hepflow.schema.CLASSES`."""
        given: dict[str, np.ndarray] = {"hlf": hlf_BF.astype(np.float32)}
        if self.gru is not None:
            assert particles_BTF is not None
            given["particles"] = self.gru.last_state(particles_BTF)
        x_BN = np.concatenate([given[part] for part in self.parts], axis=1)
        for number, layer in enumerate(self.dense):
            x_BN = (np.maximum(x_BN, 0) if number else x_BN) @ layer.kernel + layer.bias
        return x_BN


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)  # without overflow


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(0.2 * x + 0.5, 0, 1)


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "one number"
