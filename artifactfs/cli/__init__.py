"""The commands and their options: prints and exits, decides nothing.

`main` is the console script; each family of commands has a module, imported when one of them runs
(command_table.py). Those import little at their top: `mount` forks before trio, httpx and their threads exist, so
functions import them in the child.
"""

import codecs
import contextlib
import io
import os
import signal
import sys

import click

from artifactfs import __version__, settings
from artifactfs.cli import output
from artifactfs.cli.command_table import CommandTable
from artifactfs.errors import ExitCode, UserError, of_the_system

# The name under which `_exact_or_escaped` is known to codecs.
_EXACT_OR_ESCAPED = "artifactfs"


def main() -> None:
    """Run the command line, and end the process. Each failure has one line on stderr, and an exit code."""
    begin()
    guard_standard_output()
    code = _run()
    with contextlib.suppress(UserError):
        sys.stdout.flush()
    # Not sys.exit: Python would first free every object, a sixth of the time of `--version`.
    os._exit(code)


def _run() -> int:
    try:
        cli.main(prog_name="artifactfs", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as asked:
        # Of a completion, or a mount in the foreground.
        return int(asked.code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        output.tell(*error.format_message().split("\n"))
        return int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        # At once: our threads may be waiting in a read, and have nothing to clean up.
        os._exit(130)
    except Exception as error:
        return int(report(error))
    return int(ExitCode.OK)


def report(error: Exception, program: str = "artifactfs") -> ExitCode:
    """Print the cause of an error, in one line; returns its exit code."""
    if isinstance(error, click.ClickException):
        # The choices of a missing argument are on lines of their own.
        fact = error.format_message().replace("\n\t", " ").rstrip(".")
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "artifactfs"
        known: UserError | None = UserError(ExitCode.USAGE, fact, f"see `{command} --help`")
    elif isinstance(error, UserError):
        known = error
    elif isinstance(error, LookupError | ValueError) and "_ARTIFACTFS_COMPLETE" in settings.environment(keys=False):
        # Of click, which takes what it is to complete from the environment.
        fact = "what to complete is not in COMP_WORDS and COMP_CWORD, as the shell's own completion has it"
        known = UserError(ExitCode.USAGE, fact, "see `artifactfs completion --help`")
    else:
        from artifactfs.mount import mount_table

        # A deleted working directory explains any failure to make a relative path absolute.
        known = (mount_table.directory_gone() if isinstance(error, OSError) else None) or of_the_system(error)
    if known is None:
        known = UserError(ExitCode.BUG, f"{type(error).__name__}: {error} (this is a bug, please report it)")
    output.complain(str(known), program)
    return known.code


class _Output(io.TextIOWrapper):
    """Standard output that raises UserError for a failed write."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._given_up(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._given_up(error) from None

    def _given_up(self, error: OSError) -> UserError:
        if isinstance(error, BrokenPipeError):
            # The reader has closed the pipe (`| head`): end silently, with the code of SIGPIPE. click would exit with
            # 1, the code of a bug.
            os._exit(128 + signal.SIGPIPE)
        # Otherwise Python writes again at its end, and prints three lines.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UserError(ExitCode.NOT_WRITABLE, f"cannot write to standard output: {error.strerror}")


class _Errors(io.TextIOWrapper):
    """Standard error that never raises OSError: there is no other place for the message."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def guard_standard_error() -> None:
    """Keep a command's exit code where standard error is full, or closed at its other end."""
    before = sys.stderr
    if isinstance(before, io.TextIOWrapper):
        encoding, errors = before.encoding, before.errors
        sys.stderr = _Errors(before.detach(), encoding, errors, line_buffering=True)


def guard_standard_output() -> None:
    """Report the cause of a failed write to standard output, such as a full disk. Replace one that was closed."""
    before = sys.stdout
    if before is None:
        # Libraries expect one: uvicorn asks whether it is a terminal.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the life of the process
    if isinstance(before, io.TextIOWrapper):
        encoding, by_line = before.encoding, before.line_buffering or before.write_through
        below = before.detach()
        # Without a buffer (PYTHONUNBUFFERED) a short write would lose half a line without an error.
        below = io.BufferedWriter(below) if isinstance(below, io.RawIOBase) else below
        # A path that is not UTF-8 is printed exactly. A character that an old locale lacks must not end the command.
        codecs.register_error(_EXACT_OR_ESCAPED, _exact_or_escaped)
        sys.stdout = _Output(below, encoding, _EXACT_OR_ESCAPED, line_buffering=by_line)


def _exact_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle an error of encoding (codecs.register_error): a byte of a path as it was, another character escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def begin() -> None:
    """Undo unusual settings of the parent process, and hide the secrets of this one. Call before anything else."""
    open_standard_descriptors()
    guard_standard_error()
    restore_signals()
    keep_own_files_usable()
    settings.hide()


def restore_signals() -> None:
    """Unblock all signals, and reset those that a parent may have ignored.

    A blocked signal, or an ignored SIGTERM, would not end a mount. An ignored SIGCHLD loses the exit codes of children:
    fusermount3, commands that print keys, the check for a dead mount. An ignored SIGINT or SIGHUP is the user's wish
    (`&` in a script, nohup), and stays.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def open_standard_descriptors() -> None:
    """Open closed descriptors of 0 to 2 on /dev/null: otherwise the next socket becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Opens the lowest free number, which is this one; the root directory where there is no /dev.
            try:
                os.open(os.devnull, os.O_RDWR)
            except OSError:
                os.open("/", os.O_RDONLY)


def keep_own_files_usable() -> None:
    """Clear the owner's bits of the umask: with 0777 we could not enter the directories that we make."""
    os.umask(os.umask(0o077) & 0o077)


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", message="artifactfs %(version)s")
def cli() -> None:
    """Mount the run artifacts of Datadog Model Lab as a read-only filesystem.

    \b
      artifactfs demo                 mount a built-in sample at ./demo-mount
      artifactfs login                store the keys of your account
      artifactfs mount ~/model-lab    mount your runs
      ls ~/model-lab/names            look for one by its name
      artifactfs umount ~/model-lab   end the mount

    More: `man artifactfs`, `artifactfs COMMAND --help`, https://docs.datadoghq.com/api/latest/model-lab-api/
    """
