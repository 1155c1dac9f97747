"""The worked example of docs/own-physics.md does what the page promises."""

import re
from pathlib import Path

import numpy as np
import pytest

from hepflow.data.events import empty_events
from hepflow.physics import own
from tests.support.delphes_events import event, lepton, random_events, to_awkward

PAGE = Path(__file__).parents[2] / "docs" / "own-physics.md"


@pytest.fixture
def dimuons(tmp_path, monkeypatch):
    (source,) = re.findall(r"```python\n(# dimuons\.py.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "dimuons.py").write_text(source)
    monkeypatch.chdir(tmp_path)
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
