"""Results go to stdout, messages and progress to stderr: through one console, so that a message does not tear a bar."""

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler

PLAIN = False if "ipykernel" in sys.modules else None  # in a notebook rich's bars need ipywidgets, and warn of their absence
MESSAGES = Console(stderr=True, force_jupyter=PLAIN, force_terminal=PLAIN)

TO_PASTE = {"to_paste": True}
"""``extra`` of a message with a command in it, which somebody may copy: only the terminal breaks its lines."""


class Messages(RichHandler):
    """Log messages as text that is broken between words."""

    def __init__(self, console: Console = MESSAGES) -> None:
        super().__init__(console=console, show_time=False, show_level=False, show_path=False)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        if getattr(record, "to_paste", False):
            self.console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        else:
            super().emit(record)
