"""What a figure shows, apart from how it is drawn: the page (svg.py), the PNG and PDF files (plots.py) and the CSV all follow from it."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepflow.evaluate.text import power_of_ten


@dataclass(frozen=True)
class Axis:
    """One axis."""

    label: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    x: np.ndarray
    """(n), or the (n + 1) edges of steps"""
    y: np.ndarray
    """(n)"""
    colour: str = "ink"
    """``m0, m1, ...`` for models, ``c0, c1, ...`` for classes, ``ink`` for neither"""
    error: np.ndarray | None = None
    """(n) on y, as much to either side"""
    interval: np.ndarray | None = None
    """(2, n) low and high end of the bar on y, where it reaches further to one side"""
    half_width: np.ndarray | None = None
    """(n) of the bins that points stand for; such points are not joined by a line"""
    style: Literal["line", "points", "steps", "guide"] = "line"
    dash: int = 0

    @property
    def ends(self) -> np.ndarray | None:
        """(2, n) low and high end of the bar on y."""
        return (
            self.interval
            if self.error is None
            else np.stack([self.y - self.error, self.y + self.error])
        )


@dataclass(frozen=True)
class Chart:
    """Curves over two axes."""

    name: str
    """Of the files; unique."""
    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    linear_y: Axis | None = None
    """A second view of the same curves, on a linear axis."""
    zoom: bool = False

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of the CSV."""
        wide = any(series.half_width is not None for series in self.series)
        uneven = any(series.interval is not None for series in self.series)
        errors = ["low", "high"] if uneven else ["error"]
        header = [
            "series",
            self.x.label,
            self.y.label,
            *errors,
            *(["half width of the bin"] if wide else []),
        ]
        rows: list[list[object]] = []
        for series in self.series:
            if series.style == "guide":
                continue
            x = series.x[:-1] if series.style == "steps" else series.x
            none = [""] * len(series.y)
            spread = (
                ((None, None) if series.ends is None else tuple(series.ends))
                if uneven
                else (series.error,)
            )
            columns = [
                none if values is None else values.tolist()
                for values in (*spread, *((series.half_width,) if wide else ()))
            ]
            rows += [
                [series.name, *row]
                for row in zip(x.tolist(), series.y.tolist(), *columns, strict=True)
            ]
        return header, rows


@dataclass(frozen=True)
class Matrix:
    """Shares in a grid, such as a confusion matrix."""

    name: str
    title: str
    caption: str
    row_label: str
    column_label: str
    labels: tuple[str, ...]
    share: np.ndarray
    """(n, n) in [0, 1]"""
    error: np.ndarray
    counts: np.ndarray

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of the CSV."""
        rows: list[list[object]] = [
            [row, column, int(self.counts[i, j]), float(self.share[i, j]), float(self.error[i, j])]
            for i, row in enumerate(self.labels)
            for j, column in enumerate(self.labels)
        ]
        return [self.row_label, self.column_label, "events", "share", "error"], rows


@dataclass(frozen=True)
class Bars:
    """One horizontal bar a name."""

    name: str
    title: str
    caption: str
    label: str
    labels: tuple[str, ...]
    value: np.ndarray
    error: np.ndarray

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of the CSV."""
        return ["name", self.label, "error"], [
            [n, v, e]
            for n, v, e in zip(self.labels, self.value.tolist(), self.error.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Display:
    """The particles of one event in the plane of eta and phi."""

    name: str
    title: str
    caption: str
    kinds: tuple[str, ...]
    """Names of the kinds of particles, the lepton's last."""
    kind: np.ndarray
    """(n) position in ``kinds``"""
    eta: np.ndarray
    phi: np.ndarray
    pt: np.ndarray
    """(n) GeV"""
    facts: tuple[tuple[str, str], ...] = ()
    """What is known of the event, in words."""

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Header and rows of the CSV."""
        columns = zip(
            self.kind.tolist(), self.pt.tolist(), self.eta.tolist(), self.phi.tolist(), strict=True
        )
        return ["kind", "pt [GeV]", "eta", "phi"], [
            [self.kinds[k], pt, eta, phi] for k, pt, eta, phi in columns
        ]


AnyFigure = Chart | Matrix | Bars | Display


def colour(palette: str, index: int) -> str:
    """Of a model (``m``) or a class (``c``): there are six of each, then they come again, in another dash."""
    return f"{palette}{index % 6}"


def file_name(*parts: str) -> str:
    """A name that every file system and address takes."""
    return "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)


def ticks(axis: Axis, about: int = 5) -> list[float]:
    """Round numbers along an axis: decades on a logarithmic one, steps of 1, 2 or 5 on a linear one."""
    if axis.log:
        first, last = (
            int(np.ceil(np.log10(axis.low) - 1e-9)),
            int(np.floor(np.log10(axis.high) + 1e-9)),
        )
        decades = [10.0**power for power in range(first, last + 1)]
        if len(decades) >= 2:
            return decades
        return [
            m * 10.0**p
            for p in range(first - 1, last + 1)
            for m in (1, 2, 5)
            if axis.low <= m * 10.0**p <= axis.high
        ]
    span = axis.high - axis.low
    raw = span / about
    magnitude = 10 ** np.floor(np.log10(raw))
    step = float(magnitude * min((1, 2, 5, 10), key=lambda m: abs(m * magnitude - raw)))
    start = int(np.ceil(axis.low / step - 1e-9))
    return [
        round(index * step, 12)
        for index in range(start, int(np.floor(axis.high / step + 1e-9)) + 1)
    ]


def tick_label(value: float, *, log: bool) -> str:
    """As a person writes it."""
    if log and (value < 0.01 or value >= 10000):
        power = round(np.log10(value))
        if abs(np.log10(value) - power) < 1e-9:
            return power_of_ten(power)
    return f"{value:g}"
