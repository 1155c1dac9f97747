"""The content of a figure: the report's SVG, the PNG and PDF files and the CSV all follow from it.

It holds numbers and names only; svg.py and plots.py decide how each kind is drawn.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepflow.statistics.numbers import power_of_ten


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
    """(n) symmetric error on y"""
    interval: np.ndarray | None = None
    """(2, n) low and high end of an asymmetric error on y"""
    half_width: np.ndarray | None = None
    """(n) of the bins that points represent; such points are not joined by a line"""
    style: Literal["line", "points", "marks", "steps", "guide"] = "line"
    """``marks`` are points on another curve and ``guide`` a dotted line, both without a legend"""
    dash: int = 0
    """Pattern of the line."""

    @property
    def ends(self) -> np.ndarray | None:
        """(2, n) low and high end of the error bar on y."""
        if self.error is None:
            return self.interval
        return np.stack([self.y - self.error, self.y + self.error])

    @property
    def in_legend(self) -> bool:
        """Whether it is a curve of its own."""
        return self.style not in {"marks", "guide"}

    @property
    def joined(self) -> bool:
        """Whether its points are joined by a line."""
        return self.style in {"line", "guide"} or (
            self.style == "points" and self.half_width is None
        )


@dataclass(frozen=True)
class Chart:
    """Curves over two axes."""

    name: str
    """Name of its files; unique."""
    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    linear_y: Axis | None = None
    """A second view of the same curves, on a linear axis."""
    zoom: bool = False

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        wide = any(series.half_width is not None for series in self.series)
        uneven = any(series.interval is not None for series in self.series)
        header = ["series", self.x.label, self.y.label, *(["low", "high"] if uneven else ["error"])]
        rows: list[list[object]] = []
        for series in self.series:
            if series.style == "guide":
                continue
            x = series.x[:-1] if series.style == "steps" else series.x
            errors = [series.error]
            if uneven:
                errors = [None, None] if series.ends is None else [*series.ends]
            columns = [x, series.y, *errors, *([series.half_width] if wide else [])]
            blank = [""] * len(series.y)
            values = [blank if column is None else column.tolist() for column in columns]
            rows += [[series.name, *row] for row in zip(*values, strict=True)]
        return [*header, *(["half width of the bin"] if wide else [])], rows


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
        """Return header and rows of the CSV."""
        rows: list[list[object]] = [
            [row, column, int(self.counts[i, j]), float(self.share[i, j]), float(self.error[i, j])]
            for i, row in enumerate(self.labels)
            for j, column in enumerate(self.labels)
        ]
        return [self.row_label, self.column_label, "events", "share", "error"], rows


@dataclass(frozen=True)
class Bars:
    """One horizontal bar per name."""

    name: str
    title: str
    caption: str
    label: str
    labels: tuple[str, ...]
    value: np.ndarray
    error: np.ndarray

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        columns = zip(self.labels, self.value.tolist(), self.error.tolist(), strict=True)
        return ["name", self.label, "error"], [list(row) for row in columns]


@dataclass(frozen=True)
class Display:
    """The particles of one event in the plane of eta and phi."""

    name: str
    title: str
    caption: str
    kinds: tuple[str, ...]
    """Types of particles, the lepton last."""
    kind: np.ndarray
    """(n) position in ``kinds``"""
    eta: np.ndarray
    phi: np.ndarray
    pt: np.ndarray
    """(n) GeV"""
    facts: tuple[tuple[str, str], ...] = ()
    """Names and values of what is known of the event."""

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        numbers = (values.tolist() for values in (self.pt, self.eta, self.phi))
        kinds = [self.kinds[k] for k in self.kind]
        return ["kind", "pt [GeV]", "eta", "phi"], [
            list(row) for row in zip(kinds, *numbers, strict=True)
        ]

    @property
    def radius(self) -> np.ndarray:
        """(n) radius on the page; the area grows with pt, within limits.

        User-defined features may be negative, or no momentum at all.
        """
        return np.clip(1.6 * np.sqrt(np.maximum(self.pt, 0)), 1.2, 22.0)


AnyFigure = Chart | Matrix | Bars | Display


def colour(palette: str, index: int) -> str:
    """Return the colour of a model (``m``) or class (``c``); six of each, then they repeat."""
    return f"{palette}{index % 6}"


def file_name(*parts: str) -> str:
    """Return a name that is valid in every file system and URL."""
    return "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)


def ticks(axis: Axis, about: int = 5) -> list[float]:
    """Return round numbers along an axis: decades if logarithmic, else steps of 1, 2 or 5."""
    if axis.log:
        first = int(np.ceil(np.log10(axis.low) - 1e-9))
        last = int(np.floor(np.log10(axis.high) + 1e-9))
        if first < last:
            return [10.0**power for power in range(first, last + 1)]
        values = [m * 10.0**power for power in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [value for value in values if axis.low <= value <= axis.high]
    raw = (axis.high - axis.low) / about
    magnitude = 10 ** np.floor(np.log10(raw))
    step = float(magnitude * min((1, 2, 5, 10), key=lambda m: abs(m * magnitude - raw)))
    start, end = np.ceil(axis.low / step - 1e-9), np.floor(axis.high / step + 1e-9)
    return [round(index * step, 12) for index in range(int(start), int(end) + 1)]


def tick_label(value: float, *, log: bool) -> str:
    """Return a number as on an axis: ``0.5``, ``10⁻⁴``."""
    if log and (value < 0.01 or value >= 10000):
        power = round(np.log10(value))
        if abs(np.log10(value) - power) < 1e-9:
            return power_of_ten(power)
    return f"{value:g}"
