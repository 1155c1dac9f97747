"""Submit commands of batch systems that no package has: they run jobs as processes of this machine.

They read a job as the system does: PBS a file, LSF its standard input, OAR an argument. Its number
is that of its process group.
"""

from pathlib import Path

_RUN = 'setsid bash "$script" > "$script.out" 2>&1 & '
_DELETE = 'kill -- "-$1"'
COMMANDS = {
    "pbs": {
        "qsub": f'script=$(mktemp -p "$0.jobs"); cat "$1" > "$script"; {_RUN} echo "$!.server"',
        "qdel": _DELETE,
        "pbsnodes": "",
    },
    "lsf": {
        "bsub": f'script=$(mktemp -p "$0.jobs"); cat > "$script"; {_RUN} '
        'echo "Job <$!> is submitted to default queue <normal>."',
        "bkill": _DELETE,
    },
    "oar": {
        "oarsub": f'script=$(mktemp -p "$0.jobs"); for last; do :; done; echo "$last" > "$script"; '
        f'{_RUN} echo "OAR_JOB_ID=$!"',
        "oardel": _DELETE,
    },
}


def install(kind: str, folder: Path) -> None:
    """Write the commands of a batch system into a folder, which belongs on the PATH."""
    for name, text in COMMANDS[kind].items():
        (folder / f"{name}.jobs").mkdir()
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)


def refuse(command: Path, times: int, reason: str) -> None:
    """Let a submit command accept one job, then fail for some, then accept all."""
    count = 'n=$(cat "$0.count" 2> /dev/null || echo 0); echo $((n + 1)) > "$0.count"\n'
    fail = f'if [ $n -ge 1 ] && [ $n -le {times} ]; then echo "{reason}" >&2; exit 1; fi\n'
    shebang, _, rest = command.read_text().partition("\n")
    command.write_text(f"{shebang}\n{count}{fail}{rest}")
