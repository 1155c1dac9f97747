"""Figures -> PNG, PDF and CSV files, drawn with matplotlib in mplhep's style. The same figure gives the same bytes."""

import csv
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

from hepflow.evaluate.figures.figure import AnyFigure, Bars, Chart, Display, Matrix, Series
from hepflow.evaluate.figures.svg import radii
from hepflow.system.files import whole

MODEL_COLOURS = ("#832db6", "#e76300", "#12836f", "#3f90da", "#8f8426", "#bd1f01")
CLASS_COLOURS = ("#717581", "#bd1f01", "#3f90da", "#a96b59", "#3f9e9e", "#8f8426")
KIND_COLOURS = ("#3f90da", "#e8a20c", "#717581", "#bd1f01")
"""After Petroff (2021), who chose them to be told apart by everybody; a few darkened for thin lines on white."""
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (7, 3)),
    (0, (2, 2.5)),
    (0, (9, 3, 2, 3)),
    (0, (4, 2)),
)
STYLE: Any = {
    **mplhep.style.CMS,
    "figure.figsize": (6.4, 4.8),
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 13,
    "axes.labelsize": 14,
    "axes.titlesize": 13,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 11,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "xtick.major.size": 6,
    "ytick.major.size": 6,
    "xtick.minor.size": 3,
    "ytick.minor.size": 3,
    "axes.linewidth": 1.0,
    "pdf.fonttype": 3,
}


def save(figure: AnyFigure, folder: Path) -> list[Path]:
    """Write ``folder/<name>.png``, ``.pdf`` and ``.csv``."""
    with mpl.rc_context(STYLE):
        drawn = draw(figure)
        png, pdf = io.BytesIO(), io.BytesIO()
        drawn.savefig(
            png, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4}
        )
        drawn.savefig(
            pdf, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None}
        )
    written = [
        _write(folder / f"{figure.name}.png", png.getvalue()),
        _write(folder / f"{figure.name}.pdf", pdf.getvalue()),
    ]
    text = io.StringIO()
    header, rows = figure.rows()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    written.append(_write(folder / f"{figure.name}.csv", text.getvalue().encode()))
    return written


def draw(figure: AnyFigure) -> Figure:
    """As matplotlib has it, for a notebook to show or to add to; no window, no pyplot."""
    with mpl.rc_context(STYLE):
        drawn = Figure()  # fixed margins: measuring every label would triple the time
        FigureCanvasAgg(drawn)
        _draw(drawn, figure)
    return drawn


def _write(path: Path, content: bytes) -> Path:
    with whole(path) as part:
        part.write_bytes(content)
    return path


def _draw(drawn: Figure, figure: AnyFigure) -> None:
    views: list[AnyFigure] = [figure]
    if isinstance(figure, Chart) and figure.linear_y is not None:
        views.append(replace(figure, y=figure.linear_y))
    width, height = drawn.get_size_inches()
    drawn.set_size_inches(width * len(views), height)
    drawn.subplots_adjust(
        left=0.15 / len(views), right=1 - 0.03 / len(views), bottom=0.14, top=0.92
    )
    for index, view in enumerate(views):
        axes = drawn.add_subplot(1, len(views), index + 1)
        axes.set_title(view.title, loc="left", y=1.01)
        if isinstance(view, Chart):
            _draw_chart(axes, view)
        elif isinstance(view, Matrix):
            _draw_matrix(axes, view)
        elif isinstance(view, Bars):
            _draw_bars(axes, view)
        else:
            _draw_display(axes, view)


def _draw_chart(axes: Axes, chart: Chart) -> None:
    for series in chart.series:
        _draw_series(axes, series)
    axes.set(
        xlabel=chart.x.label,
        ylabel=chart.y.label,
        xlim=(chart.x.low, chart.x.high),
        ylim=(chart.y.low, chart.y.high),
    )
    axes.set_xscale("log" if chart.x.log else "linear")
    axes.set_yscale("log" if chart.y.log else "linear")
    if sum(series.style != "guide" and series.dash >= 0 for series in chart.series) > 1:
        axes.legend()


def _draw_series(axes: Axes, series: Series) -> None:
    colour = _colour(series.colour)
    if series.style == "steps":
        filled = hist.Hist(hist.axis.Variable(series.x.tolist()), data=series.y)
        mplhep.histplot(
            filled,
            ax=axes,
            yerr=False if series.error is None else series.error,
            color=colour,
            label=series.name,
        )
    elif series.style == "points":
        line = (
            ""
            if series.dash < 0 or series.half_width is not None
            else DASHES[series.dash % len(DASHES)]
        )
        label = None if series.dash < 0 else series.name
        spread = None if series.ends is None else np.abs(series.ends - series.y)
        axes.errorbar(
            series.x,
            series.y,
            spread,
            series.half_width,
            color=colour,
            marker="o",
            linestyle=line,
            linewidth=1,
            label=label,
        )
    elif series.style == "guide":
        axes.plot(series.x, series.y, color="0.55", linestyle=":", linewidth=1)
    else:
        axes.plot(
            series.x,
            series.y,
            color=colour,
            linestyle=DASHES[series.dash % len(DASHES)],
            label=series.name,
        )


def _colour(token: str) -> str:
    palettes = {"m": MODEL_COLOURS, "c": CLASS_COLOURS, "k": KIND_COLOURS}
    if token[0] not in palettes or not token[1:].isdigit():
        return "#222222"
    palette = palettes[token[0]]
    return palette[int(token[1:]) % len(palette)]


def _draw_matrix(axes: Axes, matrix: Matrix) -> None:
    axes.imshow(matrix.share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(matrix.share):
        text = f"{share:.3f}\n±{matrix.error[i, j]:.3f}"
        axes.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            color="white" if share > 0.55 else "#222222",
            fontsize=12,
        )
    positions = range(len(matrix.labels))
    axes.set_xticks(positions, matrix.labels)
    axes.set_yticks(positions, matrix.labels)
    axes.minorticks_off()
    axes.set(xlabel=matrix.column_label, ylabel=matrix.row_label)


def _draw_bars(axes: Axes, bars: Bars) -> None:
    positions = np.arange(len(bars.labels))
    axes.barh(positions, bars.value, xerr=bars.error, color=MODEL_COLOURS[0], height=0.6)
    axes.set_yticks(positions, bars.labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", which="minor", left=False, right=False)
    axes.set_xlabel(bars.label)


def _draw_display(axes: Axes, display: Display) -> None:
    for kind, name in enumerate(display.kinds):
        own = display.kind == kind
        if own.any():
            area = (1.3 * radii(display.pt[own])) ** 2
            axes.scatter(
                display.eta[own],
                display.phi[own],
                s=area,
                color=KIND_COLOURS[kind % len(KIND_COLOURS)],
                alpha=0.55,
                linewidths=0,
                label=name,
            )
    axes.set(xlabel="η", ylabel="φ [rad]", ylim=(-np.pi, np.pi))
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, -0.06),
        ncols=len(display.kinds),
        columnspacing=1,
        handletextpad=0.1,
    )
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([30])
