"""Figures -> inline SVG that takes its colours from the page, so that one drawing serves light, dark and paper.

report.js adds hover values and zoom: it moves the group ``.curves`` and draws the ticks anew; without it everything is there and still.
"""

import json
from html import escape

import numpy as np

from hepflow.evaluate.figures.figure import Axis, Bars, Chart, Display, Series, tick_label, ticks

WIDTH, HEIGHT = 440.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 10.0, 44.0
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2")


def chart(figure: Chart) -> str:
    """A chart, in one or two views (logarithmic and linear) of which the page shows one."""
    views = [_view(figure, figure.y, "log" if figure.y.log else "linear", hidden=False)]
    if figure.linear_y is not None:
        views.append(_view(figure, figure.linear_y, "linear", hidden=True))
    data = {
        "x": figure.x.label,
        "y": figure.y.label,
        "series": [
            {
                "name": s.name,
                "colour": s.colour,
                "style": s.style,
                "x": _short(s.x),
                "y": _short(s.y),
                "e": None if s.error is None else _short(s.error),
                "ends": None if s.interval is None else [_short(ends) for ends in s.interval.T],
            }
            for s in figure.series
            if s.style != "guide" and s.dash >= 0
        ],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'{"".join(views)}{_legend(figure)}<script type="application/json">{text}</script>'


def _view(figure: Chart, y: Axis, kind: str, *, hidden: bool) -> str:
    clip = f"clip-{figure.name}-{kind}"
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    curves = "".join(_series(series, figure.x, y) for series in figure.series)
    numbers = f'data-x="{figure.x.low:.9g} {figure.x.high:.9g} {int(figure.x.log)}" data-y="{y.low:.9g} {y.high:.9g} {int(y.log)}"'
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(figure.title)}" data-view="{kind}" '
        f'{numbers}{" hidden" if hidden else ""} tabindex="0">'
        f'<clipPath id="{clip}"><rect x="{LEFT:g}" y="{TOP:g}" width="{plot_w:g}" height="{plot_h:g}"/></clipPath>'
        f'<g class="ticks">{_ticks(figure.x, y)}</g>'
        f'<rect class="frame" x="{LEFT:g}" y="{TOP:g}" width="{plot_w:g}" height="{plot_h:g}"/>'
        f'<g clip-path="url(#{clip})"><g class="curves">{curves}</g></g>'
        f'<text class="label" x="{LEFT + plot_w / 2:g}" y="{HEIGHT - 8:g}" text-anchor="middle">{escape(figure.x.label)}</text>'
        f'<text class="label" transform="translate(13 {TOP + plot_h / 2:g}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>'
        f'<g class="hover"></g></svg>'
    )


def place(values: np.ndarray, axis: Axis, start: float, end: float) -> np.ndarray:
    """Positions on the page; what a logarithmic axis cannot show lies well below it."""
    if axis.log:
        low, high = np.log10(axis.low), np.log10(axis.high)
        scaled = (np.log10(np.maximum(values, axis.low * 1e-3)) - low) / (high - low)
    else:
        scaled = (values - axis.low) / (axis.high - axis.low)
    return start + np.clip(scaled, -3, 4) * (end - start)


def _ticks(x: Axis, y: Axis) -> str:
    parts = []
    for value in ticks(x):
        at = float(place(np.array(value), x, LEFT, WIDTH - RIGHT))
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP:g}" y2="{HEIGHT - BOTTOM:g}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15:g}" text-anchor="middle">{tick_label(value, log=x.log)}</text>'
        )
    for value in ticks(y):
        at = float(place(np.array(value), y, HEIGHT - BOTTOM, TOP))
        parts.append(f'<line x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6:g}" y="{at + 4:.1f}" text-anchor="end">{tick_label(value, log=y.log)}</text>'
        )
    return "".join(parts)


def _series(series: Series, x: Axis, y: Axis) -> str:
    px, py = place(series.x, x, LEFT, WIDTH - RIGHT), place(series.y, y, HEIGHT - BOTTOM, TOP)
    colour, parts = f"s-{series.colour}", []
    if series.ends is not None and series.style != "steps":
        low, high = (place(end, y, HEIGHT - BOTTOM, TOP) for end in series.ends)
        bars = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(px, low, high, strict=True))
        if series.half_width is not None:
            left, right = (
                place(series.x + sign * series.half_width, x, LEFT, WIDTH - RIGHT)
                for sign in (-1, 1)
            )
            bars += "".join(
                f"M{a:.1f} {b:.1f}H{c:.1f}" for a, b, c in zip(left, py, right, strict=True)
            )
        parts.append(f'<path class="error {colour}" d="{bars}"/>')
    if series.style == "points":
        parts += [
            f'<circle class="dot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.2"/>'
            for a, b in zip(px, py, strict=True)
        ]
    elif series.style == "steps":
        path = f"M{px[0]:.1f} {py[0]:.1f}H{px[1]:.1f}" + "".join(
            f"V{b:.1f}H{a:.1f}" for a, b in zip(px[2:], py[1:], strict=True)
        )
        parts.append(f'<path class="line {colour}" d="{path}"/>')
    if series.style in {"line", "guide"} or (
        series.style == "points" and series.dash >= 0 and series.half_width is None
    ):
        points = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(px, py, strict=True))
        kind = {"guide": "guide", "points": "thin"}.get(series.style, "line")
        dash = f' stroke-dasharray="{DASHES[series.dash % len(DASHES)]}"' if series.dash > 0 else ""
        parts.append(f'<path class="{kind} {colour}" d="M{points}"{dash}/>')
    return "".join(parts)


def _legend(figure: Chart) -> str:
    names = {
        (series.name, series.colour, max(series.dash, 0)): None
        for series in figure.series
        if series.style != "guide" and series.dash >= 0
    }
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 26 8" aria-hidden="true"><path class="line s-{colour}" d="M0 4H26"'
        f"{f' stroke-dasharray={chr(34)}{DASHES[dash % len(DASHES)]}{chr(34)}' if dash else ''}/></svg>{escape(name)}</li>"
        for name, colour, dash in names
    )
    return f'<ul class="legend">{items}</ul>'


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def bars(figure: Bars) -> str:
    """Horizontal bars with their errors."""
    row, left = 20.0, 92.0
    height = row * len(figure.labels) + 40
    span = max(float((figure.value + figure.error).max(initial=0)), 1e-9)
    low = min(float((figure.value - figure.error).min(initial=0)), 0.0)
    axis = Axis(figure.label, low, span)
    parts = []
    for value in ticks(axis, 4):
        at = float(place(np.array(value), axis, left, WIDTH - RIGHT))
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{height - 36:g}"/>'
        )
        parts.append(
            f'<text x="{at:.1f}" y="{height - 22:g}" text-anchor="middle">{value:g}</text>'
        )
    zero = float(place(np.array(0.0), axis, left, WIDTH - RIGHT))
    for index, (name, value, error) in enumerate(
        zip(figure.labels, figure.value, figure.error, strict=True)
    ):
        y = row * index + 4
        end, low_end, high_end = (
            float(place(np.array(v), axis, left, WIDTH - RIGHT))
            for v in (value, value - error, value + error)
        )
        parts.append(
            f'<text x="{left - 6:g}" y="{y + 11:g}" text-anchor="end">{escape(name)}</text>'
        )
        parts.append(
            f'<rect class="bar s-m0" x="{min(zero, end):.1f}" y="{y:g}" width="{abs(end - zero):.1f}" height="12">'
        )
        parts.append(f"<title>{escape(name)}: {value:.4g} ± {error:.2g}</title></rect>")
        parts.append(f'<path class="error s-ink" d="M{low_end:.1f} {y + 6:g}H{high_end:.1f}"/>')
    parts.append(
        f'<text class="label" x="{(left + WIDTH - RIGHT) / 2:g}" y="{height - 4:g}" text-anchor="middle">{escape(figure.label)}</text>'
    )
    return f'<svg class="still" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(figure.title)}">{"".join(parts)}</svg>'


def display(figure: Display) -> str:
    """Particles as circles whose area grows with pt."""
    reach = max(float(np.abs(figure.eta).max(initial=0)), 3.0)
    x, y = Axis("η", -reach * 1.05, reach * 1.05), Axis("φ [rad]", -np.pi, np.pi)
    px, py = place(figure.eta, x, LEFT, WIDTH - RIGHT), place(figure.phi, y, HEIGHT - BOTTOM, TOP)
    radius = radii(figure.pt)
    order = np.argsort(-figure.pt, kind="stable")
    circles = "".join(
        f'<circle class="particle s-k{figure.kind[i]}" cx="{px[i]:.1f}" cy="{py[i]:.1f}" r="{radius[i]:.1f}">'
        f"<title>{figure.kinds[figure.kind[i]]}: pt {figure.pt[i]:.1f} GeV, η {figure.eta[i]:.2f}, φ {figure.phi[i]:.2f}</title></circle>"
        for i in order
    )
    present = sorted(set(figure.kind.tolist()))
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 26 8" aria-hidden="true"><circle class="particle s-k{k}" cx="13" cy="4" r="4"/></svg>'
        f"{figure.kinds[k]}</li>"
        for k in present
    )
    frame = f'<rect class="frame" x="{LEFT:g}" y="{TOP:g}" width="{WIDTH - LEFT - RIGHT:g}" height="{HEIGHT - TOP - BOTTOM:g}"/>'
    labels = (
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8:g}" text-anchor="middle">η</text>'
        f'<text class="label" transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" text-anchor="middle">φ [rad]</text>'
    )
    svg = f'<svg class="still" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(figure.title)}">'
    return f'{svg}<g class="ticks">{_ticks(x, y)}</g>{frame}{circles}{labels}</svg><ul class="legend">{keys}</ul>'


def radii(pt: np.ndarray) -> np.ndarray:
    """Radius on the page of a particle of transverse momentum ``pt`` in GeV: the area grows with pt, within limits.

    Features of a user's own may be below zero, or no momentum at all.
    """
    return np.clip(1.6 * np.sqrt(np.maximum(pt, 0)), 1.2, 22.0)
