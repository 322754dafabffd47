"""`artifactfs pin`, `unpin` and `pins`: what stays in the cache on the local disk."""

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from artifactfs.cli import kept_places, output
from artifactfs.cli.completion import FILE
from artifactfs.cli.help_layout import command
from artifactfs.cli.warm_cache import or_by_number, place_of, with_cache
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.escaping import shell_word
from artifactfs.util.humanize import counted, format_size

if TYPE_CHECKING:
    from artifactfs.content.block_store import BlockStore
    from artifactfs.control.pin_schema import Kept, PinAnswer, PinReport
    from artifactfs.pins import PinFile
    from artifactfs.settings import Settings
    from artifactfs.warm import Plan

# Of a pin in a list: the cache directory, the site, the path, and since when.
_Key = tuple[str, str, str, float]
_AGAIN = "`artifactfs pin` again goes on where it stopped"


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=FILE)
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=4, show_default=True, help="Files read at once.")
def pin(paths: tuple[str, ...], jobs: int) -> None:
    """Keep runs, directories or files of a mount on this disk: fetch and never evict them.

    They stay until `artifactfs unpin`, over remounts and restarts. What all pins need must fit into the cache
    (cache_size). A pinned run that changes is fetched again when a mount sees that. After an interruption, call it
    again: it continues where it stopped.
    """
    from artifactfs import warm
    from artifactfs.mount import control_client

    meant = list(dict.fromkeys(map(control_client.run_in_mount, paths)))
    todo = _registered(meant)
    count = counted(len(todo.files), "file")
    try:
        with output.progress(count, todo.size_bytes) as advance:
            warm.fetch(todo, jobs=jobs, advance=advance, drop_pages=True)
        output.give_up_on(todo.failures, "could not be read")
        # The mount fetches what its disk still lacks, such as what its memory had.
        looks = [kept_places.looked("keep", path) for path in meant]
    except (KeyboardInterrupt, UserError):
        output.hint(f"artifactfs: it is pinned, and not all of it is here; {_AGAIN}")
        raise
    kept_places.check_whole([each for _, each in looks], _AGAIN)
    if any(answer.is_stored is False for answer, _ in looks):
        fact = "its contents are here, but its listings could not be stored: without the service it does not show"
        raise UserError(ExitCode.INCOMPLETE, fact, "see metadata_size, and `artifactfs cache info`; then mount again")
    if any(answer.is_stored is None for answer, _ in looks):
        output.warn("this mount stores no listings (`artifactfs cache info`): without the service it does not show")
    output.say(f"pinned {count}, {format_size(sum(each.kept_bytes for _, each in looks))}")


def _registered(paths: Sequence[str]) -> "Plan":
    """Pin paths, and return what there is to fetch. Where that fails or would not fit, nothing new is pinned."""
    from artifactfs import warm

    new: list[str] = []
    try:
        for path in paths:
            answer = kept_places.ask("pin", path)
            if answer.is_new:
                new.append(path)
            kept_places.check_is_in_run(path, answer)
        todo = warm.plan(paths)
        output.raise_last(list(todo.errors.values()))
        output.give_up_on(todo.failures, "could not be listed, so nothing is pinned")
        for path in paths:
            answer, here = kept_places.looked("kept", path)
            _check_fits(path, todo, answer, here)
            _check_can_fetch(path, answer, here)
    except BaseException:
        for path in new:
            with contextlib.suppress(UserError):  # the mount has ended
                kept_places.ask("unpin", path)
        raise
    return todo


def _check_fits(path: str, todo: "Plan", answer: "PinAnswer", kept: "Kept") -> None:
    # The mount may have had no time to look at very many files.
    needs_bytes = max(answer.needs_bytes, todo.size_bytes)
    if needs_bytes > answer.limit_bytes:
        size, needs, limit = map(format_size, (kept.size_bytes, needs_bytes, answer.limit_bytes))
        fact = f"with {size} in it all pins need {needs}, and the cache has {limit}"
        raise UserError(ExitCode.INCOMPLETE, fact, "raise cache_size, or unpin others (`artifactfs pins`)", path)
    if answer.disk_room_bytes is not None and needs_bytes > answer.disk_room_bytes:
        size, needs, room = map(format_size, (kept.size_bytes, needs_bytes, answer.disk_room_bytes))
        fact = f"with {size} in it all pins need {needs}, and the disk of {answer.cache_dir} has room for {room}"
        raise UserError(ExitCode.INCOMPLETE, fact, "free space there, or mount with a cache_dir on another disk", path)


def _check_can_fetch(path: str, answer: "PinAnswer", kept: "Kept") -> None:
    lacking = kept.files - kept.kept_files - kept.unsized
    if answer.is_offline and lacking:
        fact = f"the mount works offline, and of {counted(kept.files, 'file')} {lacking} cannot be fetched"
        raise UserError(ExitCode.INCOMPLETE, fact, "pin it once the service can be reached", subject=path)


@command()
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=FILE)
@click.option("--all", "everything", is_flag=True, help="Everything that is pinned in the cache.")
@with_cache
def unpin(loaded: "Settings", store: "BlockStore", paths: tuple[str, ...], everything: bool) -> None:
    """Let the cache evict what was pinned at PATH.

    PATH is a place in a mount. Or it is RUN or RUN/PATH, such as 70158/checkpoints, of the settings' site, whether it
    is mounted or not. What is in the cache stays until its room is needed.
    """
    from artifactfs.mount import control_client
    from artifactfs.pins import PinFile

    if everything == bool(paths):
        raise click.UsageError("give PATHs, or --all")
    file = PinFile(store.directory)
    failed: list[UserError] = []
    if everything:
        output.say(f"unpinned {counted(_removed(file, None, None), 'place')}")
    for path in paths:
        with output.collected(failed):
            if (place := place_of(path)) is not None:
                if not _removed(file, loaded.api_url, place):
                    raise _not_pinned(path, loaded.api_url, place, [(each.site, each.place) for each in file.read()])
            else:
                _unpin_in_mount(control_client.run_in_mount(path))
            output.say(f"{path}: unpinned; what is cached of it stays until its room is needed")
    output.raise_last(failed)


def _unpin_in_mount(path: str) -> None:
    from artifactfs.mount import control_client

    try:
        answer = kept_places.ask("unpin", path)
    except control_client.NoSuchPlace as error:
        fix = "what is gone from the service is unpinned as RUN or RUN/PATH, such as 70158/checkpoints"
        raise UserError(error.code, error.fact, fix) from None
    except UserError as error:
        raise or_by_number(error) from None
    if not answer.removed:
        own = [("", each.path.removeprefix("runs/")) for each in answer.pins if each.is_own]
        raise _not_pinned(path, "", (answer.path or "").removeprefix("runs/"), own)


def _not_pinned(path: str, site: str, place: str, pinned: Sequence[tuple[str, str]]) -> UserError:
    """Return the error for a place that is not pinned itself. `pinned`: the sites and places that are."""
    fact, fix = f"it is not pinned{f' at {site}' if site else ''}", "`artifactfs pins` lists what is"
    whole = next((its for at, its in pinned if at == site and place.startswith(f"{its}/")), None)
    others = sorted({at for at, its in pinned if its == place and at != site})
    if whole is not None:
        fact, fix = f"it is pinned as a part of {whole}", "a part cannot be unpinned by itself: unpin all of that"
    elif others:
        fix = f"it is pinned at {others[0]}: `ARTIFACTFS_API_URL={shell_word(others[0])} artifactfs unpin {place}`"
    return UserError(ExitCode.INCOMPLETE, fact, fix, subject=path)


def _removed(file: "PinFile", site: str | None, place: str | None) -> int:
    """Remove the pin of a place, of whatever account, or all; returns how many there were."""
    return len(file.remove(lambda each: place is None or (each.site, each.place) == (site, place)))


@dataclass(frozen=True)
class _Row:
    """A row of --json. `current`: whether all of it is here as the service has it; None where nothing tells."""

    path: str
    site: str
    since: str
    size_bytes: int
    here_bytes: int
    current: bool | None
    gone: bool
    mountpoint: str | None
    cache_dir: str


@command()
@click.option("--json", "as_json", is_flag=True, help="As JSON: an array.")
@with_cache
def pins(_loaded: "Settings", store: "BlockStore", as_json: bool) -> None:
    """List what is pinned, and how much of it is here.

    A mount of its site and account says what the service has now, and so whether all of it is here: `current`. Without
    such a mount that is unknown, and the size is that of the last look.
    """
    rows = _rows(store)
    if as_json:
        output.data(list(map(asdict, rows)))
    elif rows:
        sites, caches = {row.site for row in rows}, {row.cache_dir for row in rows}
        output.table([("pin", "size", "here", "current", "since"), *(_text(row, sites, caches) for row in rows)])
    else:
        output.hint("nothing is pinned; `artifactfs pin PATH` pins a run, directory or file of a mount")


def _rows(store: "BlockStore") -> list[_Row]:
    """Return every pin of the caches of this user's mounts, and of the settings' cache, by site and time."""
    from artifactfs.control.pin_schema import report
    from artifactfs.mount import control_client
    from artifactfs.pins import PinFile

    listed = PinFile(store.directory).read()
    found: dict[_Key, _Row | PinReport] = {}
    for mount in control_client.my_mounts():
        try:
            answer = kept_places.ask("pins", mount.point)
        except control_client.NoSuchCommand:
            continue  # it knows no pins
        except UserError as error:
            output.warn(str(error))
            continue
        for each in answer.pins:
            key = (answer.cache_dir or "", each.site, each.path, each.pinned_at)
            if each.is_own and not isinstance(found.get(key), _Row):
                found[key] = _in_mount(each, answer.cache_dir or "", mount.point)
            else:
                found.setdefault(key, each)
    for pin in listed:
        each = report(pin)
        found.setdefault((store.directory, each.site, each.path, each.pinned_at), each)
    held = functools.cache(_held)
    in_order = sorted(found.items(), key=lambda item: (item[0][1], item[0][3]))
    return [each if isinstance(each, _Row) else _on_disk(each, key[0], held(key[0])) for key, each in in_order]


def _in_mount(pin: "PinReport", cache_dir: str, point: str) -> _Row:
    """Return a pin as a mount of its account sees it."""
    from artifactfs.mount import control_client

    size, here, current, is_gone = pin.size_bytes, 0, None, False
    try:
        _, kept = kept_places.looked("kept", os.path.join(point, pin.path))
    except control_client.NoSuchPlace:
        current, is_gone = False, True
    except UserError as error:
        output.warn(str(error))
    else:
        here = kept.kept_bytes
        # Where only the contents tell a size, the one of the last look is shown.
        size = max(kept.size_bytes, pin.size_bytes) if kept.unsized else kept.size_bytes
        if kept.is_listed:
            current = False if kept.kept_files + kept.unsized < kept.files else None if kept.unsized else True
    return _Row(pin.path, pin.site, pin.since, size, here, current, is_gone, point, cache_dir)


def _on_disk(pin: "PinReport", cache_dir: str, held: list[tuple[str, str, int]]) -> _Row:
    """Return a pin by what is on the disk alone."""
    place = pin.path.removeprefix("runs/")
    here = sum(
        size
        for site, held_place, size in held
        if site == pin.site and (held_place == place or held_place.startswith(f"{place}/"))
    )
    # On the disk it has headers, and perhaps an older version, too.
    here = min(here, pin.size_bytes) if pin.size_bytes else here
    return _Row(pin.path, pin.site, pin.since, pin.size_bytes, here, None, False, None, cache_dir)


def _held(cache_dir: str) -> list[tuple[str, str, int]]:
    """Return what a cache directory holds: the site, the place and the bytes of each file."""
    from artifactfs.content.block_store import BlockStore
    from artifactfs.content.cache_places import site_and_path

    store = BlockStore(cache_dir, max_bytes=0, min_free_bytes=0)
    return [(*site_and_path(place), size) for place, size in store.bytes_by_place().items()]


def _text(row: _Row, sites: set[str], caches: set[str]) -> tuple[str, ...]:
    place = row.path.removeprefix("runs/") + (f" ({row.site})" if len(sites) > 1 else "")
    if len(caches) > 1:
        # Other commands than `pins` work on one cache, that of --cache-dir.
        place += f" in {row.cache_dir}"
    current = "gone" if row.gone else {True: "yes", False: "no", None: "unknown"}[row.current]
    return place, format_size(row.size_bytes), format_size(row.here_bytes), current, row.since
