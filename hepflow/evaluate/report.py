"""metrics.json and the figures -> report.html: one file that needs no other and no network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hepflow.evaluate import published, tables, text
from hepflow.evaluate.figures import AnyFigure, file_name, svg
from hepflow.statistics import numbers
from hepflow.system.publishing import put

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    path: Path, metrics: Mapping[str, Any], figures: Mapping[str, Sequence[AnyFigure]], folder: str
) -> None:
    """Write report.html atomically; ``folder`` has the files of the figures, relative to it.

    Figures are by section; those of ``scores:<model>`` and ``efficiency:<model>`` are one model's.
    """
    models, classes, mix = metrics["models"], metrics["classes"], metrics["settings"]["mix"]
    texts = {"mix": text.mix_text(mix, classes) if set(classes) <= set(mix) else ""}
    texts |= {"headline": text.headline(models, classes)}
    texts |= {"rate": text.rate_sentence(models, classes, mix)}
    shown: Any = {"metrics": metrics, "figures": figures, "folder": folder, **texts}
    put(path, rendered("report.html.j2", shown).encode())


def rendered(template: str, shown: Mapping[str, Any]) -> str:
    """Return a page with the names in ``shown``, its style and its script."""
    modules: Any = {"box": svg, "numbers": numbers, "published": published, "tables": tables}
    return _environment().get_template(template).render(**modules, **shown, **_own())


@cache
def _environment() -> Environment:
    """Return jinja's, which compiles a template once."""
    blocks: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["kind"] = lambda figure: type(figure).__name__.lower()
    environment.filters.update(drawing=svg.drawing, ticks=svg.ticks, file_name=file_name)
    return environment


def _own() -> dict[str, Markup]:
    """Return the page's style and script, and the policy by which a browser takes no others."""
    shades = (f".p{percent}{{--p:{percent}%}}" for percent in range(101))
    style = (TEMPLATES / "report.css").read_text() + "".join(shades)
    script = (TEMPLATES / "report.js").read_text()
    rules = "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "img-src data:",  # the icon
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    texts = {"style": style, "script": script, "policy": rules}
    return {name: Markup(text) for name, text in texts.items()}  # noqa: S704 - hepflow's own files


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
