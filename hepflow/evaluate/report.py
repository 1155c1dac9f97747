"""metrics.json and the figures -> report.html: one file that needs no other and no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hepflow.evaluate import published, tables
from hepflow.evaluate.figures import svg
from hepflow.evaluate.figures.figure import AnyFigure
from hepflow.evaluate.text import headline, mix_text, rate_sentence
from hepflow.system.files import whole

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    path: Path, metrics: Mapping[str, Any], figures: Mapping[str, Sequence[AnyFigure]], folder: str
) -> None:
    """Write report.html atomically.

    Parameters
    ----------
    path : Path
    metrics : mapping
        Content of metrics.json.
    figures : mapping
        Section -> figures; ``scores:<model>`` and ``efficiency:<model>`` belong to one model.
    folder : str
        Folder of the figures' files, relative to the report.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    # The style and the script are hepflow's own files, so nothing in them needs escaping.
    environment.filters["own"] = lambda name: Markup((TEMPLATES / name).read_text())  # noqa: S704
    environment.filters["kind"] = lambda figure: type(figure).__name__.lower()
    environment.filters.update(drawing=svg.drawing, ticks=svg.ticks)
    models, classes, mix = metrics["models"], metrics["classes"], metrics["settings"]["mix"]
    text = environment.get_template("report.html.j2").render(
        metrics=metrics,
        headline=headline(models, classes),
        rate=rate_sentence(models, classes, mix),
        mix=mix_text(mix, classes) if set(classes) <= set(mix) else "",
        tables=_tables(metrics, [figure.name for figure in figures["events"]]),
        figures=figures,
        folder=folder,
        box=svg,
        published=published,
    )
    with whole(path) as part:
        part.write_text(text)


def _tables(metrics: Mapping[str, Any], displays: Sequence[str]) -> dict[str, Any]:
    models, best = metrics["models"], metrics["models"][metrics["best"]]
    shown = [name.removeprefix("event_") for name in displays]
    points = {name: tables.working_points(metrics, name) for name in best["selections"]}
    headline_ = points.pop("headline")
    rest = {name: points.pop(name) for name in list(points) if name.endswith("_vs_rest")}
    hard = {name: tables.hard_events(name, entry, shown) for name, entry in models.items()}
    return {
        "models": tables.models(metrics),
        "headline": headline_,
        "rest": rest if len(metrics["classes"]) > 2 else {},
        "pairwise": points,
        "pairs": tables.differences(metrics) if metrics["pairs"] else None,
        "ablation": tables.ablation(metrics) if metrics["ablation"] else None,
        "ablation_pairs": tables.ablation_differences(metrics),
        "cost": tables.cost(metrics),
        "published": tables.with_published(metrics),
        "hard": {name: table for name, table in hard.items() if table.rows},
        "sculpting": tables.sculpting(best) if best["efficiency"] else None,
        "provenance": tables.provenance(metrics),
    }
