"""A real Grid Engine of one host: sge_qmaster and sge_execd with a cell of their own, as root.

They write only into their own folder, and need no installed cell and no systemd.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.slurm_cluster import free_port_block

PROGRAMS = ("qsub", "qconf", "qstat", "qdel")
BINARIES, SHARED = Path("/usr/lib/gridengine"), Path("/usr/share/gridengine")  # Debian's folders
DAEMONS = ("sge_qmaster", "sge_execd")
QUEUE, PARALLEL = "all.q", "smp"
START_TIMEOUT_S, POLL_S = 60.0, 0.3


def why_not() -> str | None:
    """The reason why no Grid Engine can be started here, or None."""
    if os.geteuid() != 0:
        return "starting a Grid Engine needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    missing += [daemon for daemon in DAEMONS if not (BINARIES / daemon).is_file()]
    packages = "gridengine-master gridengine-exec gridengine-client"
    return f"no {', '.join(missing)} here: apt-get install {packages}" if missing else None


@dataclass(frozen=True)
class GridEngine:
    """Handle of a running Grid Engine."""

    root: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which qsub and the others use this Grid Engine."""
        outer = {key: value for key, value in os.environ.items() if not key.startswith("SGE_")}
        ports = {"SGE_QMASTER_PORT": str(self.port), "SGE_EXECD_PORT": str(self.port + 1)}
        return {**outer, "SGE_ROOT": str(self.root), "SGE_CELL": "cell", **ports}

    def command(self, *arguments: str | Path) -> str:
        """Standard output of one of Grid Engine's commands."""
        result = subprocess.run(
            arguments,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def change(self, option: str, shown_by: str, **values: str) -> None:
        """Change values of a configuration object, which ``qconf`` shows with ``shown_by``."""
        text = self.command("qconf", *shown_by.split())
        for name, value in values.items():
            text, n = re.subn(rf"(?m)^{name}\b.*(\\\n.*)*", f"{name} {value}", text)
            assert n == 1, f"no {name} in {text}"
        file = self.root / "global"  # -Mconf takes the name of the configuration from it
        file.write_text(text + "\n")
        self.command("qconf", *option.split(), file)

    def jobs(self, states: str = "") -> dict[int, str]:
        """Return the jobs in the queue, by their number: qw waits, r runs, hqw is held."""
        rows = [line.split() for line in self.command("qstat", "-u", "*").splitlines()[2:]]
        return {int(row[0]): row[4] for row in rows if row[4] in states.split() or not states}


@contextmanager
def grid_engine(root: Path, slots: int = 4) -> Iterator[GridEngine]:
    """A Grid Engine for the length of a ``with`` block.

    Parameters
    ----------
    root : Path
        Folder for configuration, logs and state.
    slots : int
        Jobs of one core that run at once, which may be more than the machine has cores.
    """
    system = GridEngine(root, free_port_block(2))
    host = socket.gethostname().split(".")[0]
    try:
        _initialise(system, host)
        _configure(system, host, slots)
        yield system
    finally:
        _stop(system)


def _initialise(system: GridEngine, host: str) -> None:
    root, common, spool = system.root, system.root / "cell/common", system.root / "cell/spool"
    for folder in (common, spool / "job_scripts", root / "execd"):
        folder.mkdir(parents=True)
    for name in ("bin", "lib", "utilbin"):
        (root / name).mkdir()
        (root / name / "lx-amd64").symlink_to(BINARIES)
    (root / "util").symlink_to(SHARED / "util")
    folders = f"{common};{spool}"
    settings = {
        "admin_user": "none",
        "default_domain": "none",
        "ignore_fqdn": "true",
        "spooling_method": "classic",
        "spooling_lib": "libspoolc",
        "spooling_params": folders,
        "binary_path": root / "bin",
        "qmaster_spool_dir": spool,
        "security_mode": "none",
        "listener_threads": 2,
        "worker_threads": 2,
        "scheduler_threads": 1,
        "jvm_threads": 0,
    }
    (common / "bootstrap").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    (common / "act_qmaster").write_text(f"{host}\n")
    full, aliases, addresses = socket.gethostbyname_ex(socket.gethostname())
    names = {full, *aliases, "localhost", socket.getfqdn()}
    for address in addresses:
        with suppress(OSError):
            names.add(socket.gethostbyaddr(address)[0])
    (common / "host_aliases").write_text(f"{host} {' '.join(sorted(names - {host}))}\n")
    configuration = root / "configuration"
    text = (SHARED / "default-configuration").read_text()
    own = {"execd_spool_dir": root / "execd", "min_uid": 0, "min_gid": 0, "mailer": "/bin/true"}
    for name, value in own.items():
        text = re.sub(rf"(?m)^{name}\b.*", f"{name} {value}", text)
    configuration.write_text(text)
    system.command(BINARIES / "spoolinit", "classic", "libspoolc", folders, "init")
    resources = SHARED / "util/resources"
    for kind, what in {
        "configuration": configuration,
        "complexes": resources / "centry",
        "pes": resources / "pe",
        "usersets": resources / "usersets",
        "managers": "root",
        "adminhosts": host,
        "submithosts": host,
    }.items():
        system.command(BINARIES / "spooldefaults", kind, what)


def _configure(system: GridEngine, host: str, slots: int) -> None:
    system.command(BINARIES / "sge_qmaster")
    _wait(system, "qconf", "-sh")
    node = {"hostname": host, "load_scaling": "NONE", "complex_values": f"mem_free={slots}G"}
    lists = ("user_lists", "xuser_lists", "projects", "xprojects")
    none = dict.fromkeys((*lists, "usage_scaling", "report_variables"), "NONE")
    (system.root / "host").write_text("".join(f"{k} {v}\n" for k, v in (node | none).items()))
    system.command("qconf", "-as", host)
    system.change("-Mc", "-sc", mem_free="mf MEMORY <= YES YES 0 0")
    system.command("qconf", "-Ae", system.root / "host")
    (system.root / "queue").write_text(system.command("qconf", "-sq"))
    system.change(
        "-Aq",
        "-sq",
        qname=QUEUE,
        hostlist=host,
        slots=str(slots),
        pe_list=PARALLEL,
        load_thresholds="NONE",
    )
    quick = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
    system.change("-Msconf", "-ssconf", job_load_adjustments="NONE", **quick)
    system.command(BINARIES / "sge_execd")
    deadline = time.monotonic() + START_TIMEOUT_S
    while " lx-amd64 " not in system.command("qhost", "-h", host):
        assert time.monotonic() < deadline, _logs(system)
        time.sleep(POLL_S)


def _wait(system: GridEngine, *arguments: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            system.command(*arguments)
        except AssertionError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(_logs(system)) from error
            time.sleep(POLL_S)
        else:
            return


def _logs(system: GridEngine) -> str:
    return "".join(path.read_text()[-2000:] for path in sorted(system.root.rglob("messages")))


def _stop(system: GridEngine) -> None:
    with suppress(AssertionError, subprocess.SubprocessError):
        system.command("qdel", "-f", "-u", "*")
    processes = []
    for file in system.root.rglob("*.pid"):
        with suppress(psutil.Error, ValueError):
            daemon = psutil.Process(int(file.read_text()))
            if daemon.name() in DAEMONS:
                processes += [daemon, *daemon.children(recursive=True)]
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=5)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
