"""`artifactfs warm` and `artifactfs cache`: the cache on the local disk, of file contents and of metadata."""

import functools
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import FILE
from artifactfs.cli.help_layout import command, group
from artifactfs.cli.options import Command, config_options, setting_option
from artifactfs.cli.status import refresh_contents
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import BY_NAME
from artifactfs.util.escaping import shell_word
from artifactfs.util.humanize import counted, format_size, format_span

if TYPE_CHECKING:
    from artifactfs.content.block_store import BlockStore
    from artifactfs.control.pin_schema import PinAnswer
    from artifactfs.metadata.metadata_store import MetadataStore
    from artifactfs.settings import Settings
    from artifactfs.warm import Plan

# What a place in the cache begins with: the number of a run.
_RUN = re.compile(r"[1-9][0-9]*(/|$)")


@group()
def cache() -> None:
    """Show, check or empty the cache on disk."""


def with_cache(command: Callable[..., None]) -> Command:
    """Give a command the options of the cache, and call it with the settings and the cache."""

    @config_options
    @setting_option(BY_NAME["cache_dir"])
    @functools.wraps(command)
    def run(cache_dir: str | None, config_file: str | None, profile: str | None, **arguments: object) -> None:
        loaded = settings.load({"cache_dir": cache_dir, "profile": profile}, config_file=config_file, need_keys=False)
        command(loaded, _store(loaded), **arguments)

    return run


@cache.command("info")
@with_cache
def cache_info(loaded: "Settings", store: "BlockStore") -> None:
    """Show where the cache is, how much it holds, and its limit."""
    usage = store.usage()
    exists = os.path.isdir(loaded.cache_dir)
    output.say(f"directory  {loaded.cache_dir}{'' if exists else ' (does not exist yet: the first mount makes it)'}")
    blocks = f"{counted(usage.blocks, 'block')} of {counted(usage.files, 'file')}"
    output.say(f"holds      {format_size(usage.size_bytes)} in {blocks}")
    output.say(f"metadata   {_shown(loaded, store)}")
    limit, free = format_size(loaded.cache_size), format_size(loaded.cache_min_free)
    output.say(f"limit      {limit}, leaving {free} free on the disk")
    if exists:
        output.say(f"disk free  {format_size(shutil.disk_usage(loaded.cache_dir).free)}")


def _shown(loaded: "Settings", store: "BlockStore") -> str:
    metadata = _metadata(loaded, store)
    if loaded.metadata_size == 0:
        return "turned off"
    if not metadata.exists():
        return "none yet"
    if not metadata.open():
        return f"not usable: {metadata.failure}"
    usage = metadata.usage()
    metadata.close()
    size, limit = format_size(usage.size_bytes), format_size(usage.limit_bytes)
    oldest = f", the oldest {format_span(max(0.0, time.time() - usage.oldest_at))} old" if usage.oldest_at else ""
    return f"{size} of {limit}: {counted(usage.records, 'record')} of {counted(usage.runs, 'run')}{oldest}"


@cache.command("verify")
@with_cache
def cache_verify(loaded: "Settings", store: "BlockStore") -> None:
    """Read every block and the metadata, and delete what is damaged. It is fetched again when it is needed."""
    damaged, left = 0, 0
    for path, size, is_deleted in store.verify():
        damaged += 1
        left += not is_deleted
        output.say(f"damaged, {'deleted' if is_deleted else 'and cannot be deleted'}: {path} ({format_size(size)})")
    usage = store.usage()
    output.say(f"{usage.blocks} blocks are intact ({format_size(usage.size_bytes)}), {damaged} were damaged")
    metadata = _metadata(loaded, store)
    if metadata.exists() and not metadata.open():
        output.say(f"metadata: not usable: {metadata.failure}")
        left += 1
    elif metadata.exists():
        found = metadata.verify()
        metadata.close()
        if found.is_whole:
            output.say(f"metadata: {counted(found.good, 'record')} intact, {found.damaged} damaged and deleted")
        else:
            output.say(f"metadata: the database was damaged, and is {'' if found.is_replaced else 'not yet '}deleted")
            left += not found.is_replaced
    if left:
        fact = f"not all that is damaged in {store.directory} could be deleted"
        raise UserError(ExitCode.INCOMPLETE, fact, "you need to be able to write there")


@cache.command("clear")
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=FILE)
@click.option("--pins", "with_pins", is_flag=True, help="Without PATH: unpin everything, and delete that, too.")
@with_cache
def cache_clear(loaded: "Settings", store: "BlockStore", paths: tuple[str, ...], with_pins: bool) -> None:
    """Delete everything in the cache, or its contents of PATH. Running mounts continue, and fetch again.

    Without PATH, what is pinned stays (see `artifactfs pins`), unless --pins is given.

    PATH is a place in a mount: that is `artifactfs refresh --contents PATH`, which drops it from the mount's memory,
    too. Or it is RUN or RUN/PATH, such as 70158/checkpoints, of the settings' site, whether it is mounted or not.
    """
    from artifactfs.content.cache_places import CachePart
    from artifactfs.mount import control_client

    if not paths:
        return _clear_all(loaded, store, with_pins=with_pins)
    if with_pins:
        raise UserError(ExitCode.USAGE, "--pins is for everything that is pinned", "leave it out, or leave out PATH")
    by_number = {path: place for path in paths if (place := place_of(path)) is not None}
    for path, place in by_number.items():
        _clear(store, path, CachePart(loaded.api_url, place).covers)
    if by_number and control_client.my_mounts():
        output.say(
            "running mounts may have it in memory; `artifactfs refresh --contents MOUNT/runs/RUN` drops it there"
        )
    return _clear_in_mounts([control_client.run_in_mount(path) for path in paths if path not in by_number])


def _clear_all(loaded: "Settings", store: "BlockStore", *, with_pins: bool) -> None:
    from artifactfs.content import cache_places
    from artifactfs.pins import PinFile

    pins = PinFile(store.directory)
    if with_pins and (unpinned := pins.remove(lambda _pin: True)):
        output.say(f"unpinned {counted(len(unpinned), 'place')}")
    runs = {pin.run_id for pin in pins.read()}

    def is_meant(place: bytes) -> bool:
        return not place or not pins.covers(*cache_places.site_and_path(place))

    _clear(store, is_meant=is_meant if runs else None)
    _clear_metadata(loaded, store, runs.__contains__)


def _clear(store: "BlockStore", path: str = "", is_meant: Callable[[bytes], bool] | None = None) -> None:
    gone = store.clear(is_meant)
    output.say(f"{path}{': ' if path else ''}deleted {format_size(gone.size_bytes)} in {counted(gone.blocks, 'block')}")
    if gone.left_blocks:
        fact = f"{counted(gone.left_blocks, 'block')} in {store.directory} could not be deleted"
        raise UserError(ExitCode.INCOMPLETE, fact, "you need to be able to write there")


def _clear_metadata(loaded: "Settings", store: "BlockStore", is_pinned: Callable[[int], bool]) -> None:
    metadata = _metadata(loaded, store, is_pinned)
    if not metadata.exists():
        return
    if not metadata.open():
        raise UserError(ExitCode.INCOMPLETE, f"the metadata could not be deleted: {metadata.failure}")
    if (freed := metadata.clear()) is None:
        fix = "free some room on its disk; `artifactfs cache verify` deletes a damaged one"
        raise UserError(ExitCode.INCOMPLETE, f"the metadata in {metadata.path} could not be deleted", fix)
    output.say(f"deleted {format_size(freed)} of metadata")
    metadata.close()


def place_of(path: str) -> str | None:
    """Return RUN or RUN/PATH without needless slashes; None for another path, or one in a mount."""
    from artifactfs.mount import control_client

    parts = [part for part in path.split("/") if part not in ("", ".")]
    is_run = _RUN.match(path) is not None and ".." not in parts
    return "/".join(parts) if is_run and control_client.point_of(path) is None else None


def _clear_in_mounts(paths: list[str]) -> None:
    if paths and click.get_current_context().params["cache_dir"] is not None:
        fact = f"{paths[0]} is not the number of a run, and a mount has a cache of its own"
        raise UserError(ExitCode.USAGE, fact, "leave out --cache-dir, or give RUN or RUN/PATH")
    try:
        refresh_contents(paths)
    except UserError as error:
        raise or_by_number(error) from None


def or_by_number(error: UserError) -> UserError:
    """Return the error for a path of a command that takes RUN/PATH, too; others as they are."""
    if error.code != ExitCode.NOT_MOUNTED:
        return error
    fix = "give a path in a mount, or RUN or RUN/PATH, such as 70158/checkpoints"
    return UserError(error.code, error.fact, fix, subject=error.subject)


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=FILE)
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, show_default=True, help="Files read at once.")
@click.option("--dry-run", "-n", is_flag=True, help="Only list, and print the cost.")
def warm(paths: tuple[str, ...], jobs: int, dry_run: bool) -> None:
    """Fetch trees or files of a mount into the cache ahead of time.

    Where one PATH fails, the others are fetched. After an interruption, call it again: it continues where it stopped.
    """
    from artifactfs import warm as warming

    todo = warming.plan(paths)
    failed = list(todo.errors.values())
    if found := [path for path in paths if path not in todo.errors]:
        with output.collected(failed):
            _warm(found, todo, jobs, dry_run)
    output.raise_last(failed)


def _warm(paths: Sequence[str], todo: "Plan", jobs: int, dry_run: bool) -> None:
    from artifactfs import warm as warming

    for path, links in todo.links.items():
        if not os.path.ismount(path):  # the whole mount: its runs are in it, too
            fact = f"{path}: {counted(links, 'link')} to runs not followed"
            output.warn(f"{fact}; name the runs, as in `artifactfs warm {shell_word(path)}/*`")
    if dry_run:
        output.say(warming.describe(todo))
    _check_fits(todo)
    if not dry_run:
        count = counted(len(todo.files), "file")
        with output.progress(count, todo.size_bytes) as advance:
            read_bytes = warming.fetch(todo, jobs=jobs, advance=advance)
        output.say(f"{count}, {format_size(read_bytes)}")
    output.give_up_on(todo.failures, "could not be read")
    if not dry_run:
        _check_is_kept(paths)


def _check_fits(todo: "Plan") -> None:
    """Raise UserError for what the cache cannot hold: it would be fetched in vain."""
    for point, size_bytes in todo.mounts.items():
        if (answer := _cache_of(point)) is None:
            continue
        limits = (answer.limit_bytes, answer.disk_room_bytes)
        limit = min(each for each in limits if each is not None)
        if size_bytes > limit:
            fact = f"this is {format_size(size_bytes)}, and the cache or its disk has room for {format_size(limit)}"
            fix = "name less, raise cache_size, or mount with a cache_dir on another disk"
            raise UserError(ExitCode.INCOMPLETE, fact, fix, subject=point)


def _check_is_kept(paths: Sequence[str]) -> None:
    """Let the mounts fetch what the disk still lacks, such as what memory had. Raises UserError where that fails."""
    from artifactfs.cli import kept_places

    looks = [
        kept_places.looked("keep", path)[1]
        for path in dict.fromkeys(paths)
        # Of a place above the runs nothing is known in one piece.
        if (answer := _cache_of(path)) is not None and answer.path is not None
    ]
    kept_places.check_whole(looks, "`artifactfs warm` again goes on where it stopped")


def _cache_of(path: str) -> "PinAnswer | None":
    """Return what the mount of a path says of its cache; None where it does not say. Raises UserError without a cache.

    A mount of an earlier version does not, nor one of a part of a mount, which has no reports, or without threads.
    """
    from artifactfs.cli import kept_places
    from artifactfs.mount import control_client

    try:
        return kept_places.ask("pins", path)
    except control_client.NoSuchCommand:
        return None
    except UserError as error:
        if error.code != ExitCode.NO_ANSWER:
            raise
        return None


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


def _metadata(
    loaded: "Settings", store: "BlockStore", is_pinned: Callable[[int], bool] = lambda _run_id: False
) -> "MetadataStore":
    import logging

    from artifactfs.metadata.metadata_store import MetadataStore

    # The commands say themselves what it logs.
    logging.getLogger("artifactfs.metadata").addHandler(logging.NullHandler())
    # What was kept before it was turned off can be checked and deleted, too.
    return MetadataStore(store.directory, max_bytes=loaded.metadata_size or 1, is_pinned=is_pinned)
