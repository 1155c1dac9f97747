"""numba's cache is left aside once another file has changed from which a function takes something."""

import subprocess
import sys
from pathlib import Path

import pytest

OTHER = "from hepflow.system.compiled import cached_njit\n\n\n@cached_njit()\ndef number():\n    return {}\n"
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
def test_a_function_is_compiled_anew_when_another_file_has_changed(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(OTHER.format(21))
    (tmp_path / "main.py").write_text(MAIN)
    assert twice(tmp_path) == "42 0"
    assert twice(tmp_path) == "42 1"
    (tmp_path / "other.py").write_text(OTHER.format(22))
    assert twice(tmp_path) == "44 0"
