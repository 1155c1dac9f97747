"""Physics by name: hepflow's own, or a function of the user's."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import awkward as ak

from hepflow.errors import ConfigError, DataError
from hepflow.physics.features import FeatureSet, compute_features, hlf_features
from hepflow.schema import PARTICLE, Feature

Physics = Callable[[ak.Array, str], FeatureSet]
"""(chunk of events, definitions) -> features; see `hepflow.physics.features.compute_features`."""

VERSION = "0cf21268f3c0130a"
"""Version of hepflow's own physics. Change it together with any change after which a feature of
any event may differ: stores are then made again, and scores are not mixed.
tests/test_compatibility.py compares the features with those that this version has stored."""


def load(name: str | None) -> Physics:
    """Return the function that computes features; hepflow's own by default.

    ``name`` is ``package.module:function``, on the Python path or in the working directory.
    """
    return compute_features if name is None else _resolve(name)[1]


def names(
    name: str | None, definitions_name: str, no_events: ak.Array
) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    """Return the high-level and particle features of the physics, as of ``no_events``."""
    if name is None:
        return hlf_features(definitions_name), PARTICLE
    made = check(load(name)(no_events, definitions_name), 0, name)
    return tuple(made.hlf_features), tuple(made.particle_features)


def identity(name: str | None) -> str:
    """Return the name of the physics with its version, or the hash of a user's own source."""
    if name is None:
        return f"hepflow.physics.features:compute@{VERSION}"
    source = inspect.getsource(_resolve(name)[0]).encode()
    return f"{name}@{hashlib.blake2b(source, digest_size=8).hexdigest()}"


def check(made: FeatureSet, n_events: int, name: str) -> FeatureSet:
    """Return a user's features if they keep the contract of docs/own-physics.md, or raise."""
    kept, rows = len(made.index), len(made.particles)
    accounted = kept + sum(made.rejected.values())
    expected = {
        "hlf": (kept, len(made.hlf_features)),
        "particles": (rows, len(made.particle_features)),
        "offsets": (kept + 1,),
    }
    wrong = [field for field, shape in expected.items() if getattr(made, field).shape != shape]
    if wrong:
        problem = f"{wrong[0]} has the shape {getattr(made, wrong[0]).shape}"
        problem += f", it should be {expected[wrong[0]]}"
    elif (*made.offsets[[0, -1]],) != (0, rows) or (made.offsets[1:] < made.offsets[:-1]).any():
        problem = f"offsets must run from 0 to the number of particles, {rows}, without falling"
    elif (made.index[1:] <= made.index[:-1]).any():
        problem = "index must increase, as no event may come twice"
    elif accounted != n_events or (kept and not 0 <= made.index[0] <= made.index[-1] < n_events):
        counted = f"{n_events} events in, but {kept} kept and {accounted - kept} rejected"
        problem = f"{counted}: none may get lost"
    else:
        return made
    raise DataError(f"{name}: {problem}. See docs/own-physics.md.")


def loose_file(name: str | None) -> Path | None:
    """Return the file of a user's module that other machines lack: in the working directory."""
    if name is None:
        return None
    file = Path(inspect.getfile(_resolve(name)[0])).resolve()
    return file if file.parent == Path.cwd().resolve() else None


def _resolve(name: str) -> tuple[ModuleType, Physics]:
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not have the folder it is started in
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ImportError as error:
        where = f"in {here} or on the Python path"
        raise ConfigError(f"physics: no module {module_name!r} {where} ({error})") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"physics: {module_name} has no function {function_name!r}")
    return module, function
