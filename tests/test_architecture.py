"""Imports point down, stages do not know each other, and only cli.py is lazy."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hepflow"
LAYERS = (
    {"__main__"},
    {"cli"},
    {"completion"},
    {"score"},  # at the end of the flow: it takes raw events through ingest's reader, and thresholds from the report
    {"simulate", "ingest", "features", "train", "evaluate", "bench", "demo", "doctor", "store_tools", "import_cern"},
    {"spark", "clusters", "parts"},
    {"physics", "models"},
    {"store", "predictions", "fragments"},
    {"shards", "compiled", "blocks"},
    {"arguments", "config_score", "config_tools"},
    {"ledger", "config", "identity", "locks", "moments"},
    {"options", "config_engines"},
    {"schema", "published", "bounds", "command", "files", "java", "machine", "shipped", "terminal"},
    {"errors"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
GPL = {"pythia8mc", "fastjet"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" if node.module == "hepflow" else str(node.module) for alias in node.names}
    return names


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "__init__.py" or p.parent != PACKAGE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    assert own in LEVEL, f"{own} has no layer: give it one here"
    for name in imports(path):
        if not name.startswith("hepflow."):
            continue
        other = name.split(".")[1]
        assert other == own or LEVEL[other] > LEVEL[own], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) != "cli"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_import_at_the_top(path: Path) -> None:
    lazy = imports(path) - imports(path, top_level_only=True)
    guarded = {name for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Try, ast.If)) for name in imports_of(node)}
    assert lazy <= guarded, f"{path.name} imports {lazy - guarded} inside a function"


def imports_of(node: ast.AST) -> set[str]:
    found = (inner for inner in ast.walk(node) if isinstance(inner, (ast.Import, ast.ImportFrom)))
    return {alias.name if isinstance(inner, ast.Import) else str(inner.module) for inner in found for alias in inner.names}


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) != "simulate"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_simulate_imports_the_gpl_libraries(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & GPL


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) == "evaluate"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_evaluate_never_imports_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "pytorch_lightning", "torchmetrics"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path
