"""What a person sees of a live run: rates, latency, and how far the high-level features have drifted from the training."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hepflow.config.score import ScoreConfig
from hepflow.errors import ConfigError
from hepflow.models.drift import Spread
from hepflow.score.folder import ScoreFolder
from hepflow.score.task import Record
from hepflow.score.working_points import WorkingPoint
from hepflow.system.terminal import MESSAGES

log = logging.getLogger(__name__)

RATE_WINDOW_S = 30.0
_LATENCIES = 2000
_LOG_EVERY_S = 10.0


@dataclass(frozen=True)
class _Arrival:
    at: float
    record: Record


class View:
    """Numbers of a live run over its last seconds and events.

    Parameters
    ----------
    config : ScoreConfig
    working_points : sequence of WorkingPoint
    spread : Spread or None
        Of the training events; without it there is no drift to see.
    folder : ScoreFolder
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
        self.units = ("micro-batches", "messages") if config.reads_topic else ("files", "files")
        self.alarms: set[str] = set()
        self._names: tuple[str, ...] = tuple(folder.about.get("hlf", ()))
        self._mix = _mix(config, folder.about.get("classes", ()))
        self._recent: deque[_Arrival] = deque()
        self._latency: deque[tuple[float, int]] = deque(maxlen=_LATENCIES)
        self._window: deque[Record] = deque()
        self._started = self._logged = time.monotonic()

    def add(self, record: Record, latencies: Sequence[tuple[float, int]]) -> None:
        """A share is done: so many seconds after its file (each of its messages) was there, with so many events."""
        self._recent.append(_Arrival(time.monotonic(), record))
        self._latency.extend(latencies)
        if record.histograms:
            self._window.append(record)
            while (
                sum(held.n_out for held in self._window) - self._window[0].n_out
                >= self.config.drift_events
            ):
                self._window.popleft()
            self._judge()

    def rates(self) -> tuple[float, dict[str, float]]:
        """Events a second that came in, and that each stream kept, over the last seconds."""
        now = time.monotonic()
        while self._recent and now - self._recent[0].at > RATE_WINDOW_S:
            self._recent.popleft()
        seconds = max(min(now - self._started, RATE_WINDOW_S), 1e-9)
        kept = {
            name: sum(item.record.accepted.get(name, 0) for item in self._recent) / seconds
            for name in self.streams
        }
        return sum(item.record.n_in for item in self._recent) / seconds, kept

    def latency(self) -> tuple[float, float]:
        """Seconds from the moment that a file or a message is there until its scores are: of half of the events, and of 99 % of them."""
        if not self._latency:
            return float("nan"), float("nan")
        values, weights = np.array(self._latency).T
        order = np.argsort(values)
        share = np.cumsum(weights[order]) / weights.sum()
        return tuple(
            float(values[order][min(np.searchsorted(share, q), len(values) - 1)])
            for q in (0.5, 0.99)
        )  # type: ignore[return-value]

    def drift(self) -> dict[str, tuple[float, float]]:
        """Feature -> its distance from the training events (PSI), and how much of that is chance, over the last events."""
        if self.spread is None or not self._window:
            return {}
        sums = [
            np.sum(rows, axis=0)
            for rows in zip(*(record.histograms for record in self._window), strict=True)
        ]
        psi, chance = self.spread.distance(sums, self._mix)
        return {
            name: (float(a), float(b)) for name, a, b in zip(self._names, psi, chance, strict=True)
        }

    def line(self) -> str:
        """Everything in a line, for a log."""
        rate, kept = self.rates()
        p50, p99 = self.latency()
        streams = "".join(f", {name} keeps {value:,.1f}/s" for name, value in kept.items())
        drift = (
            f"drift of {', '.join(sorted(self.alarms))}"
            if self.alarms
            else "no drift"
            if self.spread
            else "drift unknown"
        )
        batches, unit = self.units
        done = f"{self.folder.n_files:,} {batches} done, {self.waiting:,} {unit} waiting, {len(self.folder.lost)} quarantined"
        return f"{rate:,.1f} events/s in{streams}; latency p50 {p50:.2f} s, p99 {p99:.2f} s; {done}; {drift}"

    def tick(self) -> None:
        """Where nobody watches: a line now and then."""
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_S:
            log.info("%s", self.line())
            self._logged = now

    def __rich__(self) -> Group:
        table = Table(
            "feature",
            "PSI",
            "alarm above",
            "",
            title=f"drift from the training, last {self.config.drift_events:,} events",
        )
        for name, (psi, chance) in sorted(self.drift().items(), key=lambda item: -item[1][0]):
            mark = Text("ALARM", "bold red") if name in self.alarms else Text("")
            table.add_row(name, f"{psi:.3f}", f"{self.config.drift_alarm + chance:.3f}", mark)
        return Group(Text(self.line()), table) if table.row_count else Group(Text(self.line()))

    def _judge(self) -> None:
        """Tell when a feature begins to drift, and when it is back."""
        now = {
            name
            for name, (psi, chance) in self.drift().items()
            if psi > self.config.drift_alarm + chance
        }
        for name in sorted(now - self.alarms):
            log.warning(
                "ALARM: %s has drifted from the training events (PSI %.3f)",
                name,
                self.drift()[name][0],
            )
        for name in sorted(self.alarms - now):
            log.info("%s is back where it was in the training", name)
        self.alarms = now


@contextmanager
def shown(view: View) -> Iterator[Callable[[], None]]:
    """A live table on a terminal; elsewhere what it gives is to be called to have a line in the log now and then."""
    if not MESSAGES.is_terminal:
        yield view.tick
        return
    with Live(view, console=MESSAGES, refresh_per_second=2):
        yield lambda: None


def _mix(config: ScoreConfig, classes: Sequence[str]) -> np.ndarray | None:
    if not config.mix:
        return None
    if set(config.mix) != set(classes) or sum(config.mix.values()) <= 0:
        raise ConfigError(
            f"mix must name every class ({', '.join(classes)}) and hold more than nothing, got {dict(config.mix)}"
        )
    return np.array([config.mix[name] for name in classes])
