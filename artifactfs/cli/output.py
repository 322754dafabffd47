"""The way to the terminal: all that commands print goes through here, and nothing else in the package prints (a test).

Nearly every line holds foreign text (of the service, file names, arguments, the mount table), so a line is escaped when
it is printed, and not when it is composed (docs/semantics.md 6.5). A newline is no part of a line. Output for programs
is exact: JSON, which is ASCII, and what `exact` prints.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

import click

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.escaping import one_line
from artifactfs.util.humanize import counted, format_size

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

# Failures of a command on many files that are named one by one. Arbitrary.
_FAILURES_SHOWN = 20
# A wait in which a user wonders whether anything goes on. Arbitrary.
_WAIT_SHOWN_S = 3.0
# What a terminal obeys (ECMA-48, and DEC's private mode 25): the line is cleared; the cursor goes and comes.
_CLEAR = "\r\x1b[K"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
# Of a line of progress: its bar, at most and at least; and all else but the label (percent, time left, bytes, rate).
_BAR_CELLS, _LEAST_BAR_CELLS = 36, 3
_TEXT_CELLS = len("   100%  00:00:00  1023 MiB of 1023 MiB, 1023 MiB/s")
_COLUMNS = 80
_quiet = False
# The progress bar that is being shown.
_bar: "_Bar | None" = None


def be_quiet() -> None:
    """Print no warnings, hints and progress bars from now on: --quiet."""
    global _quiet
    _quiet = True


def say(*lines: str) -> None:
    """Print lines on standard output, each as one line."""
    _write(sys.stdout, "\n".join(map(shown, lines)))


def table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows of columns, at least one column; the first row is the head.

    For programs a row is a line. On a terminal long texts wrap within its width.
    """
    texts = [[shown(text) for text in row] for row in rows]
    if is_terminal():
        _write(sys.stdout, _drawn(texts, shutil.get_terminal_size().columns))
        return
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in texts)
    say(*(line.rstrip() for line in lines))


def say_marked(mark: str, color: str, text: str) -> None:
    """Print a line after a mark, which has a color on a terminal."""
    mark = click.style(mark, fg=color) if is_terminal() and settings.wants_color() else mark
    _write(sys.stdout, f"{mark} {shown(text)}")


def redraw(*lines: str) -> None:
    """Replace the screen of a terminal by lines, as many as fit."""
    click.clear()
    size = shutil.get_terminal_size()
    left, fitting = size.lines - 1, list[str]()
    for line in lines:
        # A long one takes several lines of the terminal.
        left -= max(1, -(-len(shown(line)) // size.columns))
        if left < 0:
            break
        fitting.append(line)
    say(*fitting)


def tell(*lines: str) -> None:
    """Print lines on standard error, each as one line; above a progress bar."""
    text = "\n".join(map(one_line, lines))
    _write(sys.stderr, text if _bar is None else f"{_CLEAR}{text}")
    if _bar is not None:
        _bar.draw_again()


def complain(sentence: str, program: str = "artifactfs") -> None:
    """Print an error on standard error, as one line."""
    tell(f"{program}: {sentence}")


@contextlib.contextmanager
def collected(failed: list[UserError]) -> Iterator[None]:
    """Append a UserError to `failed`, in place of raising it: for commands on several paths."""
    try:
        yield
    except UserError as error:
        failed.append(error)


def raise_last(failed: list[UserError]) -> None:
    """Report the errors of all paths: one of them does not hide the others. Raises the last."""
    for error in failed[:-1]:
        complain(str(error))
    if failed:
        raise failed[-1]


def warn(sentence: str, program: str = "artifactfs") -> None:
    """Print a warning on standard error, as one line, unless --quiet."""
    if not _quiet:
        complain(f"warning: {sentence}", program)


def warn_of_notices() -> None:
    """From now on print what the log notices and nothing has failed for: names that were left out, and long waits.

    Of the waits at the same time one. Failures are for the caller to print.
    """
    import logging

    from artifactfs.logs.limiter import is_notice, waiting_s

    class Notices(logging.Handler):
        waits_until_s = float("-inf")

        def emit(self, record: logging.LogRecord) -> None:
            seconds = waiting_s(record)
            if seconds >= _WAIT_SHOWN_S and self.waits_until_s <= record.created:
                self.waits_until_s = record.created + seconds
                hint(f"artifactfs: {record.getMessage()}")
            elif is_notice(record):
                warn(record.getMessage())

    logging.getLogger().addHandler(Notices())
    logging.getLogger("artifactfs").setLevel(logging.INFO)


def hint(*lines: str) -> None:
    """Print what the user may do next on standard error, each as one line, unless --quiet."""
    if not _quiet:
        tell(*lines)


def data(value: object, indent: int | None = 2) -> None:
    """Print JSON in ASCII: programs get each text exactly, and a terminal obeys none of it."""
    exact(json.dumps(value, indent=indent))


def exact(text: str) -> None:
    """Print text for programs, as it is. On a terminal, where no program reads it, its lines are escaped."""
    _write(sys.stdout, "\n".join(map(shown, text.split("\n"))) if is_terminal() else text)


def shown(text: str) -> str:
    """Return a text as `say` prints it: escaped, also characters that standard output does not have."""
    encoding = _encoding()
    return one_line(text).encode(encoding, "backslashreplace").decode(encoding)


def can_show(text: str) -> bool:
    """Return whether standard output has all characters of a text."""
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def ask(
    question: str, *, default: str | None = None, is_secret: bool = False, parse: Callable[[str], object] = str
) -> str:
    """Return the answer to a question on the terminal; a secret one is not shown.

    Asks again, with the error's message, where `parse` raises ValueError.
    """

    def parsed(text: str) -> str:
        try:
            return str(parse(text))
        except ValueError as error:
            raise click.UsageError(one_line(str(error))) from None

    try:
        answer: str = click.prompt(
            one_line(question), default=default, hide_input=is_secret, value_proc=parsed, err=True
        )
    except UnicodeDecodeError as error:
        tell()  # the question's line has not ended
        fact = f"what was typed is not valid {error.encoding.upper()}"
        raise UserError(ExitCode.USAGE, fact, "type it again, or paste it from another place") from None
    return answer


@contextlib.contextmanager
def progress(label: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if it is a terminal. Yields a thread-safe function that adds bytes."""
    global _bar
    lock, done = threading.Lock(), 0
    is_hidden = _quiet or sys.stderr is None or not sys.stderr.isatty()
    place = _Bar(sys.stderr)
    # A line that wraps is drawn below itself each time, and not over itself.
    room = _columns(sys.stderr) - len(label)
    is_narrow = room < _TEXT_CELLS
    width = min(_BAR_CELLS, room - _TEXT_CELLS - 4)

    def told(_item: int | None) -> str:
        # click's own average over some seconds, as for the time left.
        is_known = bar.time_per_iteration > 0 and not is_narrow
        rate = f", {format_size(int(1 / bar.time_per_iteration))}/s" if is_known else ""
        return f"{format_size(done)} of {format_size(size_bytes)}{rate}"

    bar: ProgressBar[int] = click.progressbar(
        length=size_bytes,
        label=label,
        file=place,
        hidden=is_hidden,
        item_show_func=told,
        show_eta=not is_narrow,
        width=max(0, width) or 1,
        bar_template="%(label)s  [%(bar)s]  %(info)s" if width > _LEAST_BAR_CELLS else "%(label)s  %(info)s",
        update_min_steps=max(1, size_bytes // 1000),
    )

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            bar.update(count)

    with bar:
        _bar = None if is_hidden else place
        try:
            yield advance
        finally:
            _bar = None


def give_up_on(failures: Sequence[str], what: str) -> None:
    """Print failures, the first of many, and raise UserError; nothing where there are none. `what`: "could not …"."""
    # What is in the way of a directory is in the way of each file below it.
    for failure in list(dict.fromkeys(failures))[:_FAILURES_SHOWN]:
        complain(failure)
    if failures:
        which = counted(len(failures), "file or directory", "files or directories")
        raise UserError(ExitCode.INCOMPLETE, f"{which} {what}", "call again to go on")


class _Bar(io.StringIO):
    """Standard error with click's progress bar on it. The cursor stays: no command that is killed can show it again."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._drawn = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._drawn = text.replace(_HIDE_CURSOR, "").replace(_SHOW_CURSOR, "")
        self._stream.write(self._drawn)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def draw_again(self) -> None:
        """Draw the bar again below what was printed over it."""
        self._stream.write(self._drawn)
        self._stream.flush()


def _drawn(rows: Sequence[Sequence[str]], width: int) -> str:
    """Return rows, the first of them a bold head, as a table of `width` cells at most."""
    # Slow to import, and of use on terminals alone.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, *others = rows
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for text in head:
        grid.add_column(Text(text), overflow="fold")
    for row in others:
        # A str would be read for rich's own markup.
        grid.add_row(*map(Text, row))
    page = io.StringIO()
    # Without the environment: what of it counts is said here.
    console = Console(
        file=page,
        width=width,
        force_terminal=True,
        color_system="standard" if settings.wants_color() else None,
        highlight=False,
        _environ={},
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def _columns(stream: TextIO | None) -> int:
    """Return the width of a stream's terminal; 80 where nothing tells."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS if stream is not None else _COLUMNS
    except (OSError, ValueError, AttributeError):
        return _COLUMNS


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "ascii"


def _write(stream: TextIO | None, text: str) -> None:
    # None: closed by the caller.
    if stream is not None:
        stream.write(text + "\n")
        stream.flush()
