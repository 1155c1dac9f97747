"""Raw events -> scores, in process: the selection and features of the training, and the net.

No torch and no pickle. The score of an event does not depend on the other events of a call, except
for rounding in the last bits of a logit.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np

from hepflow.data.blocks import EventBlock
from hepflow.data.events import empty_events
from hepflow.data.predictions import softmax
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.models.inputs import Inputs, words
from hepflow.models.onnx_net import OnnxNet
from hepflow.models.order import pad, reading_order
from hepflow.physics import own, skim
from hepflow.physics.columns import Columns, columns, mark_infinite, take
from hepflow.physics.features import FeatureSet, compute_columns
from hepflow.physics.selection import REASONS
from hepflow.physics.skim import NOT_FINITE
from hepflow.schema import COLLECTIONS
from hepflow.score.working_points import WorkingPoint

log = logging.getLogger(__name__)

BATCH = 16
"""Events per call of a net that reads particles, all of similar length; more would add padding."""
BATCH_HLF = 4096  # events per call of a net that does not
MAX_CANDIDATES = 20_000
"""Tracks, photons and neutral hadrons per event: twice those of the busiest collisions. The work
grows with their square."""
OVERSIZED = f"more than {MAX_CANDIDATES:,} particles"
NO_NUMBER = "the net gives no number"
BY_PHYSICS = "rejected by the physics"


@dataclass(frozen=True)
class Scores:
    """Output of the net, in the order of the events."""

    reason: np.ndarray
    """(events) str, why an event has no score; empty if it has one"""
    logits: np.ndarray
    """(events, classes) float32, NaN without a score"""
    accepted: np.ndarray
    """(events, working points) bool: whether each stream of the trigger keeps the event"""
    hlf: np.ndarray
    """(selected, features) float32, the high-level features"""

    @property
    def selected(self) -> np.ndarray:
        """(events) bool: whether it has a score."""
        return self.reason == ""

    @property
    def probabilities(self) -> np.ndarray:
        """(events, classes) float64, NaN without a score."""
        return softmax(self.logits)


class Scorer:
    """A net with its selection and features.

    Make it once: loading takes a second, an event microseconds to milliseconds. A model that is not
    one of hepflow's, or was trained on other features, raises a DataError.

    ``model`` is an ONNX file of `hepflow train fit` or `hepflow export`; ``physics`` is the
    ``package.module:function`` of your own physics, if the net was trained on it. A feature
    ``store``, if given, must have the model's classes, features, definitions and normalisation.
    ``working_points`` are the streams of the trigger, from `hepflow.score.working_points.resolve`.
    The net runs in ``threads`` threads; 0: one per core. Without ``compiled``, hepflow's physics is
    compiled, or loaded from its cache, at the first events.

    Examples
    --------
    >>> scorer = Scorer(Path("runs/inclusive/model.onnx"))
    >>> scores = scorer.score(events)  # awkward records, of ROOT files or ingest's Parquet
    >>> best = scores.probabilities.argmax(axis=1)[scores.selected]
    """

    def __init__(
        self,
        model: Path,
        physics: str | None = None,
        store: Path | None = None,
        working_points: Sequence[WorkingPoint] = (),
        threads: int = 1,
        *,
        compiled: bool = True,
    ) -> None:
        self.net = OnnxNet(model, threads)
        self.inputs = self.net.inputs
        self.working_points = tuple(working_points)
        self.physics = physics
        self.physics_identity = own.identity(physics)
        self._physics = own.load(physics)
        self._require_same_physics(model)
        if store is not None:
            self._require_same_store(EventStore.open(store), model)
        self._reads_particles = "particles" in self.net.reads
        if compiled or physics is not None:
            self.score(empty_events())

    def score(self, events: ak.Array) -> Scores:
        """Return the scores of (n,) records with the collections of `hepflow.schema.COLLECTIONS`.

        A missing collection or field raises a DataError, as does physics that breaks its contract.
        """
        events = ak.to_packed(events[[name for name in COLLECTIONS if name in events.fields]])
        finite = skim.is_finite(events) if len(events) else np.empty(0, bool)
        flat = columns(events)
        if self.physics is None:  # includes the cuts of skim
            return self._score_columns(flat, finite)
        oversized = _n_candidates(flat) > MAX_CANDIDATES
        ready = finite & ~oversized & skim.has_lepton(events)
        skipped = np.select([~finite, oversized], [NOT_FINITE, OVERSIZED], skim.NO_LEPTON)
        made = self._physics(skim.drop_soft(events[ready]), self.inputs.definitions)
        return self._finish(own.check(made, int(ready.sum()), self.physics), ready, skipped)

    def score_columns(self, flat: Columns, finite: np.ndarray | None = None) -> Scores:
        """Return the scores of flat arrays (float32, int32; offsets int64), with hepflow's physics.

        For a few events, awkward arrays cost more than everything else. ``finite``, (n) bool, marks
        events without NaN and infinite values; default: those of these columns.
        """
        if finite is None:
            finite = np.ones(len(flat.tracks.offsets) - 1, bool)
            for column in flat:
                mark_infinite(finite, column.offsets, column[1:])
        return self._score_columns(flat, finite)

    def _score_columns(self, flat: Columns, finite: np.ndarray) -> Scores:
        ready = finite & (_n_candidates(flat) <= MAX_CANDIDATES)
        chosen = flat if ready.all() else take(flat, ready)
        definitions, particles = self.inputs.definitions, self._reads_particles
        features = compute_columns(chosen, definitions, particles=particles)
        return self._finish(features, ready, np.where(finite, OVERSIZED, NOT_FINITE))

    def _finish(self, features: FeatureSet, ready: np.ndarray, skipped: np.ndarray) -> Scores:
        """Return scores of all events, from the features of the ``ready`` ones."""
        reason = np.where(ready, BY_PHYSICS, skipped).astype(object)
        if features.status is not None and len(features.status) == ready.sum():
            reason[ready] = np.array(["", *REASONS.values()], dtype=object)[features.status]
        elif len(features.rejected) == 1:
            reason[ready] = next(iter(features.rejected))
        rows = np.flatnonzero(ready)[features.index]
        logits = np.full((len(ready), len(self.inputs.classes)), np.nan, dtype=np.float32)
        found = self._logits(features)
        good = np.isfinite(found).all(axis=1)
        logits[rows[good]] = found[good]
        reason[rows] = np.where(good, "", NO_NUMBER)
        accepted = np.zeros((len(ready), len(self.working_points)), bool)
        for i, point in enumerate(self.working_points):
            accepted[rows[good], i] = point.accepts(found[good])
        return Scores(reason, logits, accepted, features.hlf[good])

    def _logits(self, features: FeatureSet) -> np.ndarray:
        """Return (kept, classes) float32; the net gets events of similar length together."""
        n, hlf, particles = len(features.index), features.hlf, features.particles
        offsets, size, by_length = features.offsets, BATCH_HLF, np.arange(n)
        if self._reads_particles:
            block = EventBlock(hlf, particles, offsets, np.zeros(n, np.int8), features.index)
            order = reading_order(block, self.inputs.particles, self.inputs.order)
            particles = particles if order is None else particles[order]
            size, by_length = BATCH, np.argsort(np.diff(offsets), kind="stable")
        logits = np.empty((n, len(self.inputs.classes)), dtype=np.float32)
        for start in range(0, n, size):
            rows = by_length[start : start + size]
            inputs = {"hlf": hlf[rows]}
            if self._reads_particles:
                events = [particles[offsets[i] : offsets[i + 1]] for i in rows]
                inputs["particles"], inputs["lengths"] = pad(events)
            logits[rows] = self.net.logits(inputs)
        return logits

    def _require_same_physics(self, model: Path) -> None:
        """Refuse a net that was trained on the features of other physics."""
        advice = "Name the physics of its training by --physics."
        made = own.names(self.physics, self.inputs.definitions, empty_events())
        for group, features in zip(("hlf", "particles"), made, strict=True):
            wanted, names = getattr(self.inputs, group), tuple(f.name for f in features)
            if names != wanted:
                what = f"made for {group} {words(wanted)}, this physics makes {words(names)}"
                raise DataError(f"{model}: {what}. {advice}")
        trained, _, trained_version = self.net.physics.partition("@")
        used, _, used_version = self.physics_identity.partition("@")
        if trained and trained != used:
            what = f"trained on the features of {trained}, not of {used}"
            raise DataError(f"{model}: {what}. {advice}")
        if trained_version and trained_version != used_version:
            message = "%s: %s has changed since its training; scores may differ from its test"
            log.warning(message, model, used)

    def _require_same_store(self, store: EventStore, model: Path) -> None:
        """Refuse a net with other features or another normalisation than the store's."""
        wanted = Inputs.of(store, self.inputs.order)
        self.inputs.require_same_features(wanted, str(model))
        for group, name in itertools.product(("hlf", "particles"), ("mean", "std")):
            mine = np.asarray(self.inputs.statistics[group][name])
            theirs = np.asarray(wanted.statistics[group][name])
            if not np.allclose(mine, theirs, rtol=1e-6, atol=1e-9):
                worst = getattr(self.inputs, group)[int(np.argmax(np.abs(mine - theirs)))]
                what = f"its normalisation ({name} of {worst} in {group}) is not that of"
                raise DataError(f"{model}: {what} {store.path}. Give the store of its training.")


def _n_candidates(c: Columns) -> np.ndarray:
    return np.diff(c.tracks.offsets + c.photons.offsets + c.hadrons.offsets)
