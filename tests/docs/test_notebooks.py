"""The notebooks as they are in git; test_demo.py runs them."""

import ast
import importlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import hepflow

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 200_000

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_each_step_of_the_course() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_ingest",
        "02_features",
        "03_train",
        "04_results",
    ]


@each
def test_its_outputs_are_stripped_and_it_is_small(path: Path) -> None:
    ran = [
        cell["id"]
        for cell in cells(path, "code")
        if cell["outputs"] or cell["execution_count"] is not None
    ]
    assert ran == [], "clear all outputs before committing"
    assert path.stat().st_size < MOST_BYTES


@each
def test_its_first_cell_names_the_command_that_makes_the_data(path: Path) -> None:
    text = "".join(cells(path, "markdown")[0]["source"])
    assert "`make demo`" in text
    assert "`HEPFLOW_DEMO`" in text


@each
def test_it_is_a_lesson_with_words_before_all_code(path: Path) -> None:
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text())["cells"]]
    assert kinds[0] == "markdown"
    assert ("code", "code") not in list(pairwise(kinds))


@each
def test_its_links_and_the_pages_it_names_exist(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    pages = re.findall(r"`(docs/[\w-]+\.md)`", text)
    missing = [link for link in links if not (FOLDER / link).exists()] + [
        page for page in pages if not (FOLDER.parent / page).exists()
    ]
    assert missing == []


@each
def test_the_names_that_it_imports_exist(path: Path) -> None:
    lines = "\n".join("".join(cell["source"]) for cell in cells(path, "code")).splitlines()
    code = "\n".join(line for line in lines if not line.startswith("%"))
    missing = set(re.findall(r"\bhepflow\.(\w+)\(", code)) - set(hepflow.__all__)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hepflow"):
            module = importlib.import_module(str(node.module))
            missing |= {alias.name for alias in node.names if not hasattr(module, alias.name)}
    assert missing == set()
