"""Flat columns hold the values of the awkward events, in order."""

import awkward as ak
import numpy as np
import pytest

from hepflow.errors import DataError
from hepflow.physics.columns import columns, take
from hepflow.schema import COLLECTIONS
from tests.support.delphes_events import event, random_events, to_awkward

FIELDS = {
    "tracks": ("EFlowTrack", "PT Eta Phi X Y Z Charge PID"),
    "photons": ("EFlowPhoton", "ET Eta Phi"),
    "hadrons": ("EFlowNeutralHadron", "ET Eta Phi"),
    "electrons": ("Electron", "PT Eta Phi Charge"),
    "muons": ("MuonTight", "PT Eta Phi Charge"),
    "jets": ("Jet", "PT Eta BTag"),
    "met": ("MissingET", "MET Phi"),
}
"""Attribute -> collection and its fields in Delphes, in the order of the attribute's own."""


def assert_flat_are(flat, events):
    for name, (collection, fields) in FIELDS.items():
        column = getattr(flat, name)
        assert column.offsets.dtype == np.int64
        assert column.offsets[0] == 0
        assert len(column) == 1 + len(fields.split())
        for values, field in zip(column[1:], fields.split(), strict=True):
            assert values.dtype == COLLECTIONS[collection][field]
            jagged = [
                values[start:stop].tolist()
                for start, stop in zip(column.offsets[:-1], column.offsets[1:], strict=True)
            ]
            assert jagged == events[collection, field].to_list()


def test_flat_columns_have_every_value_of_the_events_in_order():
    events = to_awkward([*random_events(6, seed=4), event(), *random_events(2, seed=9)])
    assert_flat_are(columns(events), events)
    assert_flat_are(columns(events[2:7]), events[2:7])
    assert_flat_are(columns(events[:0]), events[:0])


@pytest.mark.parametrize("keep", ["101001", "000000", "111111", "000001", "100000"])
def test_taking_events_from_columns_is_taking_them_from_the_events(keep):
    events = to_awkward([event(), *random_events(4, seed=6), event()])
    mask = np.array([flag == "1" for flag in keep])
    assert_flat_are(take(columns(events), mask), events[mask])


def test_missing_values_are_named_with_their_collection():
    events = to_awkward(random_events(3))
    pt = ak.mask(events["Jet", "PT"], events["Jet", "PT"] > 1e9)
    holes = ak.with_field(events, ak.with_field(events["Jet"], pt, "PT"), "Jet")
    with pytest.raises(DataError, match="'Jet' has missing values"):
        columns(holes)
    lists = ak.mask(events["Electron"], [True, False, True])
    with pytest.raises(DataError, match="'Electron' has missing values"):
        columns(ak.with_field(events, lists, "Electron"))
