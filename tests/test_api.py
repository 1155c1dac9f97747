"""The public API: a few names, documented, lazy, and enough for the notebooks."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import lazy_loader
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


@pytest.mark.parametrize("name", sorted(hepflow.__all__))
def test_a_public_name_is_documented_and_where_the_stub_says(name: str) -> None:
    found = getattr(hepflow, name)
    assert found.__doc__


def test_importing_hepflow_and_its_stages_loads_nothing_heavy() -> None:
    modules = ["hepflow", *(f"hepflow.{stage}" for stage in STAGES)]
    code = f"import sys, {', '.join(modules)}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hepflow.no_such_name


@pytest.mark.parametrize("stage", STAGES)
def test_the_names_of_a_stage_exist(stage: str) -> None:
    stub = ROOT / "hepflow" / stage / "__init__.pyi"
    if stub.exists():
        _, _, names = lazy_loader.attach_stub(f"hepflow.{stage}", str(stub))
        module = __import__(f"hepflow.{stage}", fromlist=names)
        assert all(getattr(module, name) is not None for name in names)


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
