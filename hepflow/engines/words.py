"""Lines on the terminal while a cluster lets a run wait: its libraries show nothing then."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
FIRST_S, AGAIN_S = 10.0, 60.0


class Words:
    """Asks why a run waits, after `FIRST_S` and then every `AGAIN_S`, and shows the answer, if any.

    It is called often, and does nothing until it is time.
    """

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._began = ask, time.monotonic()
        self._next = self._began + FIRST_S

    def __call__(self) -> None:
        """Ask and show, if it is time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + AGAIN_S
            if text := self._ask():
                log.info("%s (after %d s)", text, now - self._began)
