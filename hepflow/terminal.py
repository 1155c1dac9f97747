"""Results go to stdout, messages and progress to stderr: through one console, so that a message does not tear a bar."""

import sys

from rich.console import Console

PLAIN = False if "ipykernel" in sys.modules else None  # in a notebook rich's bars need ipywidgets, and warn of their absence
MESSAGES = Console(stderr=True, force_jupyter=PLAIN, force_terminal=PLAIN)
