"""`artifactfs mount`, `umount`, `demo` and `serve`."""

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from functools import partial

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import DIRECTORY, LIVE_MOUNT
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import setting_options
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import KEY_FORMS, Arguments

# Options for the address and the keys of the service; the demo has its own.
_OF_THE_SERVICE = KEY_FORMS | {"site", "api_url", "account", "proxy", "ca_file", "wait", "wait_max", "offline"}


_foreground_option = click.option(
    "-f", "--foreground", is_flag=True, help="Stay in the foreground, log to stderr, end with Ctrl-C."
)


@command()
@click.argument("mountpoint", type=DIRECTORY)
@setting_options
@_foreground_option
def mount(mountpoint: str, given: Arguments, foreground: bool) -> None:
    """Mount at MOUNTPOINT; returns when the mount is ready.

    The keys come from DD_API_KEY and DD_APP_KEY (or DD_BEARER_TOKEN), key files, or the config file.
    """
    from artifactfs.cli import starting
    from artifactfs.mount import checks

    loaded = settings.load(**given, may_be_offline=True, before_commands=lambda: checks.mountpoint(mountpoint))
    starting.start(mountpoint, loaded, foreground)


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, type=LIVE_MOUNT)
@click.option("--all", "-a", "is_all", is_flag=True, help="End all of your mounts, and print which.")
def umount(paths: tuple[str, ...], is_all: bool) -> None:
    """End the mount that PATH is in, also while files are open, and wait for the end of its process.

    `unmount` is another name of this command.
    """
    if bool(paths) == is_all:
        raise click.UsageError("give paths in mounts, or --all")
    from artifactfs.mount import unmount

    failed: list[UserError] = []
    if is_all:
        ended = dict(unmount.end_all())
        lines = [f"ended {point}" for point, error in ended.items() if error is None]
        if lines or not ended:
            output.say(*(lines or ["you have no mounts"]))
        failed += filter(None, ended.values())
    points: dict[str, None] = {}
    for path in paths:
        with output.collected(failed):
            points[unmount.point_of(path)] = None
    for point in points:
        with output.collected(failed):
            unmount.end(point)
    output.raise_last(failed)


@command()
@click.argument("directory", metavar="[DIR]", required=False, type=DIRECTORY)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="Port on 127.0.0.1."
)
def serve(directory: str | None, port: int) -> None:
    """Serve DIR/<run id>/…, or the sample, as a Model Lab on loopback.

    Prints its address and its keys as one line of JSON, and the command that mounts it. The files are read at each
    request. A run is running while a file in it has changed within the last ten minutes, and completed otherwise.
    """
    _need_emulator()
    from artifactfs.emulator.disk import Disk
    from artifactfs.emulator.serve import Options, ServeError, serve_forever

    # A warning only: the directory is read live, so a run may appear later.
    with contextlib.suppress(OSError):
        if directory is not None and os.path.isdir(directory) and not Disk(directory).runs():
            output.warn(f"no subdirectory of {directory} is a run's number: nothing is served")
    try:
        serve_forever(Options(directory=directory, port=port), announce=_announce)
    except ServeError as problem:
        raise UserError(ExitCode.USAGE, str(problem)) from None


@command()
@click.argument("mountpoint", default="demo-mount", type=DIRECTORY)
@partial(setting_options, without=_OF_THE_SERVICE)
@_foreground_option
# The default, as of `mount`; an older script says it.
@click.option("--background", is_flag=True, hidden=True)
def demo(mountpoint: str, given: Arguments, foreground: bool, background: bool) -> None:
    """Mount a built-in sample at MOUNTPOINT (./demo-mount): no account, no keys, no network."""
    if foreground and background:
        raise click.UsageError("give --foreground or --background, not both")
    from artifactfs.cli import starting

    _need_emulator()
    starting.start_sample(mountpoint, settings.load(**given, need_keys=False), foreground=foreground)


def _announce(told: Mapping[str, str]) -> None:
    """Print the address and the keys of the server, for programs, and the command that mounts it."""
    from artifactfs.util.escaping import shell_word

    output.data(told, indent=None)
    keys = f"DD_API_KEY={shell_word(told['api_key'])} DD_APP_KEY={shell_word(told['app_key'])}"
    output.hint(
        "mount it, in another terminal (Ctrl-C ends it here):",
        f"    mkdir -p ~/model-lab && {keys} artifactfs mount --api-url {told['url']} ~/model-lab",
    )


def _need_emulator() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        command = "pip install 'artifactfs[demo]'"
        raise UserError(ExitCode.MISSING_EXTRA, f"the emulator needs {' and '.join(missing)}", command=command)
