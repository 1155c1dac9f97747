"""Physics by name: the example of docs/own-physics.md, and the contract of the page."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hepflow.data.events import empty_events
from hepflow.errors import ConfigError, DataError
from hepflow.physics import own
from hepflow.physics.features import FeatureSet, compute_features
from hepflow.schema import HLF, PARTICLE, Feature
from tests.support.delphes_events import event, lepton, random_events, to_awkward

PAGE = Path(__file__).parents[2] / "docs" / "own-physics.md"


@pytest.fixture
def dimuons(tmp_path, monkeypatch):
    (source,) = re.findall(r"```python\n(# dimuons\.py.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "dimuons.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "dimuons", raising=False)
    return "dimuons:features"


def test_the_example_keeps_the_contract_also_without_events(dimuons):
    hlf, particles = own.names(dimuons, "corrected", empty_events())
    assert [feature.name for feature in hlf] == ["Mass", "MET"]
    assert len(particles) == 4
    events = to_awkward(random_events(50))
    made = own.check(own.load(dimuons)(events, "corrected"), 50, dimuons)
    assert len(made.index) > 0


def test_the_example_finds_a_mass(dimuons):
    pair = event(
        MuonTight=[lepton(45.0, 0.0, 0.0, -1), lepton(45.0, 0.0, float(np.float32(np.pi)), 1)],
        MissingET=[{"MET": 3.0, "Phi": 0.0}],
    )
    made = own.load(dimuons)(to_awkward([pair]), "corrected")
    np.testing.assert_allclose(made.hlf, [[90.0, 3.0]], rtol=1e-6)


def test_without_a_name_the_physics_is_that_of_hepflow():
    assert own.load(None) is compute_features
    assert own.identity(None).endswith(f"@{own.VERSION}")
    assert own.loose_file(None) is None
    for definitions, unit in (("corrected", "GeV"), ("reference", "GeV^2")):
        hlf, particles = own.names(None, definitions, empty_events())
        assert [one.unit for one in hlf if one.name == "MT"] == [unit]
        assert [one.name for one in hlf] == [one.name for one in HLF]
        assert particles == PARTICLE


def test_the_identity_of_own_physics_is_the_hash_of_its_source(dimuons):
    digest = hashlib.blake2b(Path("dimuons.py").read_bytes(), digest_size=8).hexdigest()
    assert own.identity(dimuons) == f"{dimuons}@{digest}"


def test_a_module_in_the_working_directory_is_loose_and_a_package_is_not(dimuons):
    assert own.loose_file(dimuons) == Path("dimuons.py").resolve()
    assert own.loose_file("hepflow.physics.features:compute_features") is None


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("no_such_module:features", "no module 'no_such_module'"),
        ("hepflow.physics.features:no_such", "features has no function 'no_such'"),
        ("hepflow.physics.features:JET_PT", "features has no function 'JET_PT'"),
        ("hepflow.physics.features", "features has no function ''"),
    ],
)
def test_a_module_or_function_that_does_not_exist_is_named(name, missing):
    with pytest.raises(ConfigError, match=missing):
        own.load(name)


def made(**changes):
    """Return features of four events, of which the second and the fourth are kept."""
    fields = {
        "hlf": np.zeros((2, 3), np.float32),
        "particles": np.zeros((5, 2), np.float32),
        "offsets": np.array([0, 2, 5]),
        "index": np.array([1, 3]),
        "rejected": {"soft": 1, "odd": 1},
        "hlf_features": tuple(Feature(name, "1") for name in "abc"),
        "particle_features": tuple(Feature(name, "1") for name in "de"),
    }
    return FeatureSet(**{**fields, **changes})


def test_features_that_keep_the_contract_are_passed_through():
    for changes in ({}, {"offsets": np.array([0, 0, 5])}, {"index": np.array([0, 1])}):
        good = made(**changes)
        assert own.check(good, 4, "mine") is good
    nothing = {"hlf": np.zeros((0, 3)), "particles": np.zeros((0, 2)), "offsets": np.array([0])}
    empty = made(**nothing, index=np.array([], int), rejected={"soft": 4})
    assert own.check(empty, 4, "mine") is empty


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hlf": np.zeros((2, 4))}, r"hlf has the shape \(2, 4\), it should be \(2, 3\)"),
        ({"hlf": np.zeros((3, 3))}, r"hlf has the shape \(3, 3\), it should be \(2, 3\)"),
        ({"particles": np.zeros((5, 3))}, r"particles has .* \(5, 3\), it should be \(5, 2\)"),
        ({"offsets": np.array([0, 5])}, r"offsets has .* \(2,\), it should be \(3,\)"),
        ({"offsets": np.array([1, 2, 5])}, "offsets must run from 0 to the .*, 5, without"),
        ({"offsets": np.array([0, 2, 4])}, "offsets must run from 0 to the .*, 5, without"),
        ({"offsets": np.array([0, 6, 5])}, "offsets must run from 0 to the .*, 5, without"),
        ({"index": np.array([3, 1])}, "index must increase"),
        ({"index": np.array([3, 3])}, "index must increase"),
        ({"index": np.array([1, 4])}, "4 events in, but 2 kept and 2 rejected"),
        ({"index": np.array([-1, 3])}, "4 events in, but 2 kept and 2 rejected"),
        ({"rejected": {"soft": 1}}, "4 events in, but 2 kept and 1 rejected"),
        ({"rejected": {"soft": 3}}, "4 events in, but 2 kept and 3 rejected"),
    ],
)
def test_each_breach_of_the_contract_is_named(changes, problem):
    with pytest.raises(DataError, match=f"^mine: {problem}"):
        own.check(made(**changes), 4, "mine")


def test_the_order_of_all_events_is_checked():
    three = {"hlf": np.zeros((3, 3)), "offsets": np.array([0, 1, 2, 5]), "rejected": {}}
    with pytest.raises(DataError, match="index must increase"):
        own.check(made(**three, index=np.array([0, 2, 1])), 3, "mine")


def test_own_physics_that_makes_events_from_none_is_named(dimuons):
    source = Path("dimuons.py").read_text()
    assert "np.flatnonzero(opposite)" in source
    Path("dimuons.py").write_text(source.replace("np.flatnonzero(opposite)", "np.array([0])"))
    with pytest.raises(DataError, match=r"^dimuons:features: hlf has the shape \(0, 2\)"):
        own.names(dimuons, "corrected", empty_events())
