"""Physics by name: ``corrected``, ``reference``, or a function of the user's own."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import awkward as ak

from hepflow import schema
from hepflow.errors import ConfigError, DataError
from hepflow.physics import columns, definitions, features, isolation, kinematics, selection
from hepflow.physics.features import FeatureSet, compute, hlf_features
from hepflow.schema import PARTICLE, Feature

Physics = Callable[[ak.Array, str], FeatureSet]
"""(a chunk of events, definitions) -> features; see `hepflow.physics.features.compute`."""


def load(name: str | None) -> Physics:
    """The function that makes features.

    Parameters
    ----------
    name : str or None
        ``package.module:function``, found on the Python path or in the working directory; None: hepflow's own.

    Raises
    ------
    ConfigError
        There is no such module or function.
    """
    return compute if name is None else _resolve(name)[1]


def names(
    name: str | None, definitions_name: str, no_events: ak.Array
) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    """High-level and particle features that the physics makes, told from what it returns for ``no_events``."""
    if name is None:
        return hlf_features(definitions_name), PARTICLE
    made = check(load(name)(no_events, definitions_name), 0, name)
    return tuple(made.hlf_features), tuple(made.particle_features)


def identity(name: str | None) -> str:
    """Name and hash of the source of the physics: part of a store's provenance.

    Raises
    ------
    ConfigError
        There is no such module or function.
    """
    if name is None:
        sources = [
            inspect.getsource(module).encode()
            for module in (columns, definitions, features, isolation, kinematics, selection)
        ]
        caps = repr((schema.MAX_TRACKS, schema.MAX_PHOTONS, schema.MAX_NEUTRALS)).encode()
        return f"{compute.__module__}:{compute.__name__}@{_hash(*sources, caps)}"
    module, _ = _resolve(name)
    return f"{name}@{_hash(inspect.getsource(module).encode())}"


def check(made: FeatureSet, n_events: int, name: str) -> FeatureSet:
    """A user's features, if they keep the contract.

    Raises
    ------
    DataError
        They do not, and how.
    """
    kept = len(made.index)
    rows = len(made.particles)
    expected = {
        "hlf": (made.hlf.shape, (kept, len(made.hlf_features))),
        "particles": (made.particles.shape, (rows, len(made.particle_features))),
        "offsets": (made.offsets.shape, (kept + 1,)),
    }
    for field, (got, wanted) in expected.items():
        if got != wanted:
            raise DataError(
                f"{name}: {field} has the shape {got}, it should be {wanted} (see docs/own-physics.md)"
            )
    if (
        made.offsets[0] != 0
        or made.offsets[-1] != rows
        or (made.offsets[1:] < made.offsets[:-1]).any()
    ):
        raise DataError(
            f"{name}: offsets must run from 0 to the number of particles, {rows}, without falling (see docs/own-physics.md)"
        )
    if (made.index[1:] <= made.index[:-1]).any():
        raise DataError(
            f"{name}: index must increase, as no event may come twice (see docs/own-physics.md)"
        )
    accounted = kept + sum(made.rejected.values())
    if accounted != n_events or (kept and not 0 <= made.index.min() <= made.index.max() < n_events):
        raise DataError(
            f"{name}: {n_events} events in, but {kept} kept and {accounted - kept} rejected: none may get lost (see docs/own-physics.md)"
        )
    return made


def loose_file(name: str | None) -> Path | None:
    """The file of a user's module in the working directory, which workers elsewhere do not have; None where it is installed."""
    if name is None:
        return None
    file = Path(inspect.getfile(_resolve(name)[0])).resolve()
    return file if file.parent == Path.cwd().resolve() else None


def _resolve(name: str) -> tuple[ModuleType, Physics]:
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not see the folder it is started in
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"physics: no module {module_name!r} ({error}). It is looked for in {here} and on the Python path."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"physics: {module_name} has no function {function_name!r}")
    return module, function


def _hash(*sources: bytes) -> str:
    return hashlib.blake2b(b"\0".join(sources), digest_size=8).hexdigest()
