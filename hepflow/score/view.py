"""Display of a live run: rates, latency, and drift of the high-level features from the training."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.text import Text

from hepflow.config.score import ScoreConfig
from hepflow.errors import ConfigError
from hepflow.models.drift import Spread
from hepflow.score.folder import ScoreFolder
from hepflow.score.task import ScoreRecord, add_histograms
from hepflow.score.working_points import WorkingPoint
from hepflow.system.terminal import MESSAGES, table

log = logging.getLogger(__name__)

RATE_WINDOW_S = 30.0
_LATENCIES = 2000
_LOG_EVERY_S = 10.0


class View:
    """Numbers of a live run over its last seconds and events.

    Without the spread of the training events the drift is unknown.
    """

    def __init__(
        self,
        config: ScoreConfig,
        working_points: Sequence[WorkingPoint],
        spread: Spread | None,
        folder: ScoreFolder,
    ) -> None:
        self.config, self.spread, self.folder = config, spread, folder
        self.streams = [point.stream for point in working_points]
        self.waiting = 0
        self.alarms: set[str] = set()
        classes, mix = folder.about["classes"], config.mix
        if mix and (set(mix) != set(classes) or sum(mix.values()) <= 0):
            raise ConfigError(
                f"mix must name every class ({', '.join(classes)}) and have a positive sum, "
                f"got {dict(mix)}"
            )
        self._mix = np.array([mix[name] for name in classes]) if mix else None
        self._recent: deque[tuple[float, ScoreRecord]] = deque()  # with the time of arrival
        self._latency: deque[tuple[float, int]] = deque(maxlen=_LATENCIES)
        self._window: deque[ScoreRecord] = deque()
        self._started = self._logged = time.monotonic()

    def add(self, record: ScoreRecord, latencies: Sequence[tuple[float, int]]) -> None:
        """Add a record, with the seconds and events of its file or of each of its messages."""
        self._recent.append((time.monotonic(), record))
        self._latency.extend(latencies)
        if not record.histograms:
            return
        self._window.append(record)
        n_events = sum(held.ledger.n_out for held in self._window)
        while n_events - self._window[0].ledger.n_out >= self.config.drift_events:
            n_events -= self._window.popleft().ledger.n_out
        drift = self.drift()
        now = {name for name, (psi, limit) in drift.items() if psi > limit}
        for name in sorted(now - self.alarms):
            psi = drift[name][0]
            log.warning("ALARM: %s has drifted from the training events (PSI %.3f)", name, psi)
        for name in sorted(self.alarms - now):
            log.info("%s agrees with the training events again", name)
        self.alarms = now

    def rates(self) -> tuple[float, dict[str, float]]:
        """Return events per second, in total and kept by each stream, over the last seconds."""
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()
        seconds = max(min(now - self._started, RATE_WINDOW_S), 1e-9)
        records = [record for _, record in self._recent]
        kept = {
            name: sum(record.accepted.get(name, 0) for record in records) / seconds
            for name in self.streams
        }
        return sum(record.ledger.n_in for record in records) / seconds, kept

    def latency(self) -> tuple[float, float]:
        """Return p50 and p99 of the seconds from the arrival of an event to its scores on disk."""
        if not self._latency:
            return float("nan"), float("nan")
        values, weights = np.array(sorted(self._latency)).T
        share = np.cumsum(weights) / weights.sum()
        at = np.minimum(np.searchsorted(share, [0.5, 0.99]), len(values) - 1)
        return float(values[at[0]]), float(values[at[1]])

    def drift(self) -> dict[str, tuple[float, float]]:
        """Return feature -> PSI from the training events, and its alarm level, for the last events.

        The level includes the PSI that chance alone gives.
        """
        if self.spread is None or not self._window:
            return {}
        sums = map(np.array, add_histograms(record.histograms for record in self._window))
        psi, chance = self.spread.distance(sums, self._mix)
        limits = (self.config.drift_alarm + chance).tolist()
        names = self.folder.about["hlf"]
        return dict(zip(names, zip(psi.tolist(), limits, strict=True), strict=True))

    def line(self) -> str:
        """Return everything in one line, for a log."""
        rate, kept = self.rates()
        p50, p99 = self.latency()
        streams = "".join(f", {name} keeps {value:,.1f}/s" for name, value in kept.items())
        drift = "no drift" if self.spread else "drift unknown"
        if self.alarms:
            drift = f"drift of {', '.join(sorted(self.alarms))}"
        topic = self.config.reads_topic
        done, unit = ("micro-batches", "messages") if topic else ("files", "files")
        return (
            f"{rate:,.1f} events/s in{streams}; latency p50 {p50:.2f} s, p99 {p99:.2f} s; "
            f"{self.folder.n_files:,} {done} done, {self.waiting:,} {unit} waiting, "
            f"{len(self.folder.lost)} quarantined; {drift}"
        )

    def tick(self) -> None:
        """Log a line every few seconds, without a terminal."""
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_S:
            log.info("%s", self.line())
            self._logged = now

    def __rich__(self) -> Group:
        rows = []
        for name, (psi, limit) in sorted(self.drift().items(), key=lambda item: -item[1][0]):
            mark = Text("ALARM" if name in self.alarms else "", "bold red")
            rows.append((name, f"{psi:.3f}", f"{limit:.3f}", mark))
        title = f"drift from the training, last {self.config.drift_events:,} events"
        columns = ("feature", "PSI", "alarm above", "")
        return Group(Text(self.line()), *([table(columns, rows, title)] if rows else []))


@contextmanager
def shown(view: View) -> Iterator[Callable[[], None]]:
    """Show a live table on a terminal; elsewhere yield a function that logs a line if it is due."""
    if not MESSAGES.is_terminal:
        yield view.tick
        return
    with Live(view, console=MESSAGES, refresh_per_second=2):
        yield lambda: None
