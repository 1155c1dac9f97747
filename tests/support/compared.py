"""The compiled features against the plain ones, event by event."""

import numpy as np

from hepflow.physics.features import compute_features
from tests.support.plain_physics import process


def assert_same_as_plain(events, definitions):
    """Compare all features to 1e-5, the events kept, and the reasons of the rejected ones."""
    got = compute_features(events, definitions)
    reasons: dict[str, int] = {}
    kept = 0
    for position, plain in enumerate(events.to_list()):
        hlf, particles, reason = process(plain, definitions)
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + 1
            continue
        assert got.index[kept] == position
        np.testing.assert_allclose(got.hlf[kept], hlf, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            got.particles[got.offsets[kept] : got.offsets[kept + 1]],
            particles,
            rtol=1e-5,
            atol=1e-9,
        )
        kept += 1
    assert kept == len(got.index)
    assert reasons == got.rejected
    assert kept + sum(got.rejected.values()) == len(events)
    return got
