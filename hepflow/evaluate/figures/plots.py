"""Figures -> PNG, PDF and CSV files, by matplotlib in mplhep's style.

The same figure gives the same bytes: without dates, and with fixed margins.
"""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import hist
import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hepflow.evaluate.figures import AnyFigure, Bars, Chart, Display, Matrix, Series
from hepflow.system.files import write_csv
from hepflow.system.publishing import put

# After Petroff (2021), distinct for colour-blind readers; a few darkened for thin lines on white.
MODEL_COLOURS = ("#832db6", "#e76300", "#12836f", "#3f90da", "#8f8426", "#bd1f01")
CLASS_COLOURS = ("#717581", "#bd1f01", "#3f90da", "#a96b59", "#3f9e9e", "#8f8426")
KIND_COLOURS = ("#3f90da", "#e8a20c", "#717581", "#bd1f01")
PALETTES = {"m": MODEL_COLOURS, "c": CLASS_COLOURS}
INK = "#222222"
PATTERNS = ((7, 3), (2, 2.5), (9, 3, 2, 3), (4, 2))
DASHES: tuple[Any, ...] = ("-", *((0, pattern) for pattern in PATTERNS))
SUFFIXES = ("png", "pdf", "csv")
PAGE = {"figure.figsize": (6.4, 4.8), "figure.dpi": 150, "savefig.dpi": 150, "pdf.fonttype": 3}
FONTS = {"font.size": 13, "axes.labelsize": 14, "axes.titlesize": 13, "legend.fontsize": 11}
LINES = {"axes.linewidth": 1.0, "lines.linewidth": 1.6, "lines.markersize": 5}
TICK = {"labelsize": 12, "major.size": 6, "minor.size": 3}
TICKS = {f"{axis}tick.{name}": size for axis in "xy" for name, size in TICK.items()}
STYLE: Any = {**mplhep.style.CMS, **PAGE, **FONTS, **LINES, **TICKS}


def save(figure: AnyFigure, folder: Path) -> None:
    """Write ``folder/<name>.png``, ``.pdf`` and ``.csv``, which `filled` flushes to the disk."""
    for suffix, content in images(figure).items():
        put(folder / f"{figure.name}.{suffix}", content, flush=False)
    header, rows = figure.rows()
    write_csv(folder / f"{figure.name}.csv", [header, *rows], "\n", flush=False)


def images(figure: AnyFigure) -> dict[str, bytes]:
    """Return the contents of the PNG and the PDF file."""
    png, pdf = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(STYLE):
        drawn = draw(figure)
        speed: dict[str, Any] = {"compress_level": 4}
        drawn.savefig(png, format="png", metadata={"Software": None}, pil_kwargs=speed)
        dateless = dict.fromkeys(("CreationDate", "Producer", "Creator"))
        drawn.savefig(pdf, format="pdf", metadata=dateless)
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


def draw(figure: AnyFigure) -> Figure:
    """Return a matplotlib figure to show or to add to; a chart with two views has two axes."""
    views: list[AnyFigure] = [figure]
    if isinstance(figure, Chart) and figure.linear_y is not None:
        views.append(replace(figure, y=figure.linear_y))
    by_kind: Any = {Chart: _chart, Matrix: _matrix, Bars: _bars, Display: _display}
    with mpl.rc_context(STYLE):
        drawn = Figure()
        FigureCanvasAgg(drawn)  # no window, no pyplot
        n, (width, height) = len(views), drawn.get_size_inches()
        drawn.set_size_inches(width * n, height)
        # Fixed margins: a layout that measures every label takes three times as long.
        drawn.subplots_adjust(left=0.15 / n, right=1 - 0.03 / n, bottom=0.14, top=0.92)
        for index, view in enumerate(views, start=1):
            axes = drawn.add_subplot(1, n, index)
            axes.set_title(view.title, loc="left", y=1.01)
            by_kind[type(view)](axes, view)
    return drawn


def _chart(axes: Axes, chart: Chart) -> None:
    for series in chart.series:
        _series(axes, series)
    axes.set(xlabel=chart.x.label, ylabel=chart.y.label)
    axes.set(xlim=(chart.x.low, chart.x.high), ylim=(chart.y.low, chart.y.high))
    axes.set_xscale("log" if chart.x.log else "linear")
    axes.set_yscale("log" if chart.y.log else "linear")
    if sum(series.in_legend for series in chart.series) > 1:
        axes.legend()


def _series(axes: Axes, series: Series) -> None:
    palette = PALETTES.get(series.colour[0], ())
    about: dict[str, Any] = {"color": palette[int(series.colour[1:])] if palette else INK}
    if series.in_legend:
        about["label"] = series.name
    dash = DASHES[series.dash % len(DASHES)]
    if series.style == "steps":
        filled = hist.Hist(hist.axis.Variable(series.x.tolist()), data=series.y)
        error = False if series.error is None else series.error
        mplhep.histplot(filled, ax=axes, yerr=error, **about)
    elif series.style in {"points", "marks"}:
        spread = None if series.ends is None else np.abs(series.ends - series.y)
        about |= {"marker": "o", "linewidth": 1, "linestyle": dash if series.joined else ""}
        axes.errorbar(series.x, series.y, spread, series.half_width, **about)
    elif series.style == "guide":
        axes.plot(series.x, series.y, color="0.55", linestyle=":", linewidth=1)
    else:
        axes.plot(series.x, series.y, linestyle=dash, **about)


def _matrix(axes: Axes, matrix: Matrix) -> None:
    axes.imshow(matrix.share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(matrix.share):
        text, colour = f"{share:.3f}\n±{matrix.error[i, j]:.3f}", "white" if share > 0.55 else INK
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=12)
    positions = range(len(matrix.labels))
    axes.set_xticks(positions, matrix.labels)
    axes.set_yticks(positions, matrix.labels)
    axes.minorticks_off()
    axes.set(xlabel="predicted class", ylabel="true class")


def _bars(axes: Axes, bars: Bars) -> None:
    positions = np.arange(len(bars.labels))
    axes.barh(positions, bars.value, xerr=bars.error, color=MODEL_COLOURS[0], height=0.6)
    axes.set_yticks(positions, bars.labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", which="minor", left=False, right=False)
    axes.set_xlabel(bars.label)


def _display(axes: Axes, display: Display) -> None:
    for kind, name in enumerate(display.kinds):
        own = display.kind == kind
        if own.any():
            colour, area = KIND_COLOURS[kind % len(KIND_COLOURS)], (1.3 * display.radius[own]) ** 2
            look: dict[str, Any] = {"color": colour, "alpha": 0.55, "linewidths": 0}
            axes.scatter(display.eta[own], display.phi[own], s=area, label=name, **look)
    axes.set(xlabel="η", ylabel="φ [rad]", ylim=(-np.pi, np.pi))
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.06)}
    narrow: dict[str, Any] = {"columnspacing": 1, "handletextpad": 0.1}
    legend = axes.legend(ncols=len(display.kinds), **below, **narrow)
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([30])
