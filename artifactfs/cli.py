"""The commands and their options. Prints, exits, decides nothing.

Imports little at the top: `mount` forks before trio, httpx and their threads exist, so those come in with the
functions that need them, in the child.
"""

import dataclasses
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from artifactfs import __version__, settings
from artifactfs.content.blocks import BlockStore, refuse_foreign
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount import checks, daemon, ending, table
from artifactfs.quantities import format_size
from artifactfs.settings import SETTINGS, Secret, Settings

# Failures of `warm` that are named one by one.
_FAILURES_SHOWN = 20

_Command = Callable[..., None]


def main() -> None:
    """Run the command line. One line on stderr and an exit code of its own for whatever goes wrong."""
    _open_standard_descriptors()
    try:
        cli.main(prog_name="artifactfs", standalone_mode=False)
        code = int(ExitCode.OK)
    except UserError as error:
        click.echo(f"artifactfs: {error}", err=True)
        code = int(error.code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = int(ExitCode.USAGE)
    except click.ClickException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "artifactfs"
        click.echo(f"artifactfs: {message}; see `{command} --help`", err=True)
        code = int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        # At once: threads of ours may be waiting in a read, and have nothing to clean up.
        os._exit(130)
    except Exception as error:
        click.echo(f"artifactfs: {type(error).__name__}: {error} (this is a bug, please report it)", err=True)
        code = int(ExitCode.BUG)
    sys.exit(code)


def _open_standard_descriptors() -> None:
    """Where 0 to 2 are closed, open them on nothing: else the next pipe or socket becomes standard output."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(fd)


# What says where the service is and who asks: nothing that a sample has.
_OF_THE_SERVICE = frozenset({"site", "api_url", "api_key_file", "app_key_file", "proxy", "ca_file", "wait"})


def _setting_options(command: _Command, without: frozenset[str] = frozenset()) -> _Command:
    """Add an option for each row of the table of settings, but for those in `without`.

    A path is plain text here: click's own type looks at it, and a look at a wedged mount never ends.
    """
    for setting in reversed([row for row in SETTINGS if row.flag and row.name not in without]):
        names = [setting.option, *(["-v"] if setting.name == "verbose" else [])]
        keywords: dict[str, Any] = {"help": f"{setting.help}  [{setting.env[-1]}]"}
        if setting.metavar is None:
            keywords["is_flag"] = True
        else:
            keywords["metavar"] = setting.metavar
        command = click.option(*names, setting.name, **keywords)(command)
    command = click.option("--config", "config_file", metavar="FILE", help="Config file.  [ARTIFACTFS_CONFIG]")(command)
    return click.option("-o", "options", metavar="OPT,…", multiple=True, help="The same settings, as name=value.")(
        command
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", message="artifactfs %(version)s")
def cli() -> None:
    """Mount the run artifacts of Datadog Model Lab as a read-only filesystem."""


@cli.command()
@click.argument("mountpoint")
@_setting_options
@click.option("-f", "--foreground", is_flag=True, help="Stay in front, log to stderr, end with Ctrl-C.")
def mount(mountpoint: str, options: tuple[str, ...], config_file: str | None, foreground: bool, **flags: Any) -> None:
    """Mount at MOUNTPOINT; returns when the mount answers.

    The keys come from DD_API_KEY and DD_APP_KEY, key files, or the config file.
    """
    loaded = settings.load(flags, options=",".join(options), config_file=config_file)
    _mount(mountpoint, loaded, foreground, _serve)


@cli.command()
@click.argument("mountpoint")
def umount(mountpoint: str) -> None:
    """End the mount at MOUNTPOINT, lazily where files are open, and wait until its process is gone."""
    ending.end(mountpoint)


@cli.command()
@click.argument("directory", metavar="DIR")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1.  [any free one]")
def serve(directory: str, port: int) -> None:
    """Serve DIR/<run id>/… as a Model Lab on loopback, with the keys that it prints."""
    _need_emulator()
    from artifactfs.emulator.__main__ import main as emulator

    sys.exit(emulator([directory, "--port", str(port)]))


@cli.command()
@click.argument("mountpoint", default="demo-mount")
@partial(_setting_options, without=_OF_THE_SERVICE)
@click.option("--background", is_flag=True, help="Go to the background; end it with `artifactfs umount`.")
def demo(mountpoint: str, options: tuple[str, ...], config_file: str | None, background: bool, **flags: Any) -> None:
    """Mount a built-in sample at MOUNTPOINT (./demo-mount): no account, no keys, no network.

    Stays in front until Ctrl-C, or goes to the background.
    """
    _need_emulator()
    loaded = settings.load(flags, options=",".join(options), config_file=config_file, need_keys=False)
    point = table.resolve(mountpoint)
    made = table.mounted_at(point) is None and not os.path.lexists(point)
    try:
        if made:
            os.makedirs(point)
    except OSError as error:
        raise UserError(ExitCode.MOUNT_REFUSED, f"cannot create {point}: {error.strerror}") from None

    def serve_sample(chosen: Settings, at: str, log_file: str | None, on_ready: Callable[[], None] | None) -> int:
        from artifactfs.mount import sample

        try:
            with sample.emulator() as lab:
                with_keys = dataclasses.replace(
                    chosen,
                    api_url=lab.url,
                    origin=lab.url.partition("://")[2],
                    api_key=Secret(lab.api_key),
                    app_key=Secret(lab.app_key),
                    access_token=None,
                )
                return _serve(with_keys, at, log_file, on_ready)
        finally:
            if made:
                # Not ours to remove if somebody put something in.
                _remove_if_empty(at)

    if not background:
        click.echo(f"the sample is at {point}: try `ls {point}/runs/70158`; Ctrl-C ends it", err=True)
    try:
        _mount(point, loaded, not background, serve_sample)
    except UserError:
        if made:
            _remove_if_empty(point)
        raise


@cli.group()
def cache() -> None:
    """Look at, check or empty the cache of contents."""


def _cache_option(command: _Command) -> _Command:
    help_text = "Directory of the content cache.  [ARTIFACTFS_CACHE_DIR]"
    command = click.option("--cache-dir", "cache_dir", metavar="DIR", help=help_text)(command)
    return click.option("--config", "config_file", metavar="FILE", help="Config file.  [ARTIFACTFS_CONFIG]")(command)


@cache.command("info")
@_cache_option
def cache_info(cache_dir: str | None, config_file: str | None) -> None:
    """Say where the cache is, what it holds, and what it may hold."""
    loaded = settings.load({"cache_dir": cache_dir}, config_file=config_file, need_keys=False)
    usage = _store(loaded).usage()
    click.echo(f"directory  {loaded.cache_dir}")
    click.echo(f"holds      {format_size(usage.size_bytes)} in {usage.blocks} blocks of {usage.files} files")
    click.echo(
        f"limit      {format_size(loaded.cache_size)}, leaving {format_size(loaded.cache_min_free)} free on the disk"
    )
    if os.path.isdir(loaded.cache_dir):
        click.echo(f"disk free  {format_size(shutil.disk_usage(loaded.cache_dir).free)}")


@cache.command("verify")
@_cache_option
def cache_verify(cache_dir: str | None, config_file: str | None) -> None:
    """Read every block; what is damaged is deleted, and fetched again when it is needed."""
    loaded = settings.load({"cache_dir": cache_dir}, config_file=config_file, need_keys=False)
    store = _store(loaded)
    damaged = 0
    for path, size in store.verify():
        damaged += 1
        click.echo(f"damaged, deleted: {path} ({format_size(size)})")
    usage = store.usage()
    click.echo(f"{usage.blocks} blocks are whole ({format_size(usage.size_bytes)}), {damaged} were damaged")


@cache.command("clear")
@_cache_option
def cache_clear(cache_dir: str | None, config_file: str | None) -> None:
    """Delete everything in the cache. Mounts that are using it go on, and fetch anew."""
    loaded = settings.load({"cache_dir": cache_dir}, config_file=config_file, need_keys=False)
    gone = _store(loaded).clear()
    click.echo(f"deleted {format_size(gone.size_bytes)} in {gone.blocks} blocks")


@cli.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, help="Files read at once.  [4]")
@click.option("--dry-run", "-n", is_flag=True, help="Only list, and say what it would cost.")
def warm(paths: tuple[str, ...], jobs: int, dry_run: bool) -> None:
    """Fetch trees or files of a mount into the cache ahead of time.

    Stopped and called again, it goes on where it was.
    """
    from rich.console import Console

    from artifactfs import warm as warming

    todo = warming.plan(paths)
    if dry_run:
        click.echo(warming.describe(todo))
    else:
        read_bytes = warming.fetch(todo, jobs=jobs, console=Console(stderr=True))
        click.echo(f"{len(todo.files)} files, {format_size(read_bytes)}")
    for failure in todo.failures[:_FAILURES_SHOWN]:
        click.echo(f"artifactfs: {failure}", err=True)
    if todo.failures:
        raise UserError(
            ExitCode.INCOMPLETE, f"{len(todo.failures)} files or directories could not be read; call again to go on"
        )


def _store(loaded: Settings) -> BlockStore:
    if os.path.lexists(loaded.cache_dir):
        refuse_foreign(loaded.cache_dir)
    return BlockStore(loaded.cache_dir, max_bytes=loaded.cache_size, min_free_bytes=loaded.cache_min_free)


def _mount(
    mountpoint: str,
    loaded: Settings,
    foreground: bool,
    serving: Callable[[Settings, str, str | None, Callable[[], None] | None], int],
) -> None:
    settings.drop_keys()
    checks.fuse(loaded)
    point, warning = checks.mountpoint(mountpoint)
    if warning:
        click.echo(f"artifactfs: warning: {warning}", err=True)
    if foreground:
        sys.exit(serving(loaded, point, loaded.log_file, None))
    log_file = loaded.log_file or settings.default_log_file(point)
    daemon.start(lambda on_ready: serving(loaded, point, log_file, on_ready), log_file)


def _serve(loaded: Settings, point: str, log_file: str | None, on_ready: Callable[[], None] | None) -> int:
    """Serve a mount until its end; in front where nobody waits to hear that it is ready."""
    # Only now, after the fork: this brings in trio, httpx and pyfuse3.
    from artifactfs.mount import session

    return session.run(
        loaded, point, log_file=log_file, foreground=on_ready is None, on_ready=on_ready or (lambda: None)
    )


def _need_emulator() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            ExitCode.MISSING_EXTRA, f"the emulator needs {' and '.join(missing)}: run `pip install 'artifactfs[demo]'`"
        )


def _remove_if_empty(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        # Still mounted, or in use: it stays, as any directory of the user's would.
        return
