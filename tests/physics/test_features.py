"""The compiled physics against the plain one, event by event, and its symmetries."""

import math

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import config

from hepflow import schema
from hepflow.errors import ConfigError, DataError
from hepflow.physics import own, selection
from hepflow.physics.columns import columns
from hepflow.physics.definitions import CORRECTED, REFERENCE
from hepflow.physics.features import compute_columns, compute_features
from hepflow.physics.selection import isolations, passes
from hepflow.schema import (
    DEFINITIONS,
    HLF,
    MAX_NEUTRALS,
    MAX_PARTICLES,
    MAX_PHOTONS,
    MAX_TRACKS,
    PARTICLE,
)
from tests.support import plain_physics
from tests.support.compared import assert_same_as_plain
from tests.support.delphes_events import (
    event,
    from_root,
    jet,
    lepton,
    neutral,
    random_event,
    random_events,
    to_awkward,
    track,
)

COLUMN = {feature.name: i for i, feature in enumerate(PARTICLE)}
HIGH = {feature.name: i for i, feature in enumerate(HLF)}
PI = float(np.float32(np.pi))

both = pytest.mark.parametrize("definitions", DEFINITIONS)


@both
@pytest.mark.parametrize("name", ["qcd/qcd", "ttbar/ttbar", "wjets/wjets"])
def test_sample_events_agree_with_the_plain_physics(shared, name, definitions):
    got = assert_same_as_plain(
        from_root(shared / "sample" / f"{name}_lepFilter_13TeV_1.root", stop=6), definitions
    )
    assert len(got.index) > 0


@both
@pytest.mark.slow
@pytest.mark.system
def test_many_sample_events_agree_with_the_plain_physics(shared, definitions):
    for path in sorted((shared / "sample").glob("*/*_2.root")):
        assert_same_as_plain(from_root(path, stop=25), definitions)


@both
@pytest.mark.parametrize("name", ["clones_ttbar.root", "delphes_full_schema_10events.root"])
def test_real_delphes_events_agree_with_the_plain_physics(shared, name, definitions):
    assert_same_as_plain(from_root(shared / "real" / name), definitions)


@both
def test_random_events_agree_with_the_plain_physics(definitions):
    got = assert_same_as_plain(to_awkward(random_events(60, seed=1)), definitions)
    assert len(got.index) > 5


angle = st.sampled_from(
    [PI, -PI, float(np.nextafter(np.float32(-np.pi), np.float32(0))), 0.0, 3.0, -3.0, 0.2]
) | st.floats(-PI, PI, width=32)
rapidity = st.sampled_from([0.0, 0.2, -0.1, 2.6, -2.6, 6.0]) | st.floats(-5.0, 5.0, width=32)
momentum = st.sampled_from([0.5, 0.75, 1.0, 1.5, 23.0, 24.0]) | st.floats(0.25, 64.0, width=32)
high = st.sampled_from([23.0, 24.0, 30.0]) | st.floats(22.0, 64.0, width=32)
charges = st.sampled_from([-1, 1])
tracks = st.builds(
    track,
    momentum,
    rapidity,
    angle,
    st.sampled_from([211, -211, 0]),
    charges,
    st.tuples(angle, angle, rapidity),
)
neutrals = st.builds(neutral, momentum, rapidity, angle)
leptons = st.builds(lepton, high, rapidity, angle, charges)
missing = st.just([]) | st.builds(
    lambda met, phi: [{"MET": met, "Phi": phi}], st.just(0.0) | momentum, angle
)
jets = st.builds(jet, momentum | high, rapidity, st.integers(0, 7))
ugly = st.builds(
    event,
    EFlowTrack=st.lists(tracks, max_size=12),
    EFlowPhoton=st.lists(neutrals, max_size=6),
    EFlowNeutralHadron=st.lists(neutrals, max_size=6),
    Electron=st.lists(leptons, max_size=3),
    MuonTight=st.lists(leptons, max_size=3),
    Jet=st.lists(jets, max_size=4),
    MissingET=missing,
)


@both
@given(events=st.lists(ugly, max_size=4))
def test_ugly_events_agree_with_the_plain_physics(events, definitions):
    assert_same_as_plain(to_awkward(events), definitions)


CLUTTER = {
    "EFlowTrack": [track(9.0, 4.0)],
    "EFlowPhoton": [neutral(2.0, 4.5)],
    "EFlowNeutralHadron": [neutral(2.0, 4.2)],
}


def crowd(make, n):
    """Return ``n`` candidates away from the lepton; coarse momenta give ties at any cap."""
    return [make(2.0 + i % 7 / 4, 3.0 + i % 11 / 8, -3.0 + i % 60 / 10) for i in range(n)]


LISTED = {
    "no lepton": event(**CLUTTER),
    "only a soft lepton": event(Electron=[lepton(23.0)], **CLUTTER),
    "two flavours, the muon harder": event(
        Electron=[lepton(30.0, 1.0)], MuonTight=[lepton(40.0, -1.0)], **CLUTTER
    ),
    "two flavours, the electron harder": event(
        Electron=[lepton(40.0, -1.0)], MuonTight=[lepton(30.0, 1.0)], **CLUTTER
    ),
    "two flavours tied in pT and eta": event(
        Electron=[lepton(30.0, 0.0, 1.0)], MuonTight=[lepton(30.0, 0.0, -1.0)], **CLUTTER
    ),
    "two leptons of a flavour tied": event(
        MuonTight=[lepton(30.0, -1.0), lepton(30.0, 1.0)], **CLUTTER
    ),
    "candidates tied": event(
        Electron=[lepton(30.0)],
        **{k: [v[0], {**v[0], "Eta": -3.0}, v[0]] for k, v in CLUTTER.items()},
    ),
    "more than 450 tracks": event(
        Electron=[lepton(30.0)], **{**CLUTTER, "EFlowTrack": crowd(track, 460)}
    ),
    "more than 150 photons": event(
        Electron=[lepton(30.0)], **{**CLUTTER, "EFlowPhoton": crowd(neutral, 160)}
    ),
    "more than 200 neutral hadrons": event(
        Electron=[lepton(30.0)], **{**CLUTTER, "EFlowNeutralHadron": crowd(neutral, 210)}
    ),
    "particles on both sides of phi = pi": event(
        Electron=[lepton(30.0, 0.0, PI)],
        EFlowTrack=[track(3.0, 0.1, -PI), track(2.0, 0.0, PI), track(1.0, 0.0, -3.0)],
        EFlowPhoton=[neutral(2.0, 0.1, -PI), neutral(2.0, 0.1, PI)],
        EFlowNeutralHadron=[neutral(2.0, -0.1, 3.0), neutral(2.0, 0.0, -3.0)],
    ),
    "MET 0": event(Electron=[lepton(30.0)], MissingET=[{"MET": 0.0, "Phi": 0.0}], **CLUTTER),
    "MET at -pi": event(
        Electron=[lepton(30.0, 0.0, PI)], MissingET=[{"MET": 30.0, "Phi": -PI}], **CLUTTER
    ),
    "no track": event(Electron=[lepton(30.0)], **{**CLUTTER, "EFlowTrack": []}),
    "no photon": event(Electron=[lepton(30.0)], **{**CLUTTER, "EFlowPhoton": []}),
    "no neutral hadron": event(Electron=[lepton(30.0)], **{**CLUTTER, "EFlowNeutralHadron": []}),
    "nothing but a lepton": event(MuonTight=[lepton(30.0)]),
    "nothing at all": event(),
}
WITHOUT_LEPTON = {"no lepton", "only a soft lepton", "nothing at all"}
INCOMPLETE = {"no track", "no photon", "no neutral hadron", "nothing but a lepton"}


@both
@pytest.mark.parametrize("name", LISTED)
def test_listed_events_agree_with_the_plain_physics(name, definitions):
    got = assert_same_as_plain(to_awkward([LISTED[name]]), definitions)
    rejected = WITHOUT_LEPTON | (INCOMPLETE if definitions == "reference" else set())
    assert len(got.index) == (name not in rejected)


@both
def test_events_over_every_cap_agree_with_the_plain_physics(definitions):
    rng = np.random.default_rng(5)
    crowded = random_event(rng, n_tracks=900, n_photons=260, n_hadrons=330, scale=2.0)
    for collection, field in (
        ("EFlowTrack", "PT"),
        ("EFlowPhoton", "ET"),
        ("EFlowNeutralHadron", "ET"),
    ):
        for candidate in crowded[collection]:  # coarse momenta: ties at the cap too
            candidate[field] = math.ceil(4 * candidate[field]) / 4
    crowded["Electron"] = [lepton(4000.0, eta=0.5)]
    got = assert_same_as_plain(to_awkward([crowded]), definitions)
    assert got.offsets[-1] == MAX_PARTICLES
    kinds = got.particles[1:, [COLUMN["isChHad"], COLUMN["isGamma"], COLUMN["isNeuHad"]]].sum(
        axis=0
    )
    assert kinds.tolist() == [MAX_TRACKS, MAX_PHOTONS, MAX_NEUTRALS]


@both
def test_no_events_give_no_features(definitions):
    got = compute_features(to_awkward([]), definitions)
    assert got.hlf.shape == (0, 14)
    assert got.particles.shape == (0, 19)
    assert got.offsets.tolist() == [0]
    assert got.rejected == {}


def test_a_cone_across_phi_pi_counts_both_sides_only_when_corrected():
    events = to_awkward(
        [
            event(
                Electron=[lepton(30.0, phi=3.1)],
                EFlowTrack=[track(3.0, phi=-3.1)],
                EFlowPhoton=[neutral(2.0)],
                EFlowNeutralHadron=[neutral(2.0)],
            )
        ]
    )
    assert compute_features(events, "corrected").hlf[0, HIGH["LepIsoCh"]] == pytest.approx(0.1)
    assert compute_features(events, "reference").hlf[0, HIGH["LepIsoCh"]] == -1.0


def test_a_track_does_not_count_itself_but_its_neighbour():
    events = to_awkward(
        [
            event(
                Electron=[lepton(30.0, eta=2.0)],
                EFlowTrack=[track(4.0), track(2.0, eta=0.1), neutral(1.0) | track(1.0, 3.0)],
            )
        ]
    )
    got = compute_features(events, "corrected").particles
    assert got[1:, COLUMN["Pt"]].tolist() == [4.0, 2.0, 1.0]
    assert got[1:, COLUMN["ChPFIso"]].tolist() == [0.5, 2.0, 0.0]


def test_the_reference_takes_one_off_the_charged_isolation_of_photons_too():
    cluttered = event(
        Electron=[lepton(30.0)],
        EFlowTrack=[track(30.0)],
        EFlowPhoton=[neutral(2.0, eta=2.0)],
        EFlowNeutralHadron=[neutral(2.0, eta=-2.0)],
    )
    photon = compute_features(to_awkward([cluttered]), "reference").particles[1]
    assert photon[COLUMN["isGamma"]] == 1.0
    assert photon[[COLUMN["ChPFIso"], COLUMN["GammaPFIso"], COLUMN["NeuPFIso"]]].tolist() == [
        -1.0,
        1.0,
        0.0,
    ]


def test_the_lepton_row_is_first_at_the_origin_and_has_its_own_isolations():
    events = to_awkward(
        [
            event(
                MuonTight=[lepton(30.0, charge=1)],
                EFlowTrack=[track(30.0), track(40.0, eta=1.0), track(3.0, eta=0.2)],
            )
        ]
    )
    got = compute_features(events, "corrected")
    row = got.particles[0]
    assert row[[COLUMN["isEle"], COLUMN["isMu"], COLUMN["Charge"]]].tolist() == [0.0, 1.0, 1.0]
    assert row[COLUMN["vtxX"] : COLUMN["vtxZ"] + 1].tolist() == [0.0, 0.0, 0.0]
    assert row[COLUMN["ChPFIso"]] == got.hlf[0, HIGH["LepIsoCh"]] == pytest.approx(0.1)
    assert got.particles[1:, COLUMN["Pt"]].tolist() == [40.0, 3.0], (
        "the lepton's own track is left out"
    )


@pytest.mark.parametrize(
    ("electrons", "muons", "corrected_pt", "reference_pt"),
    [
        ([lepton(25.0, -1.0), lepton(40.0, -2.0)], [], 40.0, 25.0),  # file order against momentum
        ([lepton(30.0, 1.0)], [lepton(50.0, -1.0)], 50.0, 30.0),  # eta against momentum
        ([lepton(30.0, 1.0)], [lepton(30.0, 1.0)], 30.0, 30.0),
    ],
)
def test_the_definitions_choose_their_lepton(electrons, muons, corrected_pt, reference_pt):
    # The reference drops events without one candidate of each kind.
    clutter = {
        "EFlowTrack": [track(9.0, 4.0)],
        "EFlowPhoton": [neutral(2.0, 4.5)],
        "EFlowNeutralHadron": [neutral(2.0, 4.2)],
    }
    events = to_awkward([event(Electron=electrons, MuonTight=muons, **clutter)])
    assert compute_features(events, "corrected").hlf[0, HIGH["LepPt"]] == corrected_pt
    assert compute_features(events, "reference").hlf[0, HIGH["LepPt"]] == reference_pt


def test_ties_between_flavours_go_to_the_electron_when_corrected_and_to_the_muon_in_the_reference():
    clutter = {
        "EFlowTrack": [track(9.0, 4.0)],
        "EFlowPhoton": [neutral(2.0, 4.5)],
        "EFlowNeutralHadron": [neutral(2.0, 4.2)],
    }
    events = to_awkward([event(Electron=[lepton(30.0)], MuonTight=[lepton(30.0)], **clutter)])
    assert compute_features(events, "corrected").hlf[0, HIGH["LepIsEle"]] == 1.0
    assert compute_features(events, "reference").hlf[0, HIGH["LepIsEle"]] == 0.0


def test_thresholds_are_strict():
    at = to_awkward([event(Electron=[lepton(23.0)])])
    assert compute_features(at).rejected == {"no lepton above 23 GeV": 1}
    over = event(
        Electron=[lepton(24.0)],
        EFlowTrack=[track(0.5, 2.0)],
        EFlowPhoton=[neutral(1.0, 2.0)],
        Jet=[jet(30.0), jet(31.0, 2.7), jet(32.0, 2.5, 1)],
    )
    got = compute_features(to_awkward([over]))
    assert got.offsets.tolist() == [0, 1]
    assert got.hlf[0, [HIGH["HT"], HIGH["nJets"], HIGH["nBJets"]]].tolist() == [32.0, 1.0, 1.0]


def test_the_transverse_mass_is_squared_in_the_reference_alone():
    clutter = {
        "EFlowTrack": [track(9.0, 4.0)],
        "EFlowPhoton": [neutral(2.0, 4.5)],
        "EFlowNeutralHadron": [neutral(2.0, 4.2)],
    }
    events = to_awkward(
        [event(Electron=[lepton(40.0, 0.0, 0.0)], MissingET=[{"MET": 40.0, "Phi": PI}], **clutter)]
    )
    mass, square = compute_features(events, "corrected"), compute_features(events, "reference")
    assert mass.hlf[0, HIGH["MT"]] == pytest.approx(80.0)
    assert square.hlf[0, HIGH["MT"]] == pytest.approx(6400.0)
    assert (mass.hlf_features[HIGH["MT"]].unit, square.hlf_features[HIGH["MT"]].unit) == (
        "GeV",
        "GeV^2",
    )


@pytest.mark.skipif(
    config.DISABLE_JIT, reason="Python's own sinh raises where the compiled one gives infinity"
)
def test_an_event_with_a_feature_that_is_not_finite_is_rejected_and_counted():
    good = event(Electron=[lepton(30.0)], EFlowTrack=[track(2.0, 1.0)])
    bad = [
        event(Electron=[lepton(30.0)], EFlowTrack=[track(2.0, math.nan)]),
        event(Electron=[lepton(30.0)], EFlowTrack=[track(2.0, 999.9)]),
        event(Electron=[lepton(30.0)], EFlowTrack=[track(2.0, 1.0, math.inf)]),
        event(Electron=[lepton(30.0)], EFlowTrack=[track(2.0, 1.0, vertex=(0.0, math.nan, 0.0))]),
        event(Electron=[lepton(30.0)], MissingET=[{"MET": math.nan, "Phi": 0.0}]),
    ]
    got = compute_features(to_awkward([good, *bad, good]))
    assert got.rejected == {"features not finite": len(bad)}
    assert got.index.tolist() == [0, 1 + len(bad)]
    assert got.offsets.tolist() == [0, 2, 4]
    assert np.isfinite(got.particles).all()


@both
def test_high_level_features_are_the_same_without_the_particles(definitions):
    """Also if a particle rejects the event: by a momentum, an angle or a vertex too large."""
    rng = np.random.default_rng(11)
    good = [random_event(rng) for _ in range(40)]
    bad = (track(3e38, 1.0), track(5.0, 200.0), track(5.0, 1.0, vertex=(3e38, 3e38, 0.0)))
    odd = [
        {**found, "EFlowTrack": [*found["EFlowTrack"], bad[i % 3]]} for i, found in enumerate(good)
    ]
    for events in (good, good + odd):
        flat = columns(to_awkward(events))
        whole, part = (
            compute_columns(flat, definitions),
            compute_columns(flat, definitions, particles=False),
        )
        np.testing.assert_array_equal(part.hlf, whole.hlf)
        np.testing.assert_array_equal(part.index, whole.index)
        np.testing.assert_array_equal(part.status, whole.status)
        assert part.rejected == whole.rejected
        assert len(part.particles) == part.offsets[-1] == 0
        assert len(part.offsets) == len(part.index) + 1
    assert whole.rejected["features not finite"] > 0


@both
def test_an_event_does_not_depend_on_other_events(definitions):
    events = to_awkward(random_events(30, seed=2))
    together = compute_features(events, definitions)
    alone = [compute_features(events[i : i + 1], definitions) for i in range(len(events))]
    np.testing.assert_array_equal(together.hlf, np.concatenate([a.hlf for a in alone]))
    np.testing.assert_array_equal(together.particles, np.concatenate([a.particles for a in alone]))


@both
def test_the_trigger_is_the_one_the_features_use(definitions):
    events = to_awkward(random_events(40, seed=3))
    assert (
        np.flatnonzero(passes(events, definitions)).tolist()
        == compute_features(events, definitions).index.tolist()
    )


@both
def test_the_isolation_of_every_lepton_is_that_of_the_plain_physics(definitions):
    rng = np.random.default_rng(11)
    events = to_awkward(
        [
            *(random_event(rng, electrons=2, muons=1) for _ in range(10)),
            event(Electron=[lepton(5.0)]),
            event(),
        ]
    )
    found = isolations(events, definitions)
    for plain, got in zip(events.to_list(), found.to_list(), strict=True):
        candidates = plain_physics.select_candidates(plain, definitions == "corrected")
        for name in ("Electron", "MuonTight"):
            leptons = [plain_physics.thing("lepton", one["PT"], one) for one in plain[name]]
            expected = [
                plain_physics.lepton_isolation(one, candidates, definitions == "corrected")
                for one in leptons
            ]
            assert [tuple(one.values()) for one in got[name]] == [
                pytest.approx(iso, rel=1e-5, abs=1e-6) for iso in expected
            ]


def turned(events, angle):
    """Events with every azimuth turned by ``angle``."""

    def turn(record):
        phi = (ak.values_astype(record["Phi"], "float64") + angle + np.pi) % (2 * np.pi) - np.pi
        return ak.with_field(record, ak.values_astype(phi, "float32"), "Phi")

    return ak.zip(
        {
            name: turn(events[name]) if "Phi" in ak.fields(events[name]) else events[name]
            for name in events.fields
        },
        depth_limit=1,
    )


@pytest.mark.parametrize("angle", [0.1, 1.0, 3.0, -2.5])
def test_rotating_an_event_around_the_beam_changes_only_azimuths(angle):
    events = to_awkward(random_events(30, seed=4))
    plain, other = compute_features(events), compute_features(turned(events, angle))
    assert plain.index.tolist() == other.index.tolist()
    keep = [i for i, feature in enumerate(HLF) if "Phi" not in feature.name]
    np.testing.assert_allclose(other.hlf[:, keep], plain.hlf[:, keep], rtol=2e-5, atol=1e-4)
    keep = [i for i, feature in enumerate(PARTICLE) if feature.name not in {"Px", "Py", "Phi"}]
    np.testing.assert_allclose(
        other.particles[:, keep], plain.particles[:, keep], rtol=1e-5, atol=1e-7
    )


@both
def test_reflecting_an_event_in_eta_flips_eta_and_pz_alone(definitions):
    events = to_awkward(
        [e for e in random_events(60, seed=6) if not e["MuonTight"]]
    )  # eta decides between flavours
    reflected = ak.zip(
        {
            name: ak.with_field(events[name], -events[name]["Eta"], "Eta")
            if "Eta" in ak.fields(events[name])
            else events[name]
            for name in events.fields
        },
        depth_limit=1,
    )
    plain, other = compute_features(events, definitions), compute_features(reflected, definitions)
    assert len(plain.index) > 3
    sign = np.array([-1.0 if feature.name == "LepEta" else 1.0 for feature in HLF], np.float32)
    np.testing.assert_allclose(other.hlf, plain.hlf * sign, rtol=1e-6)
    sign = np.array(
        [-1.0 if feature.name in {"Eta", "Pz"} else 1.0 for feature in PARTICLE], np.float32
    )
    np.testing.assert_allclose(other.particles, plain.particles * sign, rtol=1e-6, atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_the_order_of_the_candidates_does_not_matter_when_corrected(seed):
    rng = np.random.default_rng(seed)
    one = random_event(rng, muons=1)
    shuffled = {
        name: [items[i] for i in rng.permutation(len(items))] for name, items in one.items()
    }
    plain, other = compute_features(to_awkward([one])), compute_features(to_awkward([shuffled]))
    np.testing.assert_allclose(other.hlf, plain.hlf, rtol=1e-6)
    np.testing.assert_allclose(other.particles, plain.particles, rtol=1e-6, atol=1e-12)


def test_ties_in_momentum_keep_kind_and_file_order():
    tied = event(
        Electron=[lepton(30.0)],
        EFlowTrack=[track(2.0, 1.0), track(2.0, -1.0)],
        EFlowPhoton=[neutral(2.0, 0.5)],
        EFlowNeutralHadron=[neutral(2.0, -0.5), neutral(3.0, 2.0)],
    )
    got = compute_features(to_awkward([tied])).particles
    assert got[1:, COLUMN["Eta"]].tolist() == [2.0, 1.0, -1.0, 0.5, -0.5]


def test_each_choice_alone_lies_between_the_definitions():
    events = to_awkward(random_events(40, seed=8))
    mt_alone = compute_features(events, REFERENCE._replace(mt_is_mass=True))
    reference = compute_features(events, "reference")
    np.testing.assert_array_equal(mt_alone.particles, reference.particles)
    np.testing.assert_allclose(
        mt_alone.hlf[:, HIGH["MT"]] ** 2, reference.hlf[:, HIGH["MT"]], rtol=1e-5, atol=1e-6
    )
    assert (
        compute_features(events, CORRECTED).hlf.tobytes()
        == compute_features(events, "corrected").hlf.tobytes()
    )


def test_unknown_definitions_are_named():
    with pytest.raises(ConfigError, match=r"no set named 'corrcted'\. Use corrected or reference"):
        compute_features(to_awkward([]), "corrcted")


def test_a_missing_collection_and_a_missing_field_are_named():
    events = to_awkward(random_events(2))
    with pytest.raises(DataError, match="no collection 'Jet', only EFlowTrack, EFlowPhoton, "):
        compute_features(events[[name for name in events.fields if name != "Jet"]])
    with pytest.raises(DataError, match="'EFlowTrack' has no field 'X', only PT, Eta, Phi"):
        compute_features(
            ak.with_field(events, events["EFlowTrack"][["PT", "Eta", "Phi"]], "EFlowTrack")
        )


def test_the_version_of_the_physics_belongs_to_these_cuts_and_caps():
    """To change one of them, change `own.VERSION` and then this line."""
    numbers = (schema.MAX_TRACKS, schema.MAX_PHOTONS, schema.MAX_NEUTRALS)
    cuts = (
        selection.LEPTON_PT,
        selection.LEPTON_ISOLATION,
        selection.TRACK_PT,
        selection.NEUTRAL_ET,
    )
    assert (own.VERSION, *numbers, *cuts) == (
        "0cf21268f3c0130a",
        450,
        150,
        200,
        23.0,
        0.45,
        0.5,
        1.0,
    )


@pytest.mark.parametrize(
    "bad", [track(3e38, 1.0), track(5.0, 200.0), track(5.0, 1.0, vertex=(0.0, 0.0, math.inf))]
)
@pytest.mark.parametrize("particles", [True, False])
def test_one_particle_too_large_rejects_its_event_also_if_particles_are_not_kept(bad, particles):
    good = {"Electron": [lepton(30.0)], "EFlowTrack": [track(2.0, 1.0)]}
    events = [
        event(**good),
        event(Electron=[lepton(40.0)], EFlowTrack=[track(2.0, 1.0), bad]),
        event(MuonTight=[lepton(50.0)]),
    ]
    got = compute_columns(columns(to_awkward(events)), particles=particles)
    assert got.hlf[:, HIGH["LepPt"]].tolist() == [30.0, 50.0]
    assert (got.index.tolist(), got.status.tolist()) == ([0, 2], [0, selection.NOT_FINITE, 0])
    assert got.rejected == {"features not finite": 1}
    assert got.offsets.tolist() == ([0, 2, 3] if particles else [0, 0, 0])


def test_high_level_features_without_particles_are_the_same_for_ordinary_events():
    flat = columns(to_awkward(random_events(8, seed=13, n_tracks=6)))
    whole, part = compute_columns(flat), compute_columns(flat, particles=False)
    assert len(whole.index) > 2
    np.testing.assert_array_equal(part.hlf, whole.hlf)
    np.testing.assert_array_equal(part.status, whole.status)
    assert part.particles.shape == (0, len(PARTICLE))


@both
def test_the_high_level_features_have_the_names_and_units_of_the_schema(definitions):
    got = compute_features(to_awkward([LISTED["MET 0"]]), definitions)
    assert [f.name for f in got.hlf_features] == [f.name for f in HLF]
    units = {f.name: f.unit for f in HLF} | {"MT": "GeV" if definitions == "corrected" else "GeV^2"}
    assert {f.name: f.unit for f in got.hlf_features} == units
    assert got.particle_features == PARTICLE
    dtypes = [a.dtype.name for a in (got.hlf, got.particles, got.offsets, got.index, got.status)]
    assert dtypes == ["float32", "float32", "int64", "int64", "int8"]


@pytest.mark.parametrize("particles", [True, False])
def test_a_high_level_feature_that_is_not_finite_rejects_an_event_with_good_particles(particles):
    good = {"Electron": [lepton(30.0)], "EFlowTrack": [track(2.0, 1.0)]}
    events = [event(**good, MissingET=[{"MET": met, "Phi": 0.0}]) for met in (math.nan, 1.0)]
    got = compute_columns(columns(to_awkward(events)), particles=particles)
    assert got.status.tolist() == [selection.NOT_FINITE, selection.PASSES]


def test_isolations_do_not_depend_on_the_convention_of_the_azimuth_when_corrected():
    plain = to_awkward(random_events(12, seed=14, n_tracks=12))

    def from_zero(record):
        phi = ak.values_astype(record["Phi"], "float64") % (2 * np.pi)
        return ak.with_field(record, ak.values_astype(phi, "float32"), "Phi")

    names = [name for name in plain.fields if "Phi" in ak.fields(plain[name])]
    other = ak.zip({name: from_zero(plain[name]) for name in names}, depth_limit=1)
    got, expected = compute_features(other), compute_features(plain)
    assert got.index.tolist() == expected.index.tolist()
    columns_ = [COLUMN[name] for name in ("ChPFIso", "GammaPFIso", "NeuPFIso", "Px", "Py")]
    np.testing.assert_allclose(
        got.particles[:, columns_], expected.particles[:, columns_], rtol=1e-5, atol=1e-4
    )
