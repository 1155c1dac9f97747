"""The line that matters among the pages that Spark, Ivy and Java print on a failure."""

import os
import re
import tempfile

from hepflow import errors
from hepflow.errors import HepflowError
from hepflow.system.secret import hidden

LONGEST = 300
"""Characters of a reason that is not cut."""
_OF_PYTHON = re.compile(r"([\w.]*?)(\w+): ?(.*)")
_OF_JAVA = re.compile(r'(: |Caused by: |Exception in thread "[\w-]+" )?[\w.$]+(Exception|Error): ')
_FRAME = ("at ", "File ", "... ")
_TRACEBACK = "Traceback (most recent call last):\n"
_SAYS_NOTHING = "Job aborted due to stage failure"


def of_a_task(error: Exception) -> Exception | None:
    """Return what a task of a failed job raised, if it was an error of a user or of a disk.

    The text of the failure has the task's traceback, and then the stack of Java.
    """
    found = _OF_PYTHON.fullmatch(_raised(str(error)))
    if found is None:
        return None
    package, name, text = found.groups()
    if package.startswith("hepflow.") and hasattr(errors, name):
        own: Exception = getattr(errors, name)(text)
        return own
    number = re.match(r"\[Errno (\d+)\]", text)
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def reason(text: str) -> str:
    """Return what a task raised, or else the reason in some output of Java; see `shortened`."""
    return _raised(text).rstrip(".") if _TRACEBACK in text else shortened(text)


def _raised(text: str) -> str:
    traceback = text.rpartition(_TRACEBACK)[2]
    lines = (line for line in traceback.splitlines() if not line.startswith((" ", "\t")))
    return next(lines, "")


def failed(error: Exception, what: str, advice: str) -> HepflowError:
    """Return the failure of a job as an error of one line."""
    return HepflowError(f"{what}: {shortened(str(error))}. {advice}")


def shortened(text: str) -> str:
    """Return the reason in some output of Java, and the name of a file with all of a long one.

    The reason is the first exception which says more than that a job failed, or all lines.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    lines = [line for line in lines if not line.startswith(_FRAME)]
    lost = re.search(r"ExecutorLostFailure \(.*", text)
    named = [line for line in lines if _OF_JAVA.match(line) and _SAYS_NOTHING not in line]
    reason = lost[0] if lost else named[0] if named else " ".join(lines)
    reason = _OF_JAVA.sub("", reason, count=1).rstrip(".")
    if len(text) <= LONGEST:
        return reason
    with tempfile.NamedTemporaryFile("w", prefix="hepflow-", suffix=".log", delete=False) as log:
        log.write(hidden(text))
    if len(reason) > LONGEST:
        reason = f"{reason[:LONGEST].rsplit(' ', 1)[0]} ..."
    return f"{reason} (all of it: {log.name})"
