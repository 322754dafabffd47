"""The commands and their options. Prints, exits, decides nothing.

`main` is the console script; a module for each family of commands. Imports little at the top: `mount` forks before
trio, httpx and their threads exist, so those come in with the functions that need them, in the child.
"""

import codecs
import contextlib
import io
import os
import signal
import sys

import click

from artifactfs import __version__, settings
from artifactfs.cli import completion, config, desktop, doctor, mounts, output, service_units, status, warm_cache
from artifactfs.errors import ExitCode, UserError, of_the_system
from artifactfs.mount import mount_table

# The name under which `_exact_or_escaped` is known to codecs.
_EXACT_OR_ESCAPED = "artifactfs"


def main() -> None:
    """Run the command line. One line on stderr and an exit code of its own for whatever goes wrong."""
    begin()
    guard_standard_output()
    sys.exit(_run())


def _run() -> int:
    try:
        cli.main(prog_name="artifactfs", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        code = int(ExitCode.OK)
    except UserError as error:
        output.complain(str(error))
        code = int(error.code)
    except click.exceptions.NoArgsIsHelpError as error:
        output.tell(*error.format_message().split("\n"))
        code = int(ExitCode.USAGE)
    except click.ClickException as error:
        message = error.format_message().rstrip(".")
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "artifactfs"
        output.complain(f"{message}; see `{command} --help`")
        code = int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        # At once: threads of ours may be waiting in a read, and have nothing to clean up.
        os._exit(130)
    except Exception as error:
        # First what there is wherever a relative path was to be made a whole one.
        known = (mount_table.directory_gone() if isinstance(error, OSError) else None) or of_the_system(error)
        said = str(known) if known else f"{type(error).__name__}: {error} (this is a bug, please report it)"
        output.complain(said)
        code = int(known.code if known else ExitCode.BUG)
    return code


class _Output(io.TextIOWrapper):
    """Standard output that raises UserError where it cannot be written, so that it is known what was not written."""

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
            # The reader has closed the pipe (`| head`): as quiet as other programs, with the code of SIGPIPE. click
            # would exit with 1, which is a bug's code here.
            os._exit(128 + signal.SIGPIPE)
        # Or Python would try it again at its end, and say so in three lines.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UserError(ExitCode.NOT_WRITABLE, f"cannot write to standard output: {error.strerror}")


class _Errors(io.TextIOWrapper):
    """Standard error that never raises OSError: where it cannot be written, there is no place to say so."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def guard_standard_error() -> None:
    """Have a command end with its own exit code where standard error is full, or closed at its other end."""
    before = sys.stderr
    if isinstance(before, io.TextIOWrapper):
        encoding, errors = before.encoding, before.errors
        sys.stderr = _Errors(before.detach(), encoding, errors, line_buffering=True)


def guard_standard_output() -> None:
    """Report the cause of a failed write to standard output, such as a full disk."""
    before = sys.stdout
    if isinstance(before, io.TextIOWrapper):
        encoding, by_line = before.encoding, before.line_buffering or before.write_through
        below = before.detach()
        # Without a buffer (PYTHONUNBUFFERED) it would write half a line, and not say so.
        below = io.BufferedWriter(below) if isinstance(below, io.RawIOBase) else below
        # A path that is no text is printed exactly, and a character that an old locale lacks must not end the command.
        codecs.register_error(_EXACT_OR_ESCAPED, _exact_or_escaped)
        sys.stdout = _Output(below, encoding, _EXACT_OR_ESCAPED, line_buffering=by_line)


def _exact_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle an error of encoding (codecs.register_error): a byte of a path as it was, another character escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def begin() -> None:
    """Make this process independent of what its parent left it, and closed to others: before anything else."""
    open_standard_descriptors()
    guard_standard_error()
    heed_signals()
    keep_own_files_usable()
    settings.hide()


def heed_signals() -> None:
    """Undo what a parent may have done to signals that are needed here.

    Blocked, or SIGTERM ignored, they would not end a mount. With SIGCHLD ignored the exit codes of children are lost:
    those of fusermount3, of a command that prints a key, of the look whether a mount is dead. That SIGINT or SIGHUP is
    ignored is the user's wish (`&` in a script, nohup), and stays.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def open_standard_descriptors() -> None:
    """Where 0 to 2 are closed, open them on nothing: else the next pipe or socket becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Opens the lowest number that is free, which is this one. Without a /dev the root directory does.
            try:
                os.open(os.devnull, os.O_RDWR)
            except OSError:
                os.open("/", os.O_RDONLY)


def keep_own_files_usable() -> None:
    """Leave the owner's bits out of the umask: with 0777 we could not enter the directories that we make."""
    os.umask(os.umask(0o077) & 0o077)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", message="artifactfs %(version)s")
def cli() -> None:
    """Mount the run artifacts of Datadog Model Lab as a read-only filesystem."""


for _command in (
    mounts.mount,
    mounts.umount,
    mounts.demo,
    mounts.serve,
    status.status,
    status.refresh,
    status.info,
    warm_cache.warm,
    warm_cache.cache,
    config.config,
    service_units.service,
    completion.completion,
    doctor.doctor,
    desktop.desktop,
):
    cli.add_command(_command)
completion.teach(cli)
