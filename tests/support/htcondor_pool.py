"""A real HTCondor pool of one host: condor_master and its daemons, started by this user.

They write only into their own folder, and need no installed configuration. HTCondor takes no jobs
from root: its daemons, commands and jobs are then in a namespace in which root is called nobody.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.slurm_cluster import free_port_block

NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
PREFIX = NOBODY if os.geteuid() == 0 else ()
"""Words before a command that uses the pool."""
PROGRAMS = ("condor_master", "condor_submit", "condor_q", "condor_rm", "condor_status")
START_TIMEOUT_S, POLL_S = 60.0, 0.5


def why_not() -> str | None:
    """The reason why no pool can be started here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install condor (Debian 13, Ubuntu 24.04)"
    if subprocess.run([*PREFIX, "true"], capture_output=True, check=False).returncode:
        return "HTCondor takes no jobs from root, and there are no user namespaces here"
    return None


@dataclass(frozen=True)
class HTCondorPool:
    """Handle of a running pool."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which condor_submit and the others use this pool."""
        outer = {key: value for key, value in os.environ.items() if "CONDOR" not in key}
        return {**outer, "CONDOR_CONFIG": str(self.root / "condor_config")}

    def command(self, *arguments: str) -> str:
        """Standard output of one of HTCondor's commands."""
        result = subprocess.run(
            [*PREFIX, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def running(self) -> list[str]:
        """Return the ids of the running jobs, such as 3.0."""
        rows = self.command("condor_q", "-run", "-af:j", "JobStatus").splitlines()
        return sorted(row.split()[0] for row in rows)

    def values(self, *names: str) -> list[list[str]]:
        """Return attributes of all jobs, those that have ended too."""
        wanted = ("-af:,", *names)
        lines = self.command("condor_q", *wanted) + "\n" + self.command("condor_history", *wanted)
        return [[word.strip() for word in line.split(",")] for line in lines.split("\n") if line]


@contextmanager
def htcondor_pool(root: Path, cpus: int = 4) -> Iterator[HTCondorPool]:
    """A pool for the length of a ``with`` block.

    Parameters
    ----------
    root : Path
        Folder for configuration, logs and state.
    cpus : int
        Cores that the host claims to have (it may have fewer).
    """
    for name in ("log", "spool", "execute", "lock", "run"):
        (root / name).mkdir(parents=True)
    _write_configuration(root, cpus)
    pool = HTCondorPool(root)
    master = subprocess.Popen([*PREFIX, "condor_master", "-f"], env=pool.environment)
    try:
        _wait_until_ready(pool)
        yield pool
    finally:
        master.terminate()
        try:
            master.wait(30)
        except subprocess.TimeoutExpired:
            master.kill()


def _write_configuration(root: Path, cpus: int) -> None:
    port = free_port_block(1)
    folders = {name.upper(): root / name for name in ("log", "spool", "execute", "lock", "run")}
    quick = ("UPDATE_INTERVAL", "POLLING_INTERVAL", "NEGOTIATOR_INTERVAL", "NEGOTIATOR_CYCLE_DELAY")
    everybody = ("READ", "WRITE", "DAEMON", "ADMINISTRATOR", "ADVERTISE_STARTD", "NEGOTIATOR")
    settings = {
        "LOCAL_DIR": root,
        "RELEASE_DIR": Path(shutil.which("condor_master") or "/usr").resolve().parents[1],
        "LOCAL_CONFIG_FILE": "",
        "LOCAL_CONFIG_DIR": "",
        **folders,
        "BIN": "$(RELEASE_DIR)/bin",
        "SBIN": "$(RELEASE_DIR)/sbin",
        "LIBEXEC": "$(RELEASE_DIR)/libexec/condor",
        "DAEMON_LIST": "MASTER COLLECTOR NEGOTIATOR SCHEDD STARTD",
        "CONDOR_HOST": "127.0.0.1",
        "COLLECTOR_HOST": f"127.0.0.1:{port}",
        "NETWORK_INTERFACE": "127.0.0.1",
        "USE_SHARED_PORT": "FALSE",
        "UID_DOMAIN": "hepflow",
        "FILESYSTEM_DOMAIN": "hepflow",
        "SEC_DEFAULT_AUTHENTICATION_METHODS": "FS, ANONYMOUS",
        **{f"ALLOW_{what}": "*" for what in everybody},
        "MAIL": "/bin/true",
        **dict.fromkeys(quick, 2),
        "SCHEDD_INTERVAL": 2,
        "NUM_CPUS": cpus,
        "MEMORY": cpus * 4096,
        "NUM_SLOTS": 1,
        "NUM_SLOTS_TYPE_1": 1,
        "SLOT_TYPE_1": "100%",
        "SLOT_TYPE_1_PARTITIONABLE": "TRUE",
        "START": "TRUE",
        "DISCARD_SESSION_KEYRING_ON_STARTUP": "FALSE",
    }
    lines = [f"{key} = {value}" for key, value in settings.items()]
    (root / "condor_config").write_text("\n".join(lines) + "\n")


def _wait_until_ready(pool: HTCondorPool) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        found = [
            subprocess.run(
                [*PREFIX, "condor_status", kind, "-af", "Name"],
                env=pool.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            ).stdout.strip()
            for kind in ("-schedd", "-startd")
        ]
        if all(found):
            return
        if time.monotonic() > deadline:
            logs = sorted((pool.root / "log").glob("*Log"))
            raise RuntimeError(
                "".join(f"\n{path.name}\n{path.read_text()[-1500:]}" for path in logs)
            )
        time.sleep(POLL_S)
