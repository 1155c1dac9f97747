"""The command ``hepflow``, and ``python -m hepflow``."""

import os
import signal
from importlib import import_module
from typing import Any

INTERRUPTED = 130


def run() -> None:
    """Run a command. Ctrl-C ends it at once while nothing but imports has happened; once it has ended, Ctrl-C changes nothing."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    main = import_module("hepflow.cli").main
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(*_: Any) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
