"""A real Slurm on one machine: munged, slurmctld and one slurmd per node, started as root.

Each slurmd has its own UTS and mount namespace, so that nodes have host names (n1, n2, …) which
resolve inside the jobs. It writes only into its own folder, and needs no cgroup or systemd.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare")
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
START_TIMEOUT_S, POLL_S = 60.0, 0.3
GPUS = 2
"""Number that each node claims to have."""


def why_not() -> str | None:
    """The reason why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "starting a Slurm cluster needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge" if missing else None


@dataclass(frozen=True)
class SlurmCluster:
    """Handle of a running cluster."""

    root: Path
    n_nodes: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which sbatch and srun use this cluster, and none around it."""
        outer = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SLURM_", "SBATCH_"))
        }
        return {**outer, "SLURM_CONF": str(self.root / "slurm.conf")}

    def command(
        self, *arguments: str, cwd: Path | None = None, extra: Mapping[str, str] | None = None
    ) -> str:
        """Standard output of one of Slurm's commands."""
        environment = {**self.environment, **(extra or {})}
        result = subprocess.run(
            arguments,
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def submit(self, *arguments: str, cwd: Path, extra: Mapping[str, str] | None = None) -> int:
        """Submit a job with ``sbatch`` and return its id."""
        return int(
            self.command("sbatch", "--parsable", *arguments, cwd=cwd, extra=extra).split(";")[0]
        )

    def job(self, job_id: int) -> dict[str, str]:
        """Return the fields of ``scontrol show job``: JobState, Restarts, ExitCode and so on."""
        words = self.command("scontrol", "-o", "show", "job", str(job_id)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job_id: int, timeout_s: float = 300) -> dict[str, str]:
        """The job, once it ended."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(job_id))["JobState"] not in ENDED:
            assert time.monotonic() < deadline, (
                f"job {job_id} is still {job['JobState']} ({job.get('Reason')}) after {timeout_s} s"
            )
            time.sleep(POLL_S)
        return job

    def job_ids(self) -> list[int]:
        """Return all jobs, including finished ones."""
        return sorted(
            int(word) for word in self.command("squeue", "-h", "-t", "all", "-o", "%A").split()
        )


@contextmanager
def slurm_cluster(root: Path, n_nodes: int = 2, cpus: int = 2) -> Iterator[SlurmCluster]:
    """A cluster for the length of a ``with`` block.

    Parameters
    ----------
    root : Path
        Folder for configuration, logs and state.
    n_nodes, cpus : int
        Nodes, and cores each node claims to have (the machine may have fewer).
    """
    for name in ("munge", "state", "spool", "log", "pids"):
        (root / name).mkdir(parents=True)
    (root / "munge").chmod(0o711)
    cluster = SlurmCluster(root, n_nodes)
    _write_configuration(root, n_nodes, cpus)
    try:
        _start(cluster)
        _wait_until_idle(cluster)
        yield cluster
    finally:
        _stop(cluster)


def _write_configuration(root: Path, n_nodes: int, cpus: int) -> None:
    host = socket.gethostname().split(".")[0]
    base = free_port_block(n_nodes + 1)
    names = [f"n{i}" for i in range(1, n_nodes + 1)]
    settings = {
        "ClusterName": "hepflow",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": base,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={root}/munge/socket,cred_expire=10",  # a requeued job waits that long
        "CredType": "cred/munge",
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
        "JobRequeue": 1,
        "ReturnToService": 2,
        "KillWait": 5,
        "MinJobAge": 3600,
        "InactiveLimit": 0,
        "SlurmdParameters": "config_overrides",
        "StateSaveLocation": root / "state",
        "SlurmdSpoolDir": root / "spool/%n",
        "SlurmctldPidFile": root / "pids/slurmctld.pid",
        "SlurmdPidFile": root / "pids/slurmd.%n.pid",
        "SlurmctldLogFile": root / "log/slurmctld.log",
        "SlurmdLogFile": root / "log/slurmd.%n.log",
        "PlugStackConfig": root / "plugstack.conf",
        "GresTypes": "gpu",
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    for index, name in enumerate(names, start=1):
        (root / "spool" / name).mkdir()
        sockets = f"Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1"
        shape = f"CPUs={cpus} {sockets} RealMemory=16000 Gres=gpu:{GPUS}"
        lines.append(
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={base + index} {shape}"
        )
    lines.append(
        f"PartitionName=debug Nodes={','.join(names)} Default=YES MaxTime=INFINITE State=UP"
    )
    (root / "slurm.conf").write_text("\n".join(lines) + "\n")
    (root / "cgroup.conf").write_text(
        "CgroupPlugin=cgroup/v1\n"
    )  # the one plugin that loads without systemd
    (root / "plugstack.conf").touch()
    devices = [
        root / f"gpu{i}" for i in range(GPUS)
    ]  # Slurm only counts devices, and tells jobs the numbers in their names
    for device in devices:
        device.symlink_to("/dev/null")
    (root / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
    hosts = [Path("/etc/hosts").read_text(), *(f"127.0.0.1 {name}" for name in (host, *names))]
    (root / "hosts").write_text("\n".join(hosts) + "\n")
    key = root / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)


def _start(cluster: SlurmCluster) -> None:
    root, environment = cluster.root, cluster.environment
    folders = (
        "munged",
        "--force",
        "--num-threads=2",
        f"--key-file={root}/munge.key",
        f"--socket={root}/munge/socket",
    )
    files = (
        f"--pid-file={root}/pids/munged.pid",
        f"--log-file={root}/log/munged.log",
        f"--seed-file={root}/munge/seed",
    )
    _run([*folders, *files], environment)
    own_hosts = f"mount --bind {root}/hosts /etc/hosts"
    _run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            f"{own_hosts} && exec slurmctld -c",
        ],
        environment,
    )
    for index in range(1, cluster.n_nodes + 1):
        node = f"hostname n{index} && {own_hosts} && exec slurmd -N n{index}"
        _run(
            ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c", node],
            environment,
        )


def _run(arguments: list[str], environment: Mapping[str, str]) -> None:
    subprocess.run(
        arguments,
        env=dict(environment),
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _wait_until_idle(cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    arguments = ["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"]
    while True:
        result = subprocess.run(
            arguments,
            env=cluster.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if len(set(result.stdout.split())) == cluster.n_nodes:
            return
        if time.monotonic() > deadline:
            logs = "".join(
                path.read_text()[-2000:] for path in sorted((cluster.root / "log").glob("*.log"))
            )
            msg = f"the nodes did not become idle\n{logs}"
            raise RuntimeError(msg)
        time.sleep(POLL_S)


def _stop(cluster: SlurmCluster) -> None:
    with suppress(AssertionError, subprocess.SubprocessError):
        cluster.command("scancel", "--quiet", "--user=root")
        deadline = time.monotonic() + 20
        while cluster.command("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(POLL_S)
    names = (*(f"slurmd.n{i}" for i in range(1, cluster.n_nodes + 1)), "slurmctld", "munged")
    files = [cluster.root / "pids" / f"{name}.pid" for name in names]
    pids = [int(file.read_text()) for file in files if file.is_file()]
    _signal(pids, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while _signal(pids, 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(pids, signal.SIGKILL)


def _signal(pids: list[int], number: int) -> int:
    """Send a signal to those that still run; how many do."""
    found = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            found += 1
    return found


def free_port_block(size: int) -> int:
    """First of ``size`` consecutive free ports below the ephemeral range."""
    for base in range(16800 + os.getpid() % 1000 * 10, 32000, size):
        with suppress(OSError):
            for port in range(base, base + size):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
    msg = "no free block of ports"
    raise RuntimeError(msg)
