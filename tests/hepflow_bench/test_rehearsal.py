"""The rehearsal of ten terabytes: all of its stages run, and the last line has the figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.system
def test_a_small_rehearsal_ends_with_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/scale.py", "--sizes", "200,500", "--scratch", tmp_path]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    gb = {"driver_gb_ingest", "driver_gb_features", "train_gb_per_rank", "evaluate_gb"}
    wanted = {*gb, "score_driver_gb", "files_of_store_at_10tb", "train_start_s", "growth"}
    assert wanted <= figures.keys()
    assert all(figures[name] > 0 for name in wanted - {"growth"})
