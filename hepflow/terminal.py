"""Results go to stdout, messages and progress to stderr: through one console, so that a message does not tear a bar."""

from rich.console import Console

MESSAGES = Console(stderr=True)
