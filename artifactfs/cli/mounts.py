"""`artifactfs mount`, `umount`, `demo` and `serve`."""

import contextlib
import importlib.util
import os
from functools import partial
from typing import Any

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import DIRECTORY, LIVE_MOUNT
from artifactfs.cli.options import setting_options
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import KEY_FORMS

# Options for the address and the keys of the service; the demo has its own.
_OF_THE_SERVICE = frozenset({"site", "api_url", "account", "proxy", "ca_file", "wait"}) | KEY_FORMS


@click.command()
@click.argument("mountpoint", type=DIRECTORY)
@setting_options
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, log to stderr, end with Ctrl-C.")
def mount(mountpoint: str, options: tuple[str, ...], config_file: str | None, foreground: bool, **flags: Any) -> None:
    """Mount at MOUNTPOINT; returns when the mount is ready.

    The keys come from DD_API_KEY and DD_APP_KEY (or DD_BEARER_TOKEN), key files, or the config file.
    """
    from artifactfs.cli import starting
    from artifactfs.mount import checks

    loaded = settings.load(
        flags,
        options=",".join(options),
        config_file=config_file,
        before_commands=lambda: checks.mountpoint(mountpoint),
    )
    starting.start(mountpoint, loaded, foreground)


@click.command()
@click.argument("mountpoint", type=LIVE_MOUNT)
def umount(mountpoint: str) -> None:
    """End the mount at MOUNTPOINT, lazily where files are open, and wait for the end of its process."""
    from artifactfs.mount import unmount

    unmount.end(mountpoint)


@click.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="Port on 127.0.0.1."
)
def serve(directory: str, port: int) -> None:
    """Serve DIR/<run id>/… as a Model Lab on loopback, with the keys that it prints.

    The files are read at each request. A run is running while a file in it has changed within the last ten minutes, and
    completed otherwise.
    """
    _need_emulator()
    from artifactfs.emulator.disk import Disk
    from artifactfs.emulator.serve import Options, ServeError, serve_forever

    # A warning only: the directory is read live, so a run may appear later.
    with contextlib.suppress(OSError):
        if os.path.isdir(directory) and not Disk(directory).runs():
            output.warn(f"no subdirectory of {directory} is a run's number: nothing is served")
    try:
        serve_forever(Options(directory=directory, port=port), announce=lambda told: output.data(told, indent=None))
    except ServeError as problem:
        raise UserError(ExitCode.USAGE, str(problem)) from None


@click.command()
@click.argument("mountpoint", default="demo-mount", type=DIRECTORY)
@partial(setting_options, without=_OF_THE_SERVICE)
@click.option("--background", is_flag=True, help="Go to the background; end it with `artifactfs umount`.")
def demo(mountpoint: str, options: tuple[str, ...], config_file: str | None, background: bool, **flags: Any) -> None:
    """Mount a built-in sample at MOUNTPOINT (./demo-mount): no account, no keys, no network.

    Stays in the foreground until Ctrl-C, or goes to the background.
    """
    from artifactfs.cli import starting

    _need_emulator()
    loaded = settings.load(flags, options=",".join(options), config_file=config_file, need_keys=False)
    starting.start_sample(mountpoint, loaded, background=background)


def _need_emulator() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        command = "pip install 'artifactfs[demo]'"
        raise UserError(ExitCode.MISSING_EXTRA, f"the emulator needs {' and '.join(missing)}", command=command)
