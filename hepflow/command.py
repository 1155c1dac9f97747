"""A command of hepflow that another one runs, as a process of its own."""

import subprocess
from collections.abc import Mapping, Sequence

GRACE_S = 60.0
"""For what an interrupted command has to put away."""


def run(words: Sequence[str], *, quiet: bool = False, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. After Ctrl-C, which its terminal gives to both, it is waited for: Python's own `run` would kill it.

    Parameters
    ----------
    words : sequence of str
    quiet : bool
        Keep what it prints.
    environment : mapping, optional
        In place of this process's.
    """
    pipe = subprocess.PIPE if quiet else None
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            printed, errors = process.communicate()
        except KeyboardInterrupt:
            try:
                process.communicate(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, printed, errors)
