"""Patience with a remote store: what it was asked is asked again while it cannot be reached.

The clients of stores try again for seconds. A server that restarts, or a network that is down,
takes minutes: so long a run waits here, and says so. Only a store that has answered this process
before is waited for, so that a wrong address is reported at once.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hepflow.errors import one_line
from hepflow.system.remote import as_io_error

log = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE_S = 150.0
_LONGEST_PAUSE_S = 8.0
_VERDICTS = (
    *(FileNotFoundError, FileExistsError, PermissionError),
    *(NotADirectoryError, IsADirectoryError),
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ANSWERED: set[str] = set()
_STATE = threading.local()


def patiently(path: Path, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns, which may be called several times, about a path.

    Errors of the store's client are raised as Python's own. Of calls within calls, the outermost
    one waits.
    """
    if getattr(_STATE, "waits", False):
        return _asked(path, ask, 0.0)
    _STATE.waits = True
    try:
        return _asked(path, ask, PATIENCE_S)
    finally:
        _STATE.waits = False


def _asked(path: Path, ask: Callable[[], T], patience_s: float) -> T:
    store = _store(path)
    deadline, pause = 0.0, 1.0
    while True:
        try:
            answer = ask()
        except Exception as error:
            if (reason := as_io_error(error)) is None:
                raise
            now = time.monotonic()
            is_verdict = isinstance(reason, _VERDICTS) or reason.errno in _FULL
            if is_verdict:  # it would be the same again
                _heard(path, deadline)
            deadline = deadline or now + patience_s
            if is_verdict or store not in _ANSWERED or now + pause > deadline:
                if not is_verdict and patience_s:  # what is tidied up now need not wait again
                    _ANSWERED.discard(store)
                if reason is error:
                    raise
                raise reason from error
            if pause == 1.0:
                text = "%s: the store does not answer (%s); waiting for it, up to %d s"
                log.warning(text, path, one_line(reason), patience_s)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        else:
            _heard(path, deadline)
            return answer


def _store(path: Path) -> str:
    """Return the beginning of a URL that names a server or a bucket."""
    return "/".join(str(path).split("/", 3)[:3])


def _heard(path: Path, deadline: float) -> None:
    _ANSWERED.add(_store(path))
    if deadline:
        log.info("%s: the store answers again", path)
