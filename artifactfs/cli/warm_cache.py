"""`artifactfs warm` and `artifactfs cache`: the cache of file contents on the local disk."""

import functools
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import FILE
from artifactfs.cli.options import Command, cache_dir_option
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.humanize import format_size

if TYPE_CHECKING:
    from artifactfs.content.block_store import BlockStore
    from artifactfs.settings import Settings


@click.group()
def cache() -> None:
    """Show, check or empty the cache of file contents."""


def _with_cache(command: Callable[["Settings", "BlockStore"], None]) -> Command:
    """Give a command the options of the cache, and call it with the settings and the cache."""

    @cache_dir_option
    @functools.wraps(command)
    def run(cache_dir: str | None, config_file: str | None, profile: str | None) -> None:
        loaded = settings.load({"cache_dir": cache_dir, "profile": profile}, config_file=config_file, need_keys=False)
        command(loaded, _store(loaded))

    return run


@cache.command("info")
@_with_cache
def cache_info(loaded: "Settings", store: "BlockStore") -> None:
    """Show where the cache is, how much it holds, and its limit."""
    usage = store.usage()
    exists = os.path.isdir(loaded.cache_dir)
    output.say(f"directory  {loaded.cache_dir}{'' if exists else ' (does not exist yet: the first mount makes it)'}")
    output.say(f"holds      {format_size(usage.size_bytes)} in {usage.blocks} blocks of {usage.files} files")
    limit, free = format_size(loaded.cache_size), format_size(loaded.cache_min_free)
    output.say(f"limit      {limit}, leaving {free} free on the disk")
    if exists:
        output.say(f"disk free  {format_size(shutil.disk_usage(loaded.cache_dir).free)}")


@cache.command("verify")
@_with_cache
def cache_verify(_loaded: "Settings", store: "BlockStore") -> None:
    """Read every block, and delete damaged ones. The next read fetches them again."""
    damaged = 0
    for path, size in store.verify():
        damaged += 1
        output.say(f"damaged, deleted: {path} ({format_size(size)})")
    usage = store.usage()
    output.say(f"{usage.blocks} blocks are intact ({format_size(usage.size_bytes)}), {damaged} were damaged")


@cache.command("clear")
@_with_cache
def cache_clear(_loaded: "Settings", store: "BlockStore") -> None:
    """Delete everything in the cache. Running mounts continue, and fetch again."""
    gone = store.clear()
    output.say(f"deleted {format_size(gone.size_bytes)} in {gone.blocks} blocks")


@click.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=FILE)
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, show_default=True, help="Files read at once.")
@click.option("--dry-run", "-n", is_flag=True, help="Only list, and print the cost.")
def warm(paths: tuple[str, ...], jobs: int, dry_run: bool) -> None:
    """Fetch trees or files of a mount into the cache ahead of time.

    After an interruption, call it again: it continues where it stopped.
    """
    from artifactfs import warm as warming

    todo = warming.plan(paths)
    if dry_run:
        output.say(warming.describe(todo))
    else:
        count = warming.files(len(todo.files))
        with output.progress(count, todo.size_bytes) as advance:
            read_bytes = warming.fetch(todo, jobs=jobs, advance=advance)
        output.say(f"{count}, {format_size(read_bytes)}")
    output.give_up_on(todo.failures, "could not be read")


def _store(loaded: "Settings") -> "BlockStore":
    from artifactfs.content import cache_dir
    from artifactfs.content.block_store import BlockStore

    try:
        directory = cache_dir.find(loaded.cache_dir).path
    except FileNotFoundError:
        directory = loaded.cache_dir  # the first mount makes it
    except OSError as error:
        fact = f"the cache directory {loaded.cache_dir} cannot be read ({error.strerror})"
        raise UserError(ExitCode.CACHE_REFUSED, fact, "give another with --cache-dir") from None
    return BlockStore(directory, max_bytes=loaded.cache_size, min_free_bytes=loaded.cache_min_free)
