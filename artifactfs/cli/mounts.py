"""`artifactfs mount`, `umount`, `demo` and `serve`."""

import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import DIRECTORY, LIVE_MOUNT
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import setting_options
from artifactfs.errors import ExitCode, UserError
from artifactfs.logs import LogDestination
from artifactfs.mount import checks, daemon, mount_table, unmount
from artifactfs.settings import KEY_FORMS, KeySource, Secret, Settings
from artifactfs.util.escaping import shell_word

# Options for the address and the keys of the service; the demo has its own.
_OF_THE_SERVICE = frozenset({"site", "api_url", "account", "proxy", "ca_file", "wait", "wait_max"}) | KEY_FORMS


_foreground_option = click.option(
    "-f", "--foreground", is_flag=True, help="Stay in the foreground, log to stderr, end with Ctrl-C."
)


@command()
@click.argument("mountpoint", type=DIRECTORY)
@setting_options
@_foreground_option
def mount(mountpoint: str, options: tuple[str, ...], config_file: str | None, foreground: bool, **flags: Any) -> None:
    """Mount at MOUNTPOINT; returns when the mount is ready.

    The keys come from DD_API_KEY and DD_APP_KEY (or DD_BEARER_TOKEN), key files, or the config file.
    """
    loaded = settings.load(
        flags,
        options=",".join(options),
        config_file=config_file,
        before_commands=lambda: checks.mountpoint(mountpoint),
    )
    start(mountpoint, loaded, foreground)


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, type=LIVE_MOUNT)
@click.option("--all", "-a", "is_all", is_flag=True, help="End all of your mounts, and print which.")
def umount(paths: tuple[str, ...], is_all: bool) -> None:
    """End the mount that PATH is in, also while files are open, and wait for the end of its process.

    `unmount` is another name of this command.
    """
    if bool(paths) == is_all:
        raise click.UsageError("give paths in mounts, or --all")
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
@click.option("--background", is_flag=True, expose_value=False, hidden=True)
def demo(mountpoint: str, options: tuple[str, ...], config_file: str | None, foreground: bool, **flags: Any) -> None:
    """Mount a built-in sample at MOUNTPOINT (./demo-mount): no account, no keys, no network."""
    _need_emulator()
    loaded = settings.load(flags, options=",".join(options), config_file=config_file, need_keys=False)
    point = checks.resolve(mountpoint)
    with _directory_at(point) as created:

        def serve_sample(chosen: Settings, at: str, target: LogDestination, parent: daemon.PipeToParent | None) -> int:
            try:
                return _serve_sample(chosen, at, target, parent)
            finally:
                if created:
                    _remove_if_empty(at)

        sample = f"the sample is at {point}: try `ls {shell_word(f'{point}/runs/70158')}`"
        if foreground:
            # `start` checks again; the line about the sample must not come before an error.
            checks.fuse(loaded)
            checks.mountpoint(point)
            output.hint(f"{sample}; Ctrl-C ends it")
        start(point, loaded, foreground, serve_sample)
        output.hint(f"{sample}; `artifactfs umount {shell_word(point)}` ends it")


def _announce(told: Mapping[str, str]) -> None:
    """Print the address and the keys of the server, for programs, and the command that mounts it."""
    output.data(told, indent=None)
    keys = f"DD_API_KEY={shell_word(told['api_key'])} DD_APP_KEY={shell_word(told['app_key'])}"
    output.hint(
        "mount it, in another terminal (Ctrl-C ends it here):",
        f"    mkdir -p ~/model-lab && {keys} artifactfs mount --api-url {told['url']} ~/model-lab",
    )


@contextlib.contextmanager
def _directory_at(point: str) -> Iterator[bool]:
    """Create a missing mount point; yields whether it was missing. Removes it after an error."""
    missing = mount_table.mounted_at(point) is None and not os.path.lexists(point)
    try:
        if missing:
            os.makedirs(point)
    except OSError as error:
        raise UserError(ExitCode.MOUNT_REFUSED, f"cannot create {point}: {error.strerror}") from None
    try:
        yield missing
    except UserError:
        if missing:
            _remove_if_empty(point)
        raise


def _serve_sample(chosen: Settings, at: str, target: LogDestination, parent: daemon.PipeToParent | None) -> int:
    from artifactfs.mount import demo_server

    with demo_server.emulator() as lab:
        with_keys = dataclasses.replace(
            chosen,
            api_url=lab.url,
            origin=lab.url.partition("://")[2],
            api_key=Secret(lab.api_key),
            app_key=Secret(lab.app_key),
            access_token=None,
            # Not those of the config file: the sample's keys do not change.
            keys=KeySource(),
            account=None,
        )
        return _serve(with_keys, at, target, parent)


def _serve(loaded: Settings, point: str, target: LogDestination, parent: daemon.PipeToParent | None) -> int:
    """Serve a mount until its end; in the foreground where no parent waits for it."""
    # After the fork: this imports trio, httpx and pyfuse3.
    from artifactfs.mount import session
    from artifactfs.mount.sd_notify import Notifier

    # Not in the background: systemd accepts notifications only from the process that it has started.
    address = settings.take_notify_socket()
    notify = Notifier(None if parent else address, parent)
    return session.run(loaded, point, target=target, notify=notify)


def start(
    mountpoint: str,
    loaded: Settings,
    foreground: bool,
    serving: Callable[[Settings, str, LogDestination, daemon.PipeToParent | None], int] = _serve,
    program: str = "artifactfs",
) -> None:
    """Make the checks, and mount; in the background, return when the mount is ready."""
    settings.drop_keys()
    # The files and directories of a mount (log, register, cache) are private.
    os.umask(0o077)
    checks.memory()
    checks.fuse(loaded)
    point, warning = checks.mountpoint(mountpoint)
    for notice in filter(None, (*loaded.warnings, warning, checks.cache(loaded))):
        output.warn(str(notice), program)
    target = settings.log_target(loaded, point, foreground=foreground)
    if target.file is not None:
        checks.log_file(target.file, point)
    if foreground:
        sys.exit(serving(loaded, point, target, None))

    def on_waiting(reason: str) -> None:
        output.complain(f"{reason}; waiting until it answers, Ctrl-C gives up", program)

    daemon.start(lambda parent: serving(loaded, point, target, parent), target.place, on_waiting=on_waiting)


def _need_emulator() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        command = "pip install 'artifactfs[demo]'"
        raise UserError(ExitCode.MISSING_EXTRA, f"the emulator needs {' and '.join(missing)}", command=command)


def _remove_if_empty(directory: str) -> None:
    # A directory that is still mounted, or has files, stays.
    with contextlib.suppress(OSError):
        os.rmdir(directory)
