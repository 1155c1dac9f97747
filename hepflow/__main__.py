"""The command ``hepflow``, and ``python -m hepflow``."""

import signal

from hepflow.cli import main


def run() -> None:
    """Run a command; once it has ended, Ctrl-C cannot make it look as if it had not."""
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    run()
