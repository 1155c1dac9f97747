"""metrics.json and the figures -> report.html: one file that needs no other and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hepflow.evaluate import published, tables
from hepflow.evaluate.figures import svg
from hepflow.evaluate.figures.figure import AnyFigure, Bars, Chart, Display
from hepflow.evaluate.tables import Table
from hepflow.evaluate.text import headline, mix_text, rate_sentence
from hepflow.system.files import whole

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Drawn:
    """A figure as the template needs it."""

    figure: AnyFigure
    kind: str
    """``chart``, ``matrix``, ``bars`` or ``display``"""
    svg: Markup
    files: str
    """Path of its files, without the suffix, from the report."""


def write_report(
    path: Path, metrics: Mapping[str, Any], figures: Mapping[str, Sequence[AnyFigure]], folder: str
) -> None:
    """Write report.html whole.

    Parameters
    ----------
    path : Path
    metrics : mapping
        What metrics.json holds.
    figures : mapping
        Section -> figures; ``scores:<model>``, ``efficiency:<model>`` and so on belong to one model.
    folder : str
        Where the figures' files lie, from the report.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["own"] = lambda name: Markup((TEMPLATES / name).read_text())  # noqa: S704 - our own style and script
    text = environment.get_template("report.html.j2").render(
        metrics=metrics,
        headline=headline(metrics["models"], metrics["classes"]),
        rate=rate_sentence(metrics["models"], metrics["classes"], metrics["settings"]["mix"]),
        mix=mix_text(metrics["settings"]["mix"], metrics["classes"])
        if set(metrics["classes"]) <= set(metrics["settings"]["mix"])
        else "",
        tables=_tables(metrics, figures),
        figures={
            section: [_drawn(figure, folder) for figure in own] for section, own in figures.items()
        },
        published=published,
    )
    with whole(path) as part:
        part.write_text(text)


def _drawn(figure: AnyFigure, folder: str) -> Drawn:
    files = f"{folder}/{figure.name}"
    if isinstance(figure, Chart):
        return Drawn(figure, "chart", Markup(svg.chart(figure)), files)  # noqa: S704 - svg.py escapes every name
    if isinstance(figure, Bars):
        return Drawn(figure, "bars", Markup(svg.bars(figure)), files)  # noqa: S704
    if isinstance(figure, Display):
        return Drawn(figure, "display", Markup(svg.display(figure)), files)  # noqa: S704
    return Drawn(figure, "matrix", Markup(""), files)


def _tables(
    metrics: Mapping[str, Any], figures: Mapping[str, Sequence[AnyFigure]]
) -> dict[str, Any]:
    best = metrics["models"][metrics["best"]]
    shown = [figure.name.removeprefix("event_") for figure in figures["events"]]
    points = {name: tables.working_points(metrics, name) for name in best["selections"]}
    found: dict[str, Table | dict[str, Table] | None] = {
        "models": tables.models(metrics),
        "headline": points.pop("headline"),
        "rest": {
            name: table
            for name, table in points.items()
            if name.endswith("_vs_rest") and len(metrics["classes"]) > 2
        },
        "pairwise": {
            name: table for name, table in points.items() if not name.endswith("_vs_rest")
        },
        "pairs": tables.differences(metrics) if metrics["pairs"] else None,
        "ablation": tables.ablation(metrics) if metrics["ablation"] else None,
        "ablation_pairs": tables.ablation_differences(metrics) if metrics["ablation"] else None,
        "cost": tables.cost(metrics),
        "published": tables.beside_published(metrics),
        "hard": {
            name: tables.hard_events(name, entry, shown)
            for name, entry in metrics["models"].items()
            if entry["hardest"]
        },
        "sculpting": tables.sculpting(best) if best["efficiency"] else None,
        "provenance": tables.provenance(metrics),
    }
    return found
