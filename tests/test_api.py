"""The public API: a few names, documented, lazy, and enough for the notebooks."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hepflow

ROOT = Path(__file__).parents[1]
STAGES = ("simulate", "ingest", "features", "train", "evaluate", "score")
HEAVY = ("torch", "pyspark", "dask", "distributed", "numba", "awkward", "uproot", "zarr", "pyarrow")


def test_the_api_has_these_names() -> None:
    assert sorted(hepflow.__all__) == sorted(
        [
            *(
                "Classifier",
                "ClusterConfig",
                "EvaluateConfig",
                "EventData",
                "FeaturesConfig",
                "HLFNet",
            ),
            *("InclusiveNet", "IngestConfig", "ScoreConfig", "Scorer", "SequenceNet"),
            *("SimulateConfig", "SparkConfig", "TransformerNet", "batches_of_events"),
            *("compute_features", "evaluate_runs", "isolations", "open_events", "open_store"),
            *("dask_client", "passes", "read_delphes", "read_runs", "shipped", "spark_session"),
        ]
    )


def test_editors_and_mypy_see_the_names_that_a_program_gets() -> None:
    tree = ast.parse((ROOT / "hepflow" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: importlib.import_module(str(node.module))
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(hepflow.__all__)
    for name, module in seen.items():
        assert getattr(hepflow, name) is getattr(module, name)


@pytest.mark.parametrize("name", sorted(hepflow.__all__))
def test_a_public_name_is_documented(name: str) -> None:
    assert getattr(hepflow, name).__doc__


def test_the_package_has_five_files_and_fifteen_folders() -> None:
    tracked = [path for path in (ROOT / "hepflow").iterdir() if path.name != "__pycache__"]
    assert len([path for path in tracked if path.is_file()]) == 5
    assert len([path for path in tracked if path.is_dir()]) == 15


def test_importing_hepflow_and_its_stages_loads_nothing_heavy() -> None:
    modules = ["hepflow", *(f"hepflow.{stage}" for stage in STAGES)]
    code = f"import sys, {', '.join(modules)}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hepflow.no_such_name


@pytest.mark.parametrize("stage", STAGES)
def test_the_names_of_a_stage_exist(stage: str) -> None:
    module = importlib.import_module(f"hepflow.{stage}")
    assert "run" in module.__all__ or stage == "train"
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_imports_nothing_deeper_than_a_stage(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    tree = ast.parse(
        "".join(
            line if line.endswith("\n") else f"{line}\n" for line in lines if line[0] not in "%!"
        )
    )
    named = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {str(node.module) for node in named if str(node.module).startswith("hepflow")}
    assert modules <= {"hepflow", *(f"hepflow.{stage}" for stage in STAGES)}
