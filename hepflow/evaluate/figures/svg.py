"""Figures -> the positions and paths that templates/figures.svg.j2 draws in the report.

Why not matplotlib's SVG: the page needs drawings that take their colours from its style sheet (one
drawing for light, dark and paper), that report.js can zoom (it transforms the group ``.curves`` and
replaces the ticks) and read values from (the JSON next to the drawing). Measured on the 40 charts
of a report on three models: 0.35 MB in 0.2 s, matplotlib 2.0 MB in 44 s on the same busy machine,
and its colours, hover and zoom would still have to be added. Without JavaScript all figures are
there, but static.

A chart has a fixed frame in the units of its viewBox; report.js has the same numbers:

        LEFT                   RIGHT
    TOP  +-----------------------+
         | .curves, clipped      |
         |                       |  BOTTOM
         +-----------------------+
           .ticks, .label             below: WIDTH, HEIGHT
"""

from typing import Any

import numpy as np

from hepflow.evaluate.figures import AnyFigure, Axis, Bars, Chart, Display, Matrix, Series
from hepflow.statistics.numbers import power_of_ten

WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 428, 10, 286
ACROSS, UPWARDS = (LEFT, RIGHT), (BOTTOM, TOP)
"""Start and end of the axes on the page, where y points down."""
BAR_HEIGHT, BAR_START = 20, 92
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2")


def place(values: Any, axis: Axis, ends: tuple[float, float]) -> list[float]:
    """Return positions on the page; zero on a logarithmic axis is well below the frame."""
    scale = np.log10 if axis.log else np.asarray
    low, high = scale(axis.low), scale(axis.high)
    visible = np.maximum(values, axis.low * 1e-3) if axis.log else np.asarray(values)
    share = np.clip((scale(visible) - low) / (high - low), -3, 4)
    return np.round(ends[0] + share * (ends[1] - ends[0]), 1).tolist()


def ticks(axis: Axis, ends: tuple[float, float], about: int = 5) -> list[tuple[float, str]]:
    """Return positions and labels of decades if logarithmic, else of steps of 1, 2 or 5."""
    values = _round_numbers(axis.low, axis.high, about, log=axis.log)
    labels = [_tick_label(value, log=axis.log) for value in values]
    return list(zip(place(values, axis, ends), labels, strict=True))


def _round_numbers(low: float, high: float, about: int, *, log: bool) -> list[float]:
    if log:
        first, last = int(np.ceil(np.log10(low) - 1e-9)), int(np.floor(np.log10(high) + 1e-9))
        if first < last:
            return [10.0**power for power in range(first, last + 1)]
        values = [m * 10.0**power for power in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [value for value in values if low <= value <= high]
    raw = (high - low) / about
    magnitude = 10 ** np.floor(np.log10(raw))
    step = float(magnitude * min((1, 2, 5, 10), key=lambda m: abs(m * magnitude - raw)))
    start, end = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(int(start), int(end) + 1)]


def _tick_label(value: float, *, log: bool) -> str:
    """Return ``0.5`` or ``10⁻⁴``."""
    if log and (value < 0.01 or value >= 10000):
        power = round(np.log10(value))
        if abs(np.log10(value) - power) < 1e-9:
            return power_of_ten(power)
    return f"{value:g}"


def drawing(figure: AnyFigure) -> dict[str, Any]:
    """Return the content of a figure's template; a matrix is a table and has none."""
    by_kind: Any = {Chart: _chart, Bars: _bars, Display: _display}
    return {} if isinstance(figure, Matrix) else by_kind[type(figure)](figure)


def _chart(figure: Chart) -> dict[str, Any]:
    """Return one or two views (logarithmic and linear), and what report.js shows of each curve."""
    views = []
    for y in filter(None, (figure.y, figure.linear_y)):
        curves = [_curve(series, figure.x, y) for series in figure.series]
        kind = "log" if y.log else "linear"
        views.append({"kind": kind, "x": figure.x, "y": y, "curves": curves})
    keys, data = [], []
    for one in (series for series in figure.series if series.in_legend):
        keys.append((one.name, one.colour, DASHES[one.dash % len(DASHES)]))
        numbers = {"x": one.x, "y": one.y, "e": one.error}
        short = {key: None if v is None else _short(v) for key, v in numbers.items()}
        ends = None if one.interval is None else [_short(pair) for pair in one.interval.T]
        about = {"name": one.name, "colour": one.colour, "style": one.style}
        data.append({**about, **short, "ends": ends})
    labels = {"x": figure.x.label, "y": figure.y.label}
    legend = keys if len(keys) > 1 else []
    return {"views": views, "legend": legend, "data": {**labels, "series": data}}


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def _curve(series: Series, x: Axis, y: Axis) -> dict[str, Any]:
    """Return the paths of error bars and line, and the places of points."""
    px, py = place(series.x, x, ACROSS), place(series.y, y, UPWARDS)
    points = list(zip(px, py, strict=False))  # steps have one more edge than heights
    bars: list[str] = []
    if series.ends is not None and series.style != "steps":
        ends = (place(end, y, UPWARDS) for end in series.ends)
        bars += [f"M{a} {b}V{c}" for a, b, c in zip(px, *ends, strict=True)]
        if series.half_width is not None:
            left = place(series.x - series.half_width, x, ACROSS)
            right = place(series.x + series.half_width, x, ACROSS)
            bars += [f"M{a} {b}H{c}" for a, b, c in zip(left, py, right, strict=True)]
    line = ""
    if series.style == "steps":
        steps = (f"V{b}H{a}" for a, b in zip(px[1:], py, strict=True))
        line = f"M{px[0]} {py[0]}" + "".join(steps)
    elif series.joined:
        line = "M" + " ".join(f"{a} {b}" for a, b in points)
    kind = {"guide": "guide", "points": "thin"}.get(series.style, "line")
    look = {"colour": series.colour, "kind": kind, "dash": DASHES[series.dash % len(DASHES)]}
    dots = points if series.style in {"points", "marks"} else []
    return {**look, "bars": "".join(bars), "dots": dots, "line": line}


def _bars(figure: Bars) -> dict[str, Any]:
    low, high = figure.value - figure.error, figure.value + figure.error
    span = min(float(low.min(initial=0)), 0.0), max(float(high.max(initial=0)), 1e-9)
    axis, ends = Axis(figure.label, *span), (BAR_START, RIGHT)
    places = (place(values, axis, ends) for values in (figure.value, low, high))
    numbers = figure.value.tolist(), figure.error.tolist()
    rows = list(zip(figure.labels, *numbers, *places, strict=True))
    scale = {"ticks": ticks(axis, ends, about=4), "zero": place(0.0, axis, ends)}
    return {"height": BAR_HEIGHT * len(figure.labels) + 40, **scale, "rows": rows}


def _display(figure: Display) -> dict[str, Any]:
    reach = 1.05 * max(float(np.abs(figure.eta).max(initial=0)), 3.0)
    x, y = Axis("η", -reach, reach), Axis("φ [rad]", -np.pi, np.pi)
    places = place(figure.eta, x, ACROSS), place(figure.phi, y, UPWARDS), figure.radius.tolist()
    numbers = (values.tolist() for values in (figure.pt, figure.eta, figure.phi))
    particles = list(zip(figure.kind.tolist(), *places, *numbers, strict=True))
    particles.sort(key=lambda particle: -particle[4])  # small circles on top of large ones
    kinds = sorted(set(figure.kind.tolist()))
    return {"x": x, "y": y, "particles": particles, "kinds": [(k, figure.kinds[k]) for k in kinds]}
