"""`artifactfs warm` and `artifactfs cache`: what is kept of contents on the local disk."""

import os
import shutil

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.options import Command, config_options
from artifactfs.content import cache_dir
from artifactfs.content.block_store import BlockStore
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Settings
from artifactfs.util.humanize import format_size

# Failures of `warm` that are named one by one.
_FAILURES_SHOWN = 20


@click.group()
def cache() -> None:
    """Look at, check or empty the cache of contents."""


def _cache_option(command: Command) -> Command:
    help_text = "Directory of the content cache.  [ARTIFACTFS_CACHE_DIR]"
    command = click.option("--cache-dir", "cache_dir", metavar="DIR", help=help_text)(command)
    return config_options(command)


@cache.command("info")
@_cache_option
def cache_info(cache_dir: str | None, config_file: str | None, profile: str | None) -> None:
    """Say where the cache is, what it holds, and what it may hold."""
    loaded = _load(cache_dir, config_file, profile)
    usage = _store(loaded).usage()
    is_there = os.path.isdir(loaded.cache_dir)
    output.say(f"directory  {loaded.cache_dir}" + ("" if is_there else " (not there yet: the first mount makes it)"))
    output.say(f"holds      {format_size(usage.size_bytes)} in {usage.blocks} blocks of {usage.files} files")
    output.say(
        f"limit      {format_size(loaded.cache_size)}, leaving {format_size(loaded.cache_min_free)} free on the disk"
    )
    if is_there:
        output.say(f"disk free  {format_size(shutil.disk_usage(loaded.cache_dir).free)}")


@cache.command("verify")
@_cache_option
def cache_verify(cache_dir: str | None, config_file: str | None, profile: str | None) -> None:
    """Read every block; what is damaged is deleted, and fetched again when it is needed."""
    loaded = _load(cache_dir, config_file, profile)
    store = _store(loaded)
    damaged = 0
    for path, size in store.verify():
        damaged += 1
        output.say(f"damaged, deleted: {path} ({format_size(size)})")
    usage = store.usage()
    output.say(f"{usage.blocks} blocks are whole ({format_size(usage.size_bytes)}), {damaged} were damaged")


@cache.command("clear")
@_cache_option
def cache_clear(cache_dir: str | None, config_file: str | None, profile: str | None) -> None:
    """Delete everything in the cache. Running mounts continue, and fetch again."""
    loaded = _load(cache_dir, config_file, profile)
    gone = _store(loaded).clear()
    output.say(f"deleted {format_size(gone.size_bytes)} in {gone.blocks} blocks")


@click.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, help="Files read at once.  [4]")
@click.option("--dry-run", "-n", is_flag=True, help="Only list, and say what it would cost.")
def warm(paths: tuple[str, ...], jobs: int, dry_run: bool) -> None:
    """Fetch trees or files of a mount into the cache ahead of time.

    Stopped and called again, it goes on where it was.
    """
    from artifactfs import warm as warming

    todo = warming.plan(paths)
    if dry_run:
        output.say(warming.describe(todo))
    else:
        read_bytes = warming.fetch(todo, jobs=jobs, console=output.console(err=True))
        output.say(f"{warming.files(len(todo.files))}, {format_size(read_bytes)}")
    for failure in todo.failures[:_FAILURES_SHOWN]:
        output.complain(failure)
    if todo.failures:
        count = len(todo.failures)
        failed = "1 file or directory" if count == 1 else f"{count} files or directories"
        raise UserError(ExitCode.INCOMPLETE, f"{failed} could not be read", "call again to go on")


def _load(cache_dir: str | None, config_file: str | None, profile: str | None) -> Settings:
    return settings.load({"cache_dir": cache_dir, "profile": profile}, config_file=config_file, need_keys=False)


def _store(loaded: Settings) -> BlockStore:
    try:
        directory = cache_dir.find(loaded.cache_dir).path
    except FileNotFoundError:
        directory = loaded.cache_dir  # the first mount makes it
    except OSError as error:
        fact = f"the cache directory {loaded.cache_dir} cannot be read ({error.strerror})"
        raise UserError(ExitCode.CACHE_REFUSED, fact, "give another with --cache-dir") from None
    return BlockStore(directory, max_bytes=loaded.cache_size, min_free_bytes=loaded.cache_min_free)
