"""Jobs of batch systems: their scripts, and what happens if a system refuses them."""

import logging
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue
import pytest

from hepflow.cli import parse
from hepflow.config.engines import ClusterConfig, JobsConfig, SlurmConfig
from hepflow.engines import batch, words
from hepflow.engines.batch import job_arguments, walltime_seconds
from hepflow.engines.batch_systems import SYSTEMS
from hepflow.engines.dask import SETTINGS, dask_client
from hepflow.engines.dask_security import OF_WORKERS
from hepflow.errors import ConfigError
from tests.support import stand_in

DIRECTIVES = {
    "slurm": ("--constraint=haswell",),
    "htcondor": ('+JobFlavour = "workday"', "-spool"),
    "pbs": ("-m n",),
    "lsf": ("-x",),
    "sge": ("-pe smp 8",),
    "oar": ("-t besteffort",),
}
LINES = {
    "slurm": {
        "#SBATCH -p long",
        "#SBATCH -A atlas",
        "#SBATCH -t 36:00:00",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=16G",
        "#SBATCH --constraint=haswell",
    },
    "htcondor": {
        "RequestCpus = MY.DaskWorkerCores",
        "MY.DaskWorkerCores = 8",
        "RequestMemory = floor(MY.DaskWorkerMemory / 1048576)",
        f"MY.DaskWorkerMemory = {16 * 2**30}",
        "RequestDisk = floor(MY.DaskWorkerDisk / 1024)",
        f"MY.DaskWorkerDisk = {8 * 2**30}",
        "+MaxRuntime = 129600",
        "allowed_job_duration = 129600",
        "accounting_group = atlas",
        '+JobFlavour = "workday"',
        "error = dask-worker.$(ClusterId).err",
        "Queue",
    },
    "pbs": {
        "#PBS -q long",
        "#PBS -A atlas",
        "#PBS -l select=1:ncpus=8:mem=16GB",
        "#PBS -l walltime=36:00:00",
        "#PBS -S /bin/bash",
        "#PBS -m n",
    },
    "lsf": {
        "#BSUB -q long",
        '#BSUB -P "atlas"',
        "#BSUB -n 8",
        '#BSUB -R "span[hosts=1]"',
        "#BSUB -M 17180",  # MB, as the lsf.conf of the test says
        "#BSUB -W 36:00",
        "#BSUB -o dask-worker.%J.out",
        "#BSUB -x",
    },
    "sge": {
        "#$ -q long",
        "#$ -P atlas",
        "#$ -l h_rt=36:00:00",
        "#$ -S /bin/bash",
        "#$ -cwd",
        "#$ -pe smp 8",
    },
    "oar": {
        "#OAR -q long",
        "#OAR --project atlas",
        "#OAR -l /nodes=1/core=8,walltime=36:00:00",
        "#OAR -t besteffort",
    },
}


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in front of the PATH; qconf and lsf.conf are those in it."""
    (tmp_path / "qconf").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "qconf").chmod(0o755)
    (tmp_path / "lsf.conf").write_text("LSF_UNIT_FOR_LIMITS=MB\n")
    monkeypatch.setenv("LSF_ENVDIR", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def job(kind: str, **options: Any) -> Any:
    """Return the job that dask-jobqueue would submit."""
    memory = options.pop("memory", 2 * 2**30)
    config = ClusterConfig(kind=kind, jobs=JobsConfig(**options))
    arguments = job_arguments(config, memory, SETTINGS)
    job_class = getattr(dask_jobqueue, SYSTEMS[kind].cluster).job_cls
    return job_class("tcp://10.0.0.1:8786", name="cluster-0", **arguments)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_job_asks_for_its_queue_account_time_memory_and_cores(kind: str) -> None:
    queue = None if kind == "htcondor" else "long"
    found = job(kind, queue=queue, account="atlas", walltime="1-12:00", directives=DIRECTIVES[kind])
    lines = found.job_script().splitlines()
    assert LINES[kind] <= set(lines)
    assert not any("None" in line for line in lines)
    worker = next(line for line in lines if "batch_worker" in line)
    assert "--nworkers 8 --no-dashboard " in worker
    assert "--memory-limit 2.00GiB" in worker
    assert "--lifetime 129300s" in worker, "5 minutes less than the walltime"


@pytest.mark.parametrize("kind", SYSTEMS)
def test_without_options_a_job_has_the_defaults_of_the_site(kind: str) -> None:
    lines = job(kind, workers_per_job=1).job_script().splitlines()
    options = [line for line in lines if line.startswith("#") or " = " in line]
    assert not any("None" in line for line in options)
    assert not any(f" {option} " in line for option in ("-q", "-p", "-A", "-P") for line in options)
    assert not any("accounting_group" in line for line in options)
    assert not any(" -pe" in line or "span" in line for line in options)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_settings_and_prologue_reach_the_workers_of_every_system(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell runs the script, with a program that prints its environment as Python."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PWD|$SITE|$DASK_INTERNAL_INHERIT_CONFIG"\n')
    python.chmod(0o755)
    (tmp_path / "a folder").mkdir()
    monkeypatch.chdir(tmp_path / "a folder")
    prologue = ("source /dev/null", 'export SITE="it\'s here"')  # not every sh has source
    with dask.config.set({f"jobqueue.{kind}.python": str(python)}):
        script = job(kind, workers_per_job=1, prologue=prologue).job_script()
    if kind == "htcondor":
        (line,) = [line for line in script.splitlines() if line.startswith("Arguments = ")]
        text = line.removeprefix("Arguments = \"-c '").removesuffix("'\"")
        script = text.replace("''", "'").replace('""', '"')
    done = subprocess.run(
        ["bash", "-c", script], cwd="/", capture_output=True, text=True, check=True, timeout=60
    )
    folder, site, settings = done.stdout.strip().split("|")
    assert (folder, site) == (str(tmp_path / "a folder"), "it's here")
    assert dask.config.deserialize(settings) == SETTINGS


def test_a_job_at_cern_passes_its_firewall_and_has_credentials() -> None:
    found = job(
        "htcondor",
        worker_ports="10000:10100",
        account="group_u_ATLAS.u_zp",
        directives=(
            "MY.SendCredential = True",
            "-spool",
            "log = /afs/cern.ch/user/m/me/x",
        ),
    )
    script = found.job_script()
    assert "--worker-port 10000:10100" in script
    assert "MY.SendCredential = True" in script
    assert "log = /afs/cern.ch/user/m/me/x\n" in script
    assert script.count("\nlog = ") == 1, "the user's replaces ours"
    assert found.submit_command.split() == ["condor_submit", "-spool"]


@pytest.mark.parametrize(
    ("kind", "directive", "line", "without"),
    [
        ("pbs", "-l nodes=1:ppn=8", "#PBS -l nodes=1:ppn=8", "select="),
        ("pbs", "-l select=1:ncpus=9", "#PBS -l select=1:ncpus=9", "ncpus=8"),
        ("oar", "-l host=1/core=8", "#OAR -l host=1/core=8,walltime=02:00:00", "nodes=1"),
        ("lsf", "-oo my.out", "#BSUB -oo my.out", "dask-worker.%J"),
    ],
)
def test_a_resource_of_the_user_replaces_ours(
    kind: str, directive: str, line: str, without: str
) -> None:
    lines = job(kind, directives=(directive,)).job_script().splitlines()
    assert line in lines
    assert not any(without in line for line in lines)


@pytest.mark.parametrize(
    ("complexes", "directives", "expected"),
    [
        ("mem_free mf MEMORY <= YES YES 0 0", (), {"#$ -l mem_free=2048M"}),
        ("mem_free mf MEMORY <= YES JOB 0 0", (), {"#$ -l mem_free=16384M"}),
        ("mem_free mf MEMORY <= YES NO 0 0", (), set()),  # no count, only the load of a host
        ("h_vmem h_vmem MEMORY <= YES YES 0 0", (), {"#$ -l h_vmem=2048M"}),
        ("mem_free mf MEMORY <= YES YES 0 0", ("-l h_vmem=9G",), {"#$ -l h_vmem=9G"}),
    ],
)
def test_grid_engine_counts_memory_by_what_the_site_has(
    complexes: str, directives: tuple[str, ...], expected: set[str], nothing_installed: Path
) -> None:
    heading = "#name shortcut type relop requestable consumable default urgency"
    text = f"#!/bin/sh\ncat << END\n{heading}\nslots s INT <= YES YES 1 1000\n{complexes}\nEND\n"
    (nothing_installed / "qconf").write_text(text)
    lines = job("sge", directives=("-pe smp 8", *directives)).job_script().splitlines()
    requests = {line for line in lines if line.startswith("#$ -l ") and "h_rt" not in line}
    assert requests == expected


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("htcondor", {"queue": "long"}, r"cluster\.jobs\.queue: HTCondor has no queues\."),
        ("htcondor", {"directives": ("workday",)}, r"must be `NAME = VALUE`, .*'workday'"),
        ("sge", {}, r"8 workers per job need a parallel environment .* Add `-pe NAME 8`"),
    ],
)
def test_what_a_system_does_not_have_is_an_error(
    kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        job(kind, **options)


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("02:00:00", 7200),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 30 * 60),
        ("2-00:00:01", 2 * 86400 + 1),
    ],
)
def test_every_format_of_slurms_time_limit_is_accepted(walltime: str, seconds: int) -> None:
    assert walltime_seconds(walltime) == seconds


@pytest.mark.parametrize(
    "walltime", ["", "two hours", "1:2:3:4", "-5", "1-", "1-2:3:4:5", "x-1", "0:59"]
)
def test_other_time_limits_are_refused(walltime: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.jobs\.walltime must be"):
        walltime_seconds(walltime)


def test_a_limit_is_never_shorter_than_the_walltime() -> None:
    """LSF counts minutes."""
    assert "#BSUB -W 00:02\n" in job("lsf", walltime="1:01").job_script()
    assert "#PBS -l walltime=00:01:01\n" in job("pbs", walltime="1:01").job_script()


@pytest.mark.parametrize("kind", SYSTEMS)
def test_without_its_commands_the_error_names_the_missing_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    config = ClusterConfig(kind=kind)
    wanted = f"cluster.kind {kind}: {SYSTEMS[kind].programs[0]} not found"
    with pytest.raises(ConfigError, match=wanted), dask_client(config, 1):
        pass


def test_the_qsub_of_another_system_is_not_taken(
    nothing_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(nothing_installed))
    stand_in.install("pbs", nothing_installed)
    assert [kind for kind, system in SYSTEMS.items() if not system.missing()] == ["pbs", "sge"]
    (nothing_installed / "qconf").unlink()
    assert [kind for kind, system in SYSTEMS.items() if not system.missing()] == ["pbs"]


def test_the_former_spelling_gives_the_same_jobs(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("cluster: {kind: slurm, slurm: {partition: long, walltime: '90'}}")
    words = ["--config", str(old), "--cluster.slurm.max-jobs", "3"]
    cluster = parse("features", words).cluster
    assert cluster.jobs == JobsConfig(queue="long", walltime="90", max_jobs=3)
    assert cluster == ClusterConfig(kind="slurm", jobs=cluster.jobs)
    assert cluster == ClusterConfig(
        kind="slurm", slurm=SlurmConfig(partition="long", walltime="90", max_jobs=3)
    )
    both = r"cluster\.slurm\.partition and cluster\.jobs\.queue are one option\. Give cluster\.jobs"
    with pytest.raises(ConfigError, match=both):
        parse("features", [*words, "--cluster.jobs.queue", "short"])
    with pytest.raises(ConfigError, match=r"cluster\.jobs\.max_jobs must be at least 1, got 0"):
        parse("features", ["--cluster.slurm.max-jobs", "0"])


def here(**options: Any) -> JobsConfig:
    return JobsConfig(**{"interface": "lo", "workers_per_job": 1, "max_jobs": 2, **options})


def spilling() -> tuple[Any, str]:
    return dask.config.get("distributed.worker.memory.spill"), os.environ["SITE"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", stand_in.COMMANDS)
def test_jobs_run_as_their_system_reads_them_and_are_deleted(
    kind: str, nothing_installed: Path
) -> None:
    stand_in.install(kind, nothing_installed)
    jobs = here(prologue=("export SITE=here",))
    config = ClusterConfig(kind=kind, memory="512MiB", jobs=jobs)
    with dask_client(config, 2) as client:
        assert client.submit(spilling).result(60) == (False, "here")
        (settings,) = re.findall(r"INHERIT_CONFIG=(\S+)", client.cluster.job_script())
        assert dask.config.deserialize(settings) == SETTINGS | OF_WORKERS, "no address of the pages"
        groups = [int(one.job_id) for one in client.cluster.workers.values()]
    deadline = time.monotonic() + 30
    while any(_runs(group) for group in groups):
        assert time.monotonic() < deadline, "a job was left behind"
        time.sleep(0.1)


def _runs(group: int) -> bool:
    listed = subprocess.run(["ps", "-eo", "pgid"], capture_output=True, text=True, check=True)
    return str(group) in listed.stdout.split()


@pytest.mark.parametrize("kind", stand_in.COMMANDS)
def test_a_refused_first_job_is_an_error_with_the_reason(
    kind: str, nothing_installed: Path
) -> None:
    stand_in.install(kind, nothing_installed)
    submit = nothing_installed / SYSTEMS[kind].programs[0]
    submit.write_text("#!/bin/sh\necho 'Illegal value for' >&2\necho ' ppn' >&2\nexit 170\n")
    config = ClusterConfig(kind=kind, memory="1GiB", jobs=here())
    reason = rf"^cluster\.jobs: {SYSTEMS[kind].name} rejects the jobs: Illegal value for ppn$"
    with pytest.raises(ConfigError, match=reason), dask_client(config, 2):
        pass


@pytest.mark.slow
def test_a_job_that_is_refused_later_is_submitted_again(
    nothing_installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch, "AGAIN_S", 0.5)
    stand_in.install("pbs", nothing_installed)
    stand_in.refuse(nothing_installed / "qsub", 3, "qsub: would exceed the limit of the queue")
    config = ClusterConfig(kind="pbs", memory="512MiB", jobs=here(min_jobs=2))
    with caplog.at_level(logging.INFO, "hepflow"), dask_client(config, 2) as client:
        client.wait_for_workers(2, timeout=60)
    refusals = [text for text in caplog.messages if "PBS rejects a job" in text]
    assert refusals
    assert all("would exceed the limit of the queue" in text for text in refusals)
    assert (nothing_installed / "qsub.count").read_text().strip() == "5"


def test_a_line_says_that_no_worker_runs(
    nothing_installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(words, "FIRST_S", 0.5)
    stand_in.install("pbs", nothing_installed)
    (nothing_installed / "qsub").write_text("#!/bin/sh\necho 17.server\n")  # and never runs it
    (nothing_installed / "qdel").write_text("#!/bin/sh\n")
    config = ClusterConfig(kind="pbs", memory="512MiB", jobs=here())
    with caplog.at_level(logging.INFO, "hepflow"), dask_client(config, 1) as client:
        work = client.submit(abs, -1)  # without it, there is nothing to wait for
        deadline = time.monotonic() + 30
        while not (said := [text for text in caplog.messages if "no Dask worker" in text]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        work.cancel()
    assert "PBS has not started job 17, or it failed" in said[0]
    assert "`qstat -u $USER` and the files dask-worker.o*" in said[0]


def test_a_taken_port_of_the_scheduler_is_one_line(nothing_installed: Path) -> None:
    stand_in.install("pbs", nothing_installed)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        jobs = here(scheduler_port=taken.getsockname()[1])
        config = ClusterConfig(kind="pbs", memory="1GiB", jobs=jobs)
        message = "the Dask scheduler does not start: .*Address already in use"
        with pytest.raises(ConfigError, match=message), dask_client(config, 1):
            pass
