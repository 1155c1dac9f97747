"""Imports follow the table of folders in docs/architecture.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hepflow"
DOCS = PACKAGE.parent / "docs"
ROOT = {"errors", "schema"}
"""Files at the top that everybody may import."""
LIBRARIES = {
    "system": set(),
    "data": {"system"},
    "config": {"system", "data"},
    "physics": {"system"},
    "reading": {"system", "data", "physics"},
    "statistics": {"data"},
    "engines": {"system", "config"},
    "models": {"system", "data", "config"},
}
STAGES = ("simulate", "ingest", "features", "train", "evaluate", "score")
MAY_IMPORT: dict[str, set[str]] = {
    **LIBRARIES,
    **{key: set(LIBRARIES) for key in STAGES},  # a stage meets another one on disk
    "tools": {*LIBRARIES, "ingest", "features", "train", "score"},  # stages: tools/plan alone
    "cli": {"config", "system", "tools"},  # and by name the command that is called
    "__main__": {"cli"},
    "__init__": {*LIBRARIES, *STAGES},  # the public API, lazily
    "errors": set(),
    "schema": {"errors"},
}
GPL = {"pythia8mc", "fastjet"}
LAZY = {"cli", "__init__"}
"""Files whose heavy imports wait until they are needed."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(*nodes: ast.AST) -> Iterator[str]:
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                yield from (alias.name for alias in inner.names)
            elif isinstance(inner, ast.ImportFrom):
                assert not inner.level, "absolute imports alone"
                module = str(inner.module)
                whole = module == "hepflow"
                yield from (f"hepflow.{alias.name}" for alias in inner.names) if whole else [module]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_folder_imports_what_the_table_allows(path: Path) -> None:
    own = room(path)
    for name in imports(ast.parse(path.read_text())):
        if name.startswith("hepflow."):
            other = name.split(".")[1]
            assert other in {own} | ROOT | MAY_IMPORT[own], f"{named(path)} imports {name}"


def test_the_table_names_every_room_and_no_more() -> None:
    rooms = {room(path) for path in MODULES}
    assert rooms == set(MAY_IMPORT)
    assert len(rooms) <= 20


def test_no_rooms_import_each_other_in_a_circle() -> None:
    above: set[str] = set()
    rooms = {
        own: {other for other in allowed | ROOT if other != own}
        for own, allowed in MAY_IMPORT.items()
    }
    rooms["errors"], rooms["schema"] = set(), {"errors"}
    while rooms:
        free = {own for own, allowed in rooms.items() if not allowed & rooms.keys()}
        assert free, f"a circle among {', '.join(rooms)}"
        above |= free
        rooms = {own: allowed for own, allowed in rooms.items() if own not in free}


def test_of_the_tools_the_plan_alone_imports_stages() -> None:
    others = [path for path in MODULES if room(path) == "tools" and path.parent.name != "plan"]
    found = {name for path in others for name in imports(ast.parse(path.read_text()))}
    assert len(others) > 3
    assert [name for name in found for one in STAGES if name.startswith(f"hepflow.{one}")] == []


def test_no_stage_may_import_another() -> None:
    for stage in STAGES:
        assert not MAY_IMPORT[stage] & (set(STAGES) - {stage})


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) not in LAZY], ids=named)
def test_modules_import_at_the_top(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = [
        node
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Try, ast.If))
    ]
    inside = set(imports(tree)) - set(imports(*top))
    assert not inside, f"{named(path)} imports {inside} inside a function"


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) != "simulate"], ids=named)
def test_only_simulate_imports_the_gpl_libraries(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & GPL


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) in {"evaluate", "statistics", "data"}], ids=named
)
def test_the_report_never_imports_torch(path: Path) -> None:
    heavy = {"torch", "pytorch_lightning", "torchmetrics"}
    assert not {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & heavy


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_page_has_the_table_of_folders_that_is_checked() -> None:
    table = {}
    for line in (DOCS / "architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`") and "engine" not in cells:
            above = set(LIBRARIES) if "every folder above" in cells[3] else set()
            for folder in re.findall(r"`(\w+)`", cells[0]):
                table[folder] = above | set(re.findall(r"`(\w+)`", cells[3]))
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {name: allowed for name, allowed in MAY_IMPORT.items() if name in folders} == {
        name: allowed for name, allowed in table.items() if name in folders
    }


def test_the_picture_has_the_arrows_of_the_table() -> None:
    picture = (DOCS / "architecture.svg").read_text()
    arrows = set(re.findall(r'class="import" id="(\w+)-(\w+)"', picture))
    assert {lower for _, lower in arrows} | {upper for upper, _ in arrows} == set(LIBRARIES)
    assert [(upper, lower) for upper, lower in arrows if lower not in LIBRARIES[upper]] == []
    reached = {name: {lower for upper, lower in arrows if upper == name} for name in LIBRARIES}
    for _ in LIBRARIES:
        for below in reached.values():
            below |= {further for lower in set(below) for further in reached[lower]}
    assert [name for name in LIBRARIES if not LIBRARIES[name] <= reached[name]] == []
    for name in MAY_IMPORT.keys() - {"__main__"}:
        assert re.search(rf'class="name"[^>]*>{name}(\.py)?<', picture), name
