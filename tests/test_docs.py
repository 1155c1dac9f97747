"""What the documents name exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def names_in(path: Path) -> set[str]:
    """Functions, classes, methods and constants of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef)
            }
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_the_walk_of_an_event_names_functions_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py): ([\w.]+)`", text)
    assert len(named) > 15
    assert [
        f"{file}: {name}" for file, name in named if name not in names_in(ROOT / "hepflow" / file)
    ] == []


def test_every_file_and_name_on_the_page_of_the_architecture_is_in_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = set(re.findall(r"`((?:\w+/)*\w+\.py)[:`]", text))
    assert len(files) > 25
    assert sorted(file for file in files if not (ROOT / "hepflow" / file).is_file()) == []
    words = set(
        re.findall(r"\w+", " ".join(path.read_text() for path in (ROOT / "hepflow").rglob("*.py")))
    )
    named = {
        part
        for name in re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)`", text)
        for part in name.split(".")
    }
    extensions = {"json", "parquet", "zarr", "onnx", "html", "py"}
    assert sorted(named - words - extensions) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
