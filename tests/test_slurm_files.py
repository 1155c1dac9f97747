"""slurm/ and docs/slurm.md without a cluster: clean shell, existing options and files."""

import re
import shutil
import subprocess
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import get_type_hints

import pytest
from pytorch_lightning import Trainer

from hepflow.cli import COMMANDS
from hepflow.config.stages import FeaturesConfig, SparkTrainConfig
from hepflow.train.data import EventData

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "slurm").iterdir())
JOBS = [path for path in SCRIPTS if path.suffix == ".sbatch"]
PAGE = (ROOT / "docs" / "slurm.md").read_text()


def test_every_stage_has_its_script() -> None:
    stages = {"ingest", "features", "train", "spark-train", "evaluate"}
    assert {path.name for path in SCRIPTS} == {f"{stage}.sbatch" for stage in stages} | {
        "env.sh",
        "spark.sh",
        "pipeline.sh",
    }


def test_the_shell_is_clean() -> None:
    for path in SCRIPTS:
        subprocess.run(["bash", "-n", path], check=True, timeout=60)
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here: apt-get install shellcheck")
    checked = subprocess.run(
        ["shellcheck", "-x", *SCRIPTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_asks_for_its_resources_at_the_top(path: Path) -> None:
    lines = path.read_text().splitlines()
    asked = [re.match(r"#SBATCH --([a-z-]+)", line) for line in lines]
    first, last = (
        asked.index(next(filter(None, asked))),
        max(i for i, line in enumerate(asked) if line),
    )
    assert all(asked[first : last + 1]), "one block"
    assert all(line.startswith("#") for line in lines[:first])
    names = {match.group(1) for match in asked if match}
    assert names >= {"job-name", "nodes", "cpus-per-task", "time", "requeue", "open-mode", "output"}
    assert 'source "$here/env.sh"' in lines


def test_the_page_names_options_that_exist() -> None:
    known = {
        "cluster": {
            name.removeprefix("cluster.")
            for name in _options(FeaturesConfig)
            if name.startswith("cluster.")
        },
        "spark": _options(SparkTrainConfig),
        "trainer": set(signature(Trainer).parameters),
        "data": set(signature(EventData).parameters),
    }
    named = {
        (group, name.replace("-", "_"))
        for group, name in re.findall(r"--([a-z]+)\.([A-Za-z.-]+[a-z])", PAGE)
        if not name.startswith("conf.")  # Spark's own names
    }
    assert len(named) > 8
    assert {f"{group}.{name}" for group, name in named if name not in known[group]} == set()


def test_the_page_names_commands_and_files_that_exist() -> None:
    commands = set(
        re.findall(r"hepflow (ingest|features|train fit|[a-z]+-train|evaluate|[a-z]+) -", PAGE)
    )
    assert commands <= {*COMMANDS}
    files = set(re.findall(r"(?:slurm|configs)/[\w./-]+\.(?:sh|sbatch|yaml)", PAGE))
    assert {file for file in files if not (ROOT / file).is_file()} == set()
    assert {f"slurm/{path.name}" for path in JOBS} <= files


def _options(config: type) -> set[str]:
    hints = get_type_hints(config)
    inner = {name: _options(kind) for name, kind in hints.items() if is_dataclass(kind)}
    return {field.name for field in fields(config)} | {
        f"{outer}.{name}" for outer, names in inner.items() for name in names
    }
