"""Raw events -> scores, in process: the selection and the features of the training, and the exported net. No torch, no pickle.

>>> from hepflow.score.scorer import Scorer
>>> scorer = Scorer(Path("runs/inclusive/model.onnx"))
>>> scores = scorer.score(events)  # awkward records, as `hepflow.ingest` reads them and `hepflow.data.events` does
>>> scores.probabilities[scores.selected]

Nothing of it depends on the other events of a call, but for rounding in the last bits of a logit.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from hepflow.physics.columns import Columns, columns
from hepflow.physics.features import FeatureSet, compute_columns
from hepflow.physics.selection import REASONS
from hepflow.physics.skim import NOT_FINITE
from hepflow.schema import COLLECTIONS
from hepflow.score.working_points import WorkingPoint

log = logging.getLogger(__name__)

BATCH = 16
"""Events that the net sees at once where it reads particles, all of about the same length: more of them only means more padding."""
BATCH_HLF = 4096
"""The same where it does not."""
MAX_CANDIDATES = 20_000
"""Tracks, photons and neutral hadrons of an event: the busiest collisions have half of it. Work grows with the square of it."""
OVERSIZED = f"more than {MAX_CANDIDATES:,} particles"
NO_NUMBER = "the net gives no number"
BY_PHYSICS = "rejected by the physics"


@dataclass(frozen=True)
class Scores:
    """What the net says of events, in their order."""

    reason: np.ndarray
    """(events) str, why an event has no score; empty where it has one"""
    logits: np.ndarray
    """(events, classes) float32, NaN where there is none"""
    accepted: np.ndarray
    """(events, working points) bool: which streams of the trigger keep it"""
    hlf: np.ndarray
    """(selected, features) float32, what the net was given"""

    @property
    def selected(self) -> np.ndarray:
        """(events) bool: whether it has a score."""
        return self.reason == ""

    @property
    def probabilities(self) -> np.ndarray:
        """(events, classes) float64, NaN where there is no score."""
        return softmax(self.logits)


class Scorer:
    """A net and everything before it. Make it once: loading takes a second, an event microseconds to milliseconds.

    Parameters
    ----------
    model : Path
        What `hepflow export` wrote, which `hepflow train fit` does at its end.
    physics : str or None
        ``package.module:function`` that makes the features, if the net was trained on a user's own.
    store : Path or None
        A feature store to hold the model against: classes, features, definitions and normalisation must be its own.
    working_points : sequence of WorkingPoint
        Of `hepflow.score.working_points.resolve`.
    threads : int
        For the net; 0: as many as there are cores.

    Raises
    ------
    DataError
        The model is not one, or was trained on other features than these.
    """

    def __init__(
        self,
        model: Path,
        physics: str | None = None,
        store: Path | None = None,
        working_points: Sequence[WorkingPoint] = (),
        threads: int = 1,
    ) -> None:
        self.net = OnnxNet(model, threads)
        self.inputs = self.net.inputs
        self.working_points = tuple(working_points)
        self.physics = physics
        self.physics_identity = own.identity(physics)
        self._physics = own.load(physics)
        self._require_same_physics(model)
        if store is not None:
            _require_same_store(EventStore.open(store), self.inputs, model)
        self._reads_particles = "particles" in self.net.reads
        self.score(empty_events())  # compiles, if nobody has

    def score(self, events: ak.Array) -> Scores:
        """Scores of events.

        Parameters
        ----------
        events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`, each a list of records

        Raises
        ------
        DataError
            A collection or a field is missing, or a user's own physics does not keep its contract.
        """
        _require_collections(events)
        events = ak.to_packed(events[list(COLLECTIONS)])
        finite = skim.is_finite(events) if len(events) else np.empty(0, bool)
        if (
            self.physics is None
        ):  # its selection asks for the lepton, and leaves out the soft particles, by itself
            return self._score_columns(columns(events), finite)
        oversized = _n_candidates(columns(events)) > MAX_CANDIDATES
        ready = finite & ~oversized & skim.has_lepton(events)
        skipped = np.select([~finite, oversized], [NOT_FINITE, OVERSIZED], skim.NO_LEPTON)
        features = own.check(
            self._physics(skim.drop_soft(events[ready]), self.inputs.definitions),
            int(ready.sum()),
            self.physics,
        )
        return self._finish(features, ready, skipped)

    def score_columns(self, flat: Columns) -> Scores:
        """The same from flat arrays, with hepflow's own physics: for one or a few events, awkward arrays cost more than all the rest.

        Parameters
        ----------
        flat : Columns
            Float32 and int32 arrays with int64 offsets, see `hepflow.physics.columns`.
        """
        n_events = len(flat.tracks.offsets) - 1
        finite = np.ones(n_events, bool)
        for column in flat:
            for values in column[1:]:
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    finite[
                        np.repeat(np.arange(n_events), np.diff(column.offsets))[
                            ~np.isfinite(values)
                        ]
                    ] = False
        return self._score_columns(flat, finite)

    def _score_columns(self, flat: Columns, finite: np.ndarray) -> Scores:
        oversized = _n_candidates(flat) > MAX_CANDIDATES
        ready = finite & ~oversized
        skipped = np.where(finite, OVERSIZED, NOT_FINITE)
        chosen = flat if ready.all() else _rows(flat, ready)
        return self._finish(
            compute_columns(chosen, self.inputs.definitions, particles=self._reads_particles),
            ready,
            skipped,
        )

    def _finish(self, features: FeatureSet, ready: np.ndarray, skipped: np.ndarray) -> Scores:
        """Scores of all events, from the features of those that were ``ready`` for them."""
        n_events = len(ready)
        reason = np.where(ready, _why(features, int(ready.sum()), ready), skipped).astype(object)
        rows = np.flatnonzero(ready)[features.index]
        logits = np.full((n_events, len(self.inputs.classes)), np.nan, dtype=np.float32)
        found = self._logits(features)
        good = np.isfinite(found).all(axis=1)
        logits[rows[good]] = found[good]
        reason[rows] = np.where(good, "", NO_NUMBER)
        accepted = np.zeros((n_events, len(self.working_points)), bool)
        for i, point in enumerate(self.working_points):
            accepted[rows[good], i] = point.accepts(found[good])
        return Scores(reason, logits, accepted, features.hlf[good])

    def _logits(self, features: FeatureSet) -> np.ndarray:
        """(kept, classes) float32; events of about the same length go through the net together."""
        n = len(features.index)
        logits = np.empty((n, len(self.inputs.classes)), dtype=np.float32)
        if not self._reads_particles:
            for start in range(0, n, BATCH_HLF):
                logits[start : start + BATCH_HLF] = self.net.logits(
                    {"hlf": features.hlf[start : start + BATCH_HLF]}
                )
            return logits
        block = EventBlock(
            features.hlf, features.particles, features.offsets, np.zeros(n, np.int8), features.index
        )
        order = reading_order(block, self.inputs.particles, self.inputs.order)
        particles = features.particles if order is None else features.particles[order]
        by_length = np.argsort(np.diff(features.offsets), kind="stable")
        for start in range(0, n, BATCH):
            rows = by_length[start : start + BATCH]
            padded, lengths = pad(
                [particles[features.offsets[i] : features.offsets[i + 1]] for i in rows]
            )
            logits[rows] = self.net.logits(
                {"hlf": features.hlf[rows], "particles": padded, "lengths": lengths}
            )
        return logits

    def _require_same_physics(self, model: Path) -> None:
        """Refuse a net that was trained on the features of other physics."""
        made = own.names(self.physics, self.inputs.definitions, empty_events())
        for what, wanted, there in zip(
            ("hlf", "particles"), (self.inputs.hlf, self.inputs.particles), made, strict=True
        ):
            names = tuple(feature.name for feature in there)
            if names != wanted:
                raise DataError(
                    f"{model}: made for {what} {words(wanted)}, this physics makes {words(names)}. Name its own by --physics."
                )
        trained, used = (
            identity.partition("@") for identity in (self.net.physics, self.physics_identity)
        )
        if trained[0] and trained[0] != used[0]:
            raise DataError(
                f"{model}: trained on the features of {trained[0]}, not of {used[0]}. Name the one of its training by --physics."
            )
        if trained[2] and trained[2] != used[2]:
            log.warning(
                "%s: the sources of %s have changed since its training; scores may differ from its test",
                model,
                used[0],
            )


def _require_same_store(store: EventStore, inputs: Inputs, model: Path) -> None:
    """Refuse a net whose features or normalisation are not the store's."""
    wanted = Inputs.of(store, inputs.order)
    inputs.require_same_features(wanted, str(model))
    for what in ("hlf", "particles"):
        for name in ("mean", "std"):
            mine, theirs = (np.asarray(side.statistics[what][name]) for side in (inputs, wanted))
            if not np.allclose(mine, theirs, rtol=1e-6, atol=1e-9):
                worst = getattr(inputs, what)[int(np.argmax(np.abs(mine - theirs)))]
                raise DataError(
                    f"{model}: its normalisation ({name} of {worst} in {what}) is not that of {store.path}. Give its own store."
                )


def _require_collections(events: ak.Array) -> None:
    missing = [name for name in COLLECTIONS if name not in events.fields]
    if missing:
        raise DataError(
            f"the events have no collection {missing[0]!r}, only {', '.join(events.fields)}. Scoring needs {', '.join(COLLECTIONS)}."
        )


def _why(features: FeatureSet, n_events: int, ready: np.ndarray) -> np.ndarray:
    """(all events) why those that were ready for the physics were rejected by it."""
    reason = np.full(len(ready), BY_PHYSICS, dtype=object)
    if features.status is not None and len(features.status) == n_events:
        reason[ready] = np.array(["", *REASONS.values()], dtype=object)[features.status]
    elif len(features.rejected) == 1:
        reason[:] = next(iter(features.rejected))
    return reason


def _n_candidates(c: Columns) -> np.ndarray:
    return np.diff(c.tracks.offsets) + np.diff(c.photons.offsets) + np.diff(c.hadrons.offsets)


def _rows(c: Columns, keep: np.ndarray) -> Columns:
    """Some of the events."""
    parts: dict[str, Any] = {}
    for name in c._fields:
        column: Any = getattr(c, name)
        counts = np.diff(column.offsets)
        inside = np.repeat(keep, counts)
        offsets = np.concatenate([[0], np.cumsum(counts[keep])])
        parts[name] = type(column)(offsets, *(values[inside] for values in column[1:]))
    return Columns(**parts)
