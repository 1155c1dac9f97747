"""numba's cache is not used after a change in another file that a function uses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hepflow.system.compiled import cached_njit

OTHER = """\
from hepflow.system.compiled import cached_njit

@cached_njit()
def number():
    return {}
"""
MAIN = """\
from hepflow.system.compiled import cached_njit
from other import number

@cached_njit()
def twice():
    return 2 * number()
"""


def twice(folder: Path) -> str:
    run = [
        sys.executable,
        "-c",
        "import main; print(main.twice(), sum(main.twice.stats.cache_hits.values()))",
    ]
    return subprocess.run(
        run, cwd=folder, capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


@pytest.mark.slow
def test_a_function_is_compiled_again_after_a_change_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(OTHER.format(21))
    (tmp_path / "main.py").write_text(MAIN)
    assert twice(tmp_path) == "42 0"
    assert twice(tmp_path) == "42 1"
    (tmp_path / "other.py").write_text(OTHER.format(22))
    assert twice(tmp_path) == "44 0"


def test_numba_may_be_switched_off_for_a_debugger() -> None:
    code = "from hepflow.physics.kinematics import delta_phi; print(delta_phi(3.0, -3.0))"
    here, plain = (
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for variables in ({}, {"NUMBA_DISABLE_JIT": "1"})
    )
    assert here == plain


def test_a_function_without_a_folder_for_the_cache_is_compiled_each_time() -> None:
    names: dict[str, Callable[[int], int]] = {}
    exec("def twice(x): return 2 * x", names)
    assert cached_njit()(names["twice"])(21) == 42
