"""metrics.json and the figures -> report.html: one file that needs no other and no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hepflow.evaluate import published, tables, text
from hepflow.evaluate.figures import AnyFigure, file_name, svg
from hepflow.statistics import numbers
from hepflow.system.publishing import whole

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    path: Path, metrics: Mapping[str, Any], figures: Mapping[str, Sequence[AnyFigure]], folder: str
) -> None:
    """Write report.html atomically; ``folder`` has the files of the figures, relative to it.

    Figures are by section; those of ``scores:<model>`` and ``efficiency:<model>`` are one model's.
    """
    blocks: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    # The style and the script are hepflow's own files, so nothing in them needs escaping.
    environment.filters["own"] = lambda name: Markup((TEMPLATES / name).read_text())  # noqa: S704
    environment.filters["kind"] = lambda figure: type(figure).__name__.lower()
    environment.filters.update(drawing=svg.drawing, ticks=svg.ticks, file_name=file_name)
    modules = {"box": svg, "numbers": numbers, "published": published, "tables": tables}
    models, classes, mix = metrics["models"], metrics["classes"], metrics["settings"]["mix"]
    texts = {"mix": text.mix_text(mix, classes) if set(classes) <= set(mix) else ""}
    texts |= {"headline": text.headline(models, classes)}
    texts |= {"rate": text.rate_sentence(models, classes, mix)}
    shown: Any = {"metrics": metrics, "figures": figures, "folder": folder, **texts}
    page = environment.get_template("report.html.j2").render(**modules, **shown)
    with whole(path) as part:
        part.write_text(page)
