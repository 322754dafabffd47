"""artifactfs.cli.output: the one way to the terminal, and that there is no other."""

import ast
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import types
import unicodedata
from collections.abc import Iterable, Iterator

import pytest

from artifactfs.cli import output
from artifactfs.errors import UserError
from artifactfs.util.escaping import one_line
from tests.nasty import NASTY, NOT_UTF8, obeyed
from tests.parsed import Module, modules

THE_ONE = "cli/output.py"

# Calls that print, by the last part of their names.
PRINTING = {
    "print", "input", "breakpoint", "echo", "secho", "echo_via_pager", "confirm", "prompt", "progressbar", "pprint",
    "print_exc", "print_exception", "print_stack", "print_tb", "print_last", "displayhook", "getpass",
    "print_json", "inspect", "print_help", "print_usage", "get_text_stream", "get_binary_stream",
}  # fmt: skip
# Whose functions of these names may be called.
OURS = (["output"],)
# What is printed to; and who may name it, for what other than printing.
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
MAY_NAME = {
    "cli/__init__.py": "gives standard output another wrapper, which tells what cannot be written",
    "cli/desktop.py": "asks whether a terminal is there",
    "mount/ask_child.py": "its answer, as JSON, to the process that has started it",
    "mount/daemon.py": "flushes them before the fork",
    "logs/__init__.py": "the log of a mount in front: its form escapes each record",
}


def looked_at() -> list[Module]:
    """Return all modules but the one, and the emulator, which stands alone."""
    return [each for each in modules() if each.path != THE_ONE and not each.path.startswith("emulator/")]


def prints(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield (line, what) of each call that prints, and each name of a stream."""
    for node in nodes:
        if isinstance(node, ast.Constant) and node.value in ("/dev/stdout", "/dev/stderr"):
            yield node.lineno, str(node.value)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        owner = [] if isinstance(node.func, ast.Name) else [node.func.value]
        if name in PRINTING and [ast.unparse(each) for each in owner] not in OURS:
            yield node.lineno, name
        if name == "write" and node.args and ast.unparse(node.args[0]) in ("1", "2"):
            yield node.lineno, "os.write"


def named(nodes: Iterable[ast.AST]) -> set[str]:
    """Return which of the standard streams a module names."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            if node.attr in STREAMS and isinstance(node.value, ast.Name) and node.value.id == "sys":
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            found |= {alias.name for alias in node.names if alias.name in STREAMS}
    return found


def test_nothing_else_prints() -> None:
    """6.5: no module but the one prints, makes a console, or names a standard stream without a reason."""
    assert [f"{each.path}:{line}: {what}" for each in looked_at() for line, what in prints(each.nodes)] == []
    assert {each.path for each in looked_at() if named(each.nodes)} == set(MAY_NAME)


def test_words_for_a_shell_need_no_escape() -> None:
    """6.5: a command that is to be pasted has its words from `shell_word`: escaped by `shlex.quote` they are others."""
    quoting = [
        f"{each.path}:{node.lineno}"
        for each in looked_at()
        for node in each.nodes
        if isinstance(node, ast.Attribute)
        and node.attr == "quote"
        and ast.unparse(node) == "shlex.quote"
        and each.path != "util/escaping.py"
    ]
    assert quoting == []


@pytest.mark.parametrize(
    "source",
    [
        "print(1)", "click.echo('x', err=True)", "os.write(2, b'x')",
        "traceback.print_exc()", "click.confirm('?')", "open('/dev/stderr')",
    ],
)  # fmt: skip
def test_what_prints_is_seen(source: str) -> None:
    """The test above finds what it looks for."""
    assert len(list(prints(ast.walk(ast.parse(source))))) == 1


def test_the_name_of_a_stream_is_logged() -> None:
    for source in ("import sys\nsys.stderr.write('x')", "from sys import stdout\nstdout.write('x')", "sys.__stdout__"):
        assert named(ast.walk(ast.parse(source)))


# --- what it does -----------------------------------------------------------------------------------------


class Stream(io.StringIO):
    """A standard stream. `encoding`: of what it can show."""

    def __init__(self, encoding: str = "utf-8", *, tty: bool = False) -> None:
        super().__init__()
        self._encoding, self._tty = encoding, tty

    @property
    def encoding(self) -> str:  # type: ignore[override]  # StringIO has none
        return self._encoding

    def isatty(self) -> bool:
        return self._tty


@contextlib.contextmanager
def standard(out: Stream | None = None) -> Iterator[tuple[Stream, Stream]]:
    """Put streams in place of standard output and standard error."""
    out, err = out or Stream(), Stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


ALL = [*NASTY.values(), NOT_UTF8]


def test_lines_are_lines() -> None:
    """6.5: each text that is printed is one line, on either stream, and nothing in it is obeyed."""
    with standard() as (out, err):
        output.say(*ALL)
        output.tell(*ALL)
        assert out.getvalue() == err.getvalue() == "".join(f"{one_line(text)}\n" for text in ALL)
        output.complain("a\nb")
        output.warn("a\nb", "mount.artifactfs")
    assert obeyed(out.getvalue()) == set()
    assert err.getvalue().splitlines()[-2:] == ["artifactfs: a\\nb", "mount.artifactfs: warning: a\\nb"]


def test_json_is_exact() -> None:
    """6.5: JSON is ASCII without controls, and what is read from it is what was given."""
    with standard() as (out, _):
        output.data({text: text for text in ALL})
    assert out.getvalue().isascii()
    assert obeyed(out.getvalue()) == set()
    assert json.loads(out.getvalue()) == {text: text for text in ALL}


@pytest.mark.parametrize(("tty", "said"), [(False, "\x1b[31m\n\tx\n"), (True, "\\x1b[31m\n\\tx\n")])
def test_what_programs_read(tty: bool, said: str) -> None:
    """6.5: what is exact is so for a program; on a terminal, where none reads it, its lines are escaped."""
    with standard(Stream(tty=tty)) as (out, _):
        output.exact("\x1b[31m\n\tx")
    assert out.getvalue() == said


@pytest.mark.parametrize(("encoding", "said"), [("ascii", "sp\\xe4th \\u65e5"), ("latin-1", "späth \\u65e5")])
def test_a_terminal_that_has_not_all_characters(encoding: str, said: str) -> None:
    """What standard output has no character for is escaped: it ends no command."""
    with standard(Stream(encoding)) as (out, _):
        output.say("späth 日")
        assert not output.can_show("日")
    assert out.getvalue() == f"{said}\n"


TABLE = [("run", "name", "status"), ("7", "日本 [bold]x[/bold] :smile: \x1b[2J", "failed"), ("60250", "long " * 9, "")]


def test_a_table_for_a_program() -> None:
    """6.5: each row is one line, however wide, and nothing of it is obeyed."""
    with standard() as (out, _):
        output.table(TABLE)
    head, first, second = out.getvalue().splitlines()
    assert head.split() == ["run", "name", "status"]
    assert first.split() == ["7", "日本", "[bold]x[/bold]", ":smile:", "\\x1b[2J", "failed"]
    assert second.startswith("60250  long long")


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_table_on_a_terminal(more: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """6.5: texts wrap within the terminal, whole and escaped, by the cells that they take; the head alone is bold."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    with standard(Stream(tty=True)) as (out, _):
        output.table(TABLE)
    head, *lines = out.getvalue().splitlines()
    assert ("\x1b[1m" in head) is (not more)
    assert obeyed("".join(lines)) == set()
    cells = [sum(1 + (unicodedata.east_asian_width(c) == "W") for c in line) for line in lines]
    assert max(cells) <= 30
    # The name's column: what wrapped is whole.
    names = "".join(line[7:22].replace(" ", "") for line in lines)
    assert "[bold]x[/bold]:smile:\\x1b[2J" in names
    assert lines[0].startswith("7      日本")
    assert lines[0].endswith("failed")


def test_streams_that_are_closed() -> None:
    """Python has None in place of a stream that was closed before it began."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        for print_ in (output.say, output.tell, output.complain, output.warn, output.exact, output.data):
            print_("x")


def test_a_library_finds_a_stream_that_was_closed() -> None:
    """What asks standard output whether it is a terminal, as uvicorn does for `serve`, has an answer."""
    code = "import sys; from artifactfs import cli; cli.begin(); cli.guard_standard_output(); sys.stdout.write('x'); "
    code += "sys.exit(3 if sys.stdout.isatty() else 0)"
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("tty", "more", "colored"), [(True, {}, True), (True, {"NO_COLOR": "1"}, False),
    (True, {"TERM": "dumb"}, False), (False, {}, False)])  # fmt: skip
def test_a_mark_has_the_only_color(
    tty: bool, more: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6.5: the mark of a line has a color, on a terminal that shows colors; the text is escaped."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    with standard(Stream(tty=tty)) as (out, _):
        output.say_marked("!", "red", "\x1b[31m\nx")
    assert out.getvalue() == ("\x1b[31m!\x1b[0m" if colored else "!") + " \\x1b[31m\\nx\n"


def test_a_failure_of_many_files_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A link in the place of a directory is in the way of each file below it; all of them are counted."""
    with pytest.raises(UserError, match="3 files or directories could not be read"):
        output.give_up_on(["a: it is in the way", "b", "a: it is in the way"], "could not be read")
    assert capsys.readouterr().err == "artifactfs: a: it is in the way\nartifactfs: b\n"


def test_a_progress_bar_is_for_terminals() -> None:
    """Without a terminal, and without standard error, nothing is printed; the bytes are counted all the same."""
    with standard() as (_, err), output.progress("2 files", 2 << 20) as advance:
        advance(1 << 20)
    assert err.getvalue() == ""
    with contextlib.redirect_stderr(None), output.progress("no file", 0) as advance:
        advance(1)


def test_a_progress_bar_on_a_terminal() -> None:
    """It shows the bytes read, and ends full."""
    err = Stream(tty=True)
    with contextlib.redirect_stderr(err), output.progress("2 files", 2 << 20) as advance:
        for _ in range(2):
            advance(1 << 20)
    assert "2 files" in err.getvalue()
    assert "1 MiB of 2 MiB" in err.getvalue()
    assert "2 MiB of 2 MiB" in err.getvalue()
    # However the command ends, no terminal is left without one.
    assert obeyed(err.getvalue().replace("\r", "")) == set()


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_line_of_progress_does_not_wrap(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn over itself, which a line that is wider than the terminal is not; bytes and share are in each."""
    monkeypatch.setattr(output, "_columns", lambda _stream: columns)
    ticks = itertools.count(0, 2)
    monkeypatch.setattr("click._termui_impl.time", types.SimpleNamespace(time=lambda: next(ticks)))
    err = Stream(tty=True)
    with contextlib.redirect_stderr(err), output.progress("1023 files", 1023 << 20) as advance:
        for _ in range(3):
            advance(341 << 20)
    drawn = [line.strip("\n") for line in err.getvalue().split("\r")]
    assert max(map(len, drawn)) <= columns
    assert "100%" in drawn[-1]
    assert "1023 MiB of 1023 MiB" in drawn[-1]
    assert ("[" in drawn[-1]) == (columns > 60)


@pytest.mark.parametrize(("lines", "shown"), [(6, 2), (24, 4)])
def test_a_screen_holds_what_fits(lines: int, shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long line takes several of a terminal, and the first lines are the ones that stay in sight."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((10, lines)))
    with standard() as (out, _):
        output.redraw("a" * 10, "b" * 25, "c" * 11, "d")
    assert [line[0] for line in out.getvalue().splitlines() if line[:1] in "abcd" and line] == list("abcd"[:shown])


def test_lines_above_a_progress_bar() -> None:
    """A warning is a line of its own, and the bar goes on below it; behind the bar lines are as ever."""
    err = Stream(tty=True)
    with contextlib.redirect_stderr(err), output.progress("2 files", 2 << 20) as advance:
        advance(1 << 20)
        before = err.getvalue()
        drawn = before[before.rindex("\r") :]
        output.warn("x\ny")
    said = err.getvalue().removeprefix(before)
    assert said.startswith(f"\r\x1b[Kartifactfs: warning: x\\ny\n{drawn}")
    with contextlib.redirect_stderr(err):
        output.tell("z")
    assert err.getvalue().endswith("\nz\n")
