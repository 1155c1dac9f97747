"""The command ``hepflow``, and ``python -m hepflow``."""

import os
import signal
from importlib import import_module
from typing import Any

INTERRUPTED = 130


def run() -> None:
    """Run a command. Ctrl-C exits at once during the first imports, and is ignored at the end."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
    main = import_module("hepflow.cli").main
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _exit(*_: Any) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
