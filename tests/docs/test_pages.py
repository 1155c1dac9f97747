"""Names, links and the table of folders in the documents agree with the package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
WALK = ARCHITECTURE.split("## The path of one event")[1].split("\n## ")[0]
GLOSSARY = ROOT / "docs" / "glossary.md"


def names_in(path: Path) -> set[str]:
    """Return functions, classes, methods and constants of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            names |= {f"{node.name}.{each.name}" for each in inner}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def unknown(text: str) -> list[str]:
    """Return the pairs of file and name in a text that are not in the package."""
    named = re.findall(r"`([\w/]+\.py): ([\w.]+)`", text)
    assert len(named) > 15
    files = {file: ROOT / "hepflow" / file for file, _ in named}
    return [
        f"{file}: {name}"
        for file, name in named
        if not files[file].is_file() or name not in names_in(files[file])
    ]


def test_the_path_of_an_event_names_functions_that_exist() -> None:
    assert unknown(WALK) == []


def test_the_path_of_an_event_leads_through_at_most_25_modules() -> None:
    assert 15 < len(set(re.findall(r"`((?:\w+/)*\w+\.py)[:`]", WALK))) <= 25


def test_the_modules_in_the_glossary_own_the_names_that_it_gives() -> None:
    assert unknown(GLOSSARY.read_text()) == []


def test_the_glossary_is_sorted_and_has_each_word_once() -> None:
    tables = [
        re.findall(r"^\| \*\*(.+?)\*\*", section, re.MULTILINE)
        for section in GLOSSARY.read_text().split("\n## ")[1:]
    ]
    assert [words for words in tables if words != sorted(words, key=str.lower)] == []
    assert 25 < sum(map(len, tables)) == len(set().union(*tables))


def test_every_file_and_name_on_the_page_of_the_architecture_is_in_the_package() -> None:
    files = set(re.findall(r"`((?:\w+/)*\w+\.py)[:`]", ARCHITECTURE))
    assert sorted(file for file in files if not (ROOT / "hepflow" / file).is_file()) == []
    sources = " ".join(path.read_text() for path in (ROOT / "hepflow").rglob("*.py"))
    words = set(re.findall(r"\w+", sources))
    named = re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)`", ARCHITECTURE)
    parts = {part for name in named for part in name.split(".")}
    extensions = {"json", "parquet", "zarr", "onnx", "html", "py"}
    assert sorted(parts - words - extensions) == []


FOREIGN = {
    "PENDING (Dependency)",
    "DUE TO TIME LIMIT",
    "NODE_FAIL",
    "exitCode: 13",
    "OUT_OF_MEMORY",
    "ACCEPTED",
    "RUNNING",
    'Cannot run program "./environment/bin/python"',
    "Python in worker has different version",
    "User did not initialize spark context",
}
"""Messages of Slurm, YARN and Spark."""


def quoted_messages() -> list[str]:
    """Return the messages in the pages' tables of symptoms and questions."""
    tables = [(ROOT / "docs" / f"{name}.md").read_text() for name in ("slurm", "yarn", "batch")]
    tables = [text.partition("## When something is wrong")[2] for text in tables]
    rows = [row.split("|")[1] for row in "".join(tables).splitlines() if row.startswith("| ")]
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    questions = (ROOT / "docs" / "faq.md").read_text()
    messages += re.findall(r'^\*\*[^"*]*"([^"]+)"', questions, re.MULTILINE)
    return [message for message in messages if " " in message and message not in FOREIGN]


def test_the_messages_that_pages_quote_are_messages_of_hepflow() -> None:
    files = [*(ROOT / "hepflow").rglob("*.py"), *(ROOT / "slurm").iterdir()]
    source = " ".join(path.read_text() for path in files)
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # strings that continue on the next line
    messages = quoted_messages()
    assert len(messages) > 8
    # the longest part without a number, a name or an ellipsis
    gap = re.compile(r"\s*(?:\d+|…|\.\.\.|\byarn\b)\s*")
    parts = {message: gap.split(message) for message in messages}
    longest = {message: max(parts[message], key=len).rstrip(" :") for message in messages}
    assert {message: part for message, part in longest.items() if part not in source} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
