"""Fixtures every test may use."""

import importlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from hepflow.config.engines import SparkConfig

# no property may fail because the machine is busy
settings.register_profile("hepflow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hepflow")

SHARED = Path(os.environ.get("HEPFLOW_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with many slow tests first, so that no process ends long after the others."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real and sample ROOT files next to a developer's checkout."""
    if not (SHARED / "sample").is_dir():
        pytest.skip(
            f"no sample files in {SHARED} (set HEPFLOW_SHARED to a folder with real/ and sample/)"
        )
    return SHARED


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """Yield one Spark session for all tests, as it takes seconds to start; the stages use it."""
    pytest.importorskip("pyspark")
    module = importlib.import_module("hepflow.engines.spark")
    with module.spark_session(
        SparkConfig(master="local[2]", driver_memory="1g"), "hepflow tests"
    ) as session:
        yield session
