"""Display of a live run: rates, latency, and drift of the high-level features from the training."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.text import Text

from hepflow.config.score import ScoreConfig
from hepflow.errors import ConfigError
from hepflow.models.drift import Spread
from hepflow.score.folder import ScoreFolder
from hepflow.score.record import ScoreRecord, add_histograms
from hepflow.score.working_points import WorkingPoint
from hepflow.system.terminal import MESSAGES, table

log = logging.getLogger(__name__)

RATE_WINDOW_S = 30.0
_LATENCIES = 2000
_TICK_S = 10.0


class View:
    """Numbers of a live run over its last seconds and events."""

    def __init__(
        self,
        config: ScoreConfig,
        working_points: Sequence[WorkingPoint],
        spread: Spread | None,  # of the training events; without it the drift is unknown
        folder: ScoreFolder,
    ) -> None:
        self.config, self.spread, self.folder = config, spread, folder
        self.streams = [point.stream for point in working_points]
        self.waiting = 0
        self.alarms: set[str] = set()
        classes, mix = folder.about["classes"], config.mix
        if mix and (set(mix) != set(classes) or sum(mix.values()) <= 0):
            wanted = f"name every class ({', '.join(classes)}) and have a positive sum"
            raise ConfigError(f"mix must {wanted}, got {dict(mix)}")
        self._mix = np.array([mix[name] for name in classes]) if mix else None
        self._recent: deque[tuple[float, ScoreRecord]] = deque()  # with the time of arrival
        self._latency: deque[tuple[float, int]] = deque(maxlen=_LATENCIES)
        self._window: deque[ScoreRecord] = deque()
        self._started = self._ticked = time.monotonic()

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
        records, kept = [record for _, record in self._recent], {}
        for name in self.streams:
            kept[name] = sum(record.accepted.get(name, 0) for record in records) / seconds
        return sum(record.ledger.n_in for record in records) / seconds, kept

    def latency(self) -> tuple[float, float] | None:
        """Return p50 and p99 of the seconds from the arrival of an event to its scores on disk.

        None before the first event.
        """
        if not self._latency:
            return None
        values, weights = np.array(sorted(self._latency)).T
        p50, p99 = np.searchsorted(np.cumsum(weights) / weights.sum(), [0.5, 0.99])
        return float(values[p50]), float(values[p99])

    def drift(self) -> dict[str, tuple[float, float]]:
        """Return feature -> PSI of the last events from the training, and its alarm level."""
        if self.spread is None or not self._window:
            return {}
        sums = map(np.array, add_histograms(record.histograms for record in self._window))
        psi, chance = self.spread.distance(sums, self._mix)
        limits = (self.config.drift_alarm + chance).tolist()  # chance alone gives some PSI
        names = self.folder.about["hlf"]
        return dict(zip(names, zip(psi.tolist(), limits, strict=True), strict=True))

    def line(self) -> str:
        """Return everything in one line, for a log."""
        rate, kept = self.rates()
        latency = "no event yet"
        if (quantiles := self.latency()) is not None:
            latency = "latency p50 {:.2f} s, p99 {:.2f} s".format(*quantiles)
        streams = "".join(f", {name} keeps {value:,.1f}/s" for name, value in kept.items())
        drift = "no drift" if self.spread else "drift unknown"
        if self.alarms:
            drift = f"drift of {', '.join(sorted(self.alarms))}"
        topic = self.config.reads_topic
        done, unit = ("micro-batches", "messages") if topic else ("files", "files")
        return (
            f"{rate:,.1f} events/s in{streams}; {latency}; "
            f"{self.folder.n_files:,} {done} done, {self.waiting:,} {unit} waiting, "
            f"{self.folder.n_quarantined:,} quarantined; {drift}"
        )

    def tick(self) -> None:
        """Every few seconds write the state of the folder, and log a line without a terminal."""
        now = time.monotonic()
        if now - self._ticked >= _TICK_S:
            self.folder.write(complete=False)
            if not MESSAGES.is_terminal:
                log.info("%s", self.line())
            self._ticked = now

    def __rich__(self) -> Group:
        rows = []
        for name, (psi, limit) in sorted(self.drift().items(), key=lambda item: -item[1][0]):
            mark = Text("ALARM" if name in self.alarms else "", "bold red")
            rows.append((name, f"{psi:.3f}", f"{limit:.3f}", mark))
        title = f"drift from the training, last {self.config.drift_events:,} events"
        columns = ("feature", "PSI", "alarm above", "")
        return Group(Text(self.line()), *([table(columns, rows, title)] if rows else []))


def shown(view: View) -> AbstractContextManager[object]:
    """Show a live table in the block, on a terminal."""
    if MESSAGES.is_terminal:
        return Live(view, console=MESSAGES, refresh_per_second=2)
    return nullcontext()
