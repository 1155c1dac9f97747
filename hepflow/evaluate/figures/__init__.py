"""The content of a figure: the report's SVG, the PNG and PDF files and the CSV all follow from it.

It holds numbers and names only, and knows no run; svg.py and plots.py decide how a kind is drawn.
"""

import re
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np


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
    x: np.ndarray  # (n), or the (n + 1) edges of steps
    y: np.ndarray  # (n)
    colour: str = "ink"
    """``m0, m1, ...`` for models, ``c0, c1, ...`` for classes, ``ink`` for neither"""
    error: np.ndarray | None = None  # (n) symmetric error on y
    interval: np.ndarray | None = None  # (2, n) low and high end of an asymmetric error on y
    half_width: np.ndarray | None = None
    """(n) of the bins that points represent; such points are not joined by a line"""
    style: Literal["line", "points", "marks", "steps", "guide"] = "line"
    """``marks`` are points on another curve and ``guide`` a dotted line, both without a legend"""
    dash: int = 0  # pattern of the line

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
        bins = self.style == "points" and self.half_width is not None
        return self.style in {"line", "points", "guide"} and not bins


@dataclass(frozen=True)
class Titled:
    """A figure."""

    name: str  # name of its files; unique
    title: str
    caption: str


@dataclass(frozen=True)
class Chart(Titled):
    """Curves over two axes."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    linear_y: Axis | None = None  # a second view of the same curves, on a linear axis
    zoom: bool = False

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        wide = any(series.half_width is not None for series in self.series)
        uneven = any(series.interval is not None for series in self.series)
        header = ["series", self.x.label, self.y.label, *(["low", "high"] if uneven else ["error"])]
        rows: list[list[object]] = []
        for series in (series for series in self.series if series.style != "guide"):
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
class Matrix(Titled):
    """Shares of the true classes, one row each, in the predicted ones."""

    labels: tuple[str, ...]
    share: np.ndarray  # (n, n) in [0, 1]
    error: np.ndarray
    counts: np.ndarray

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        names = product(self.labels, repeat=2)
        numbers = (table.ravel().tolist() for table in (self.counts, self.share, self.error))
        rows = [[*pair, *row] for pair, *row in zip(names, *numbers, strict=True)]
        return ["true class", "predicted class", "events", "share", "error"], rows


@dataclass(frozen=True)
class Bars(Titled):
    """One horizontal bar per name."""

    label: str
    labels: tuple[str, ...]
    value: np.ndarray
    error: np.ndarray

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        columns = zip(self.labels, self.value.tolist(), self.error.tolist(), strict=True)
        return ["name", self.label, "error"], [list(row) for row in columns]


@dataclass(frozen=True)
class Display(Titled):
    """The particles of one event in the plane of eta and phi."""

    kinds: tuple[str, ...]  # types of particles, the lepton last
    kind: np.ndarray  # (n) position in ``kinds``
    eta: np.ndarray
    phi: np.ndarray
    pt: np.ndarray  # (n) GeV
    facts: tuple[tuple[str, str], ...] = ()  # names and values of what is known of the event

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows of the CSV."""
        numbers = np.stack([self.pt, self.eta, self.phi], axis=1).tolist()
        rows = [[self.kinds[k], *row] for k, row in zip(self.kind, numbers, strict=True)]
        return ["kind", "pt [GeV]", "eta", "phi"], rows

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
