"""The terminal: results on stdout, messages and progress on stderr.

All messages, bars and tables go through the two consoles here, so that a message does not tear a
progress bar. A name from outside (a file, class, model or topic) is text: the consoles read no
markup, and control characters, which a terminal would obey, become signs such as ``␛``.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from traceback import format_exception
from typing import Any, TypeVar

from rich import progress
from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hepflow.system.secret import hidden

Item = TypeVar("Item")

_OBEYED = (*range(0x80, 0xA0), 0x61C, 0x200E, 0x200F)
_OBEYED += (*range(0x2028, 0x202F), *range(0x2066, 0x206A))
_HALVES = range(0xD800, 0xE000)  # bytes of a file's name that are no UTF-8
_SIGNS = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}
_SIGNS |= dict.fromkeys((*_OBEYED, *_HALVES), 0xFFFD)
_SIGNS_IN_LINES = {code: sign for code, sign in _SIGNS.items() if chr(code) not in "\n\t"}


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text with a sign for each control character, such as ``␛`` for the escape.

    Those that change the direction of writing count too. With ``lines``, line feeds and tabs stay.
    """
    return text.translate(_SIGNS_IN_LINES if lines else _SIGNS)


class PlainConsole(Console):
    """A console that shows text as it is: neither markup nor control characters do anything."""

    def __init__(self, *, stderr: bool = False) -> None:
        # In a notebook rich's bars need ipywidgets, and warn if they are missing.
        plain = False if "ipykernel" in sys.modules else None
        how: Any = {"force_jupyter": plain, "force_terminal": plain}
        super().__init__(stderr=stderr, markup=False, emoji=False, **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of a text, table or bar."""
        for one in super().render(renderable, options):
            yield one if one.control else one._replace(text=visible(one.text, lines=True))


MESSAGES, RESULTS = PlainConsole(stderr=True), PlainConsole()

TO_PASTE = {"to_paste": True}
"""``extra`` of a log message with a command to copy: only the terminal wraps its lines."""


class Lines(logging.Formatter):
    """Formatter of log messages: one line each, besides a traceback, and without secrets."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message."""
        return visible(super().formatMessage(record), lines=not record.name.startswith("hepflow"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, and the traceback if there is one."""
        return visible(hidden(super().format(record)), lines=True)


def show_bug(*raised: Any) -> None:
    """Print the traceback of an error, whose message may have anything in it."""
    sys.stderr.write(visible(hidden("".join(format_exception(*raised))), lines=True))


class Messages(RichHandler):
    """Log handler that prints messages as text wrapped between words."""

    def __init__(self, console: Console = MESSAGES) -> None:
        super().__init__(console=console, show_time=False, show_level=False, show_path=False)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        if getattr(record, "to_paste", False):
            message = self.format(record)
            self.console.print(message, highlight=False, soft_wrap=True)
        else:
            super().emit(record)


def start_messages() -> None:
    """Let the log and the tracebacks of this process go to stderr, without secrets."""
    handler = Messages() if MESSAGES.is_terminal else logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("hepflow").setLevel(logging.INFO)
    sys.excepthook = show_bug


def counted(number: int, what: str) -> str:
    """Return ``1 file``, ``2,000 files``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class Bar:
    """One row of a progress display."""

    def __init__(self, display: progress.Progress, task: progress.TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Add finished steps, and replace the note behind the bar."""
        fields = {} if note is None else {"note": visible(note)}
        self._display.update(self._task, advance=steps, **fields)  # type: ignore[arg-type]

    def update(self, completed: float, note: str = "") -> None:
        """Set the number of finished steps, and replace the note behind the bar."""
        self._display.update(self._task, completed=completed, note=visible(note))


@contextmanager
def bars(*, transient: bool = False) -> Iterator[Callable[..., Bar]]:
    """Show progress bars on stderr, two updates per second; ``transient`` ones vanish at the end.

    Yields ``new(label, total, completed=0)``, which adds a row and returns its `Bar`; a ``total``
    of None shows activity without an end.
    """
    label = progress.TextColumn("{task.description}", markup=False)
    note = progress.TextColumn("{task.fields[note]}", markup=False)
    left = progress.TimeRemainingColumn()
    columns = (progress.SpinnerColumn(), label, progress.BarColumn(), note, left)
    options = {"console": MESSAGES, "refresh_per_second": 2, "transient": transient}
    with progress.Progress(*columns, **options) as display:  # type: ignore[arg-type]

        def new(label: str, total: float | None, completed: int = 0) -> Bar:
            how: Any = {"total": total, "completed": completed, "note": ""}
            return Bar(display, display.add_task(visible(label), **how))

        yield new


@contextmanager
def bar(label: str, total: float | None, *, transient: bool = False) -> Iterator[Bar]:
    """Show one progress bar; see `bars`."""
    with bars(transient=transient) as new:
        yield new(label, total)


def tracked(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield the items, and show a bar that disappears at the end."""
    with bar(label, len(items), transient=True) as row:
        for item in items:
            yield item
            row.advance()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Return a table for `show`: the first column is text; empty columns give no headings."""
    heading, width = (Text(visible(title)), len(title)) if title else (None, None)
    made = Table(title=heading, title_justify="left", show_header=any(columns), min_width=width)
    for number, column in enumerate(columns):
        made.add_column(Text(visible(column)), justify="right" if number else "left")
    for row in rows:
        made.add_row(
            *(cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row)
        )
    return made


def show(*tables: Table, console: Console = RESULTS) -> None:
    """Print tables, on stdout by default."""
    for one in tables:
        console.print(one)
