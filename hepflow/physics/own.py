"""Physics by name: ``corrected``, ``reference``, or a function of the user's own."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import awkward as ak

from hepflow.errors import ConfigError, DataError
from hepflow.physics.features import FeatureSet, compute, hlf_features
from hepflow.schema import PARTICLE, Feature

Physics = Callable[[ak.Array, str], FeatureSet]
"""(a chunk of events, definitions) -> features; see `hepflow.physics.features.compute`."""

VERSION = "0cf21268f3c0130a"
"""Version of hepflow's own physics. Change it together with any change after which a feature of
any event may differ: stores are then made again, and scores are not mixed.
tests/test_compatibility.py compares the features with those that this version has stored."""


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
    """Return the name of the physics with its version, or the hash of a user's own source.

    It is part of the provenance of stores, models and scores.

    Raises
    ------
    ConfigError
        There is no such module or function.
    """
    if name is None:
        return f"{compute.__module__}:{compute.__name__}@{VERSION}"
    source = inspect.getsource(_resolve(name)[0]).encode()
    return f"{name}@{hashlib.blake2b(source, digest_size=8).hexdigest()}"


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
