"""`artifactfs status`, `refresh` and `info`: the reports and commands of a mount. They need no keys and no network."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from artifactfs.cli import output
from artifactfs.cli.completion import FILE, LIVE_MOUNT
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import Duration
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.escaping import shell_word
from artifactfs.util.humanize import counted, format_size

if TYPE_CHECKING:
    from artifactfs.control.status_schema import Status

# Mounts that are queried at once; each takes a process.
_AT_ONCE = 8
# Between two reports of --watch.
_INTERVAL_S = 2.0


@command()
@click.argument("mountpoint", required=False, type=LIVE_MOUNT)
@click.option("--json", "as_json", is_flag=True, help="As JSON: an object, or an array of all mounts.")
@click.option("--watch", "-w", is_flag=True, help="Repeat until Ctrl-C; without a terminal, a line each time.")
@click.option(
    "--interval", metavar="DURATION", type=Duration(0.1, 3600), help="Between two reports of --watch [2s]."
)  # fmt: skip
def status(mountpoint: str | None, as_json: bool, watch: bool, interval: float | None) -> None:
    """Show the status of the mount at MOUNTPOINT, or of each of your mounts.

    Exits with 0 if all is well, with 23 if something is wrong, with 24 if the mount does not answer.
    """
    if interval is not None and not watch:
        raise click.UsageError("--interval has no effect without --watch")
    if mountpoint is None:
        if watch:
            raise UserError(ExitCode.USAGE, "--watch needs a mount point", "`artifactfs status` lists them")
        _all(as_json)
    elif watch:
        _watch(mountpoint, _INTERVAL_S if interval is None else interval, as_json)
    else:
        _one(mountpoint, as_json)


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=FILE)
@click.option("--contents", is_flag=True, help="Drop the contents of files, too: they are fetched again.")
def refresh(paths: tuple[str, ...], contents: bool) -> None:
    """Mark the listings of PATH, and of everything below it, stale: the next access asks the service.

    PATH is a mount point, or a project, run, directory or file in a mount. Contents that are cached are kept, unless
    --contents drops them: a file that was rewritten with the same size and times shows its new contents only then.
    """
    if contents:
        refresh_contents(paths)
        return
    failed: list[UserError] = []
    for path in paths:
        with output.collected(failed):
            point, values = ask_mount("refresh", path, parent_too=True)
            if values.get("is_offline"):
                output.warn(f"{point} works offline: until it asks the service again, it shows what was stored")
            _warn_of_names(path, values)
    if len(failed) < len(paths):
        output.say("the next access asks for new listings; cached contents are kept (--contents drops them)")
    output.raise_last(failed)


def refresh_contents(paths: Sequence[str]) -> None:
    """Refresh paths in mounts, and drop the contents of their files. Raises UserError."""
    failed: list[UserError] = []
    for path in paths:
        with output.collected(failed):
            point, values = ask_mount("refresh-contents", path)
            if values.get("is_offline"):
                fact = f"{point} works offline, so what is dropped could not be fetched again: nothing is dropped"
                fix = "do it once the service can be reached, or delete it with `artifactfs cache clear RUN/PATH`"
                raise UserError(ExitCode.INCOMPLETE, fact, fix, subject=path)
            size, blocks, ended = (values.get(name, 0) for name in ("deleted_bytes", "deleted_blocks", "ended_files"))
            output.say(
                f"{path}: deleted {format_size(size)} in {counted(blocks, 'block')}; the next read asks the service"
            )
            if ended:
                output.warn(f"{path}: open files that have to be opened again (Stale file handle): {ended}")
            _warn_of_names(path, values)
            if not values.get("kernel_pages_dropped", True):
                output.warn(f"{path}: files that are open may show old pages until they are opened again")
            if not values.get("disk_is_clear", True):
                fact = f"not all cached blocks of {path} could be deleted; this mount does not use them, the next may"
                fix = "its log says more; `artifactfs cache clear` may help"
                failed.append(UserError(ExitCode.INCOMPLETE, fact, fix))
    output.raise_last(failed)


def _warn_of_names(path: str, values: dict[str, Any]) -> None:
    if not values.get("kernel_names_dropped", True):
        output.warn(f"{path}: the kernel may repeat old names for a while")


@command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="As JSON; an array where several PATHs are given.")
def info(paths: tuple[str, ...], as_json: bool) -> None:
    """Show the details of a run, project, directory or file in a mount.

    Of a run: name, status, project, times, parameters, tags, metrics; of a file: size, time, how much is cached.
    """
    import msgspec

    from artifactfs.cli import render
    from artifactfs.control.place_info import Info

    whole: list[object] = []
    lines: list[str] = []
    failed: list[UserError] = []
    for path in paths:
        try:
            point, values = ask_mount("info", path)
            whole.append(values)
            with of_this_version(point):
                found = msgspec.convert(values, Info)
        except UserError as error:
            failed.append(error)
            continue
        lines += ["", *render.lines(render.info_rows(found))]
        if found.error:
            fact = f"{found.path}: the service did not tell all: {found.error}"
            failed.append(UserError(ExitCode.INCOMPLETE, fact, found.what_to_do or ""))
    if as_json and (whole or len(paths) > 1):
        output.data(whole if len(paths) > 1 else whole[0])
    elif lines and not as_json:
        output.say(*lines[1:])
    output.raise_last(failed)


def _one(path: str, as_json: bool) -> None:
    from artifactfs.cli import render
    from artifactfs.control.status_schema import OK, json_text
    from artifactfs.mount import control_client

    try:
        point, values = ask_mount("status.json", path)
    except UserError as error:
        if as_json and error.code == ExitCode.NO_ANSWER:
            output.exact(json_text(_no_status(control_client.point_of(path) or path, error)))
        raise
    if as_json:
        output.exact(json_text(values))
    with of_this_version(point):
        found = _decoded(values)
        lines = [] if as_json else render.lines(render.status_rows(found))
    if lines:
        output.say(*lines)
    if found.health.state != OK:
        raise UserError(ExitCode.UNHEALTHY, render.health_line(found), found.health.what_to_do, subject=point)


def _all(as_json: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from artifactfs.cli import render
    from artifactfs.control.status_schema import json_text
    from artifactfs.mount import control_client

    mounts = control_client.my_mounts()
    # At once: the time-out of a mount that does not answer must not delay the next.
    with ThreadPoolExecutor(max(1, min(len(mounts), _AT_ONCE))) as pool:
        looks = [look for look in pool.map(_look, [mount.point for mount in mounts]) if look is not None]
    if as_json:
        output.exact(json_text([look.values for look in looks]))
    elif looks:
        output.say(*render.lines((look.point, look.line) for look in looks))
    else:
        output.complain("you have no mounts; `artifactfs mount MOUNTPOINT` makes one")
    wrong = [look.error for look in looks if look.error is not None]
    if wrong:
        raise max(wrong, key=lambda error: error.code)


@dataclass(frozen=True)
class _Look:
    """The status of one of several mounts: as values for JSON, as a line, and its error."""

    point: str
    values: object
    line: str
    error: UserError | None = None


def _look(point: str) -> _Look | None:
    """Return the status of a mount; None for one of another user."""
    from artifactfs.cli import render
    from artifactfs.control.status_schema import OK
    from artifactfs.mount import mount_owner

    try:
        point, values = ask_mount("status.json", point)
        with of_this_version(point):
            found = _decoded(values)
    except mount_owner.NotMountOwner:
        return None
    except UserError as error:
        values = _no_status(point, error)
        line = "dead: its process is gone" if values["health"]["state"] == "dead" else f"no_answer: {error}"
        # A mount that has just ended is not an error.
        return _Look(point, values, line, None if error.code == ExitCode.NOT_MOUNTED else error)
    wrong = None
    if found.health.state != OK:
        fix = f"`artifactfs status {shell_word(point)}` says more"
        wrong = UserError(ExitCode.UNHEALTHY, found.health.message, fix, subject=point)
    return _Look(point, values, f"{render.health_line(found)}; {found.site or found.origin}", wrong)


def _no_status(point: str, error: UserError) -> dict[str, Any]:
    """Return the substitute for status.json of a mount that does not answer."""
    from artifactfs.mount import control_client

    dead = isinstance(error, control_client.NoAnswer) and error.dead
    return {"mountpoint": point, "health": {"state": "dead" if dead else "no_answer", "message": str(error)}}


def _watch(path: str, interval_s: float, as_json: bool) -> None:
    """Repeat the report until Ctrl-C or the end of the mount."""
    from artifactfs.cli import render

    while True:
        point, values = ask_mount("status.json", path)
        with of_this_version(point):
            found = _decoded(values)
            summary, lines = render.summary(found), render.lines(render.status_rows(found))
        if as_json:
            output.data(values, indent=None)
        elif output.is_terminal():
            output.redraw(*lines)
        else:
            output.say(summary)
        time.sleep(interval_s)


def ask_mount(order: str, path: str, *, parent_too: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the mount point of a mount, and the JSON object of its answer. Raises UserError for another answer."""
    from artifactfs.mount import control_client

    answer = control_client.ask(order, path, parent_too=parent_too)
    try:
        # Not msgspec, which refuses the escaped lone surrogates of the server's text.
        values = json.loads(answer.text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(ExitCode.NO_ANSWER, f"{answer.point} does not answer as a mount of artifactfs does")
    # The mount reports where it was made; `mount --move` may have moved it.
    return answer.point, {**values, "mountpoint": answer.point} if "mountpoint" in values else values


def _decoded(values: dict[str, Any]) -> "Status":
    import msgspec

    from artifactfs.control.status_schema import Status

    return msgspec.convert(values, Status)


@contextlib.contextmanager
def of_this_version(point: str) -> Iterator[None]:
    """Raise UserError for an answer that this version cannot read."""
    import msgspec

    try:
        yield
    except (msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        fact = f"{point} is served by another version of artifactfs"
        raise UserError(ExitCode.NO_ANSWER, fact, "use that one, or --json") from None
