"""The way to the terminal: all that commands print goes through here, and nothing else in the package prints (a test).

Text of others (the service, file names, arguments, the mount table) is in nearly every line, so a line is escaped where
it leaves, and not where it is put together (docs/semantics.md 6.5). A newline is no part of a line: who has several
lines gives several. What programs read is exact: JSON, which is ASCII, and what `exact` prints.
"""

import json
import sys
from typing import TYPE_CHECKING, TextIO

from artifactfs.util.escaping import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def say(*lines: str) -> None:
    """Print lines on standard output, each as one line."""
    _write(sys.stdout, "\n".join(shown(line) for line in lines))


def tell(*lines: str) -> None:
    """Print lines on standard error, each as one line."""
    _write(sys.stderr, "\n".join(map(one_line, lines)))


def complain(sentence: str, program: str = "artifactfs") -> None:
    """Print what is wrong on standard error, as one line."""
    tell(f"{program}: {sentence}")


def warn(sentence: str, program: str = "artifactfs") -> None:
    """Print a warning on standard error, as one line."""
    complain(f"warning: {sentence}", program)


def data(value: object, indent: int | None = 2) -> None:
    """Print JSON: in ASCII, so that a terminal obeys none of it and programs get each text as it was."""
    exact(json.dumps(value, indent=indent))


def exact(text: str) -> None:
    """Print what programs read, as it is. On a terminal, where none reads it, its lines are escaped."""
    stdout = sys.stdout
    lines = text.split("\n") if stdout is not None and stdout.isatty() else []
    _write(stdout, "\n".join(map(shown, lines)) if lines else text)


def shown(text: str) -> str:
    """Return a text as `say` prints it: escaped, and so what standard output has no character for."""
    encoding = _encoding()
    return one_line(text).encode(encoding, "backslashreplace").decode(encoding)


def can_show(text: str) -> bool:
    """Tell whether standard output has all characters of a text."""
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def console(*, err: bool = False) -> "Console":
    """Return a rich console on standard output, or standard error: escapes what is in it, and reads no markup."""
    from rich.console import Console
    from rich.segment import Segment

    class OurConsole(Console):
        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                # Of the sequences in a line only rich's own are left.
                text = segment.text if segment.control else "\n".join(map(one_line, segment.text.split("\n")))
                yield Segment(text, segment.style, segment.control)

        def on_broken_pipe(self) -> None:
            # rich would exit with 1.
            raise BrokenPipeError

    return OurConsole(stderr=err, highlight=False, markup=False, emoji=False)


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "ascii"


def _write(stream: TextIO | None, text: str) -> None:
    # None: closed by the caller.
    if stream is not None:
        stream.write(text + "\n")
        stream.flush()
