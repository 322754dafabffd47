"""`artifactfs status`, `refresh` and `info`: the reports and commands of a mount. They need no keys and no network."""

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from artifactfs.cli import output
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.escaping import shell_word

if TYPE_CHECKING:
    from collections.abc import Callable

    from artifactfs.control.status_schema import Status
    from artifactfs.mount.control_client import Answer

T = TypeVar("T")

# Between two looks of --watch, in seconds.
_INTERVAL_S = 2.0
# Mounts that are asked at once; each takes a process.
_AT_ONCE = 8


@click.command()
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON: an object, or an array of all mounts.")
@click.option("--watch", "-w", is_flag=True, help="Go on until Ctrl-C; without a terminal a line each time.")
@click.option(
    "--interval",
    metavar="S",
    type=click.FloatRange(0.1, 3600),
    default=_INTERVAL_S,
    help="Seconds between two looks.  [2]",
)
def status(mountpoint: str | None, as_json: bool, watch: bool, interval: float) -> None:
    """Say how the mount at MOUNTPOINT is; without one, how each of your mounts is.

    Exits with 0 if all is well, with 23 if something is wrong, with 24 if the mount does not answer.
    """
    if mountpoint is None:
        if watch:
            raise UserError(ExitCode.USAGE, "--watch needs a mount point: `artifactfs status` lists them")
        _all(as_json)
    elif watch:
        _watch(mountpoint, interval, as_json)
    else:
        _one(mountpoint, as_json)


@click.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
def refresh(paths: tuple[str, ...]) -> None:
    """Mark PATH, and everything below it, stale: the next access asks the service.

    PATH is a mount point, or a run, directory or file in a mount. Content that is still valid is kept.
    """
    from artifactfs.mount import control_client

    failed: list[UserError] = []
    for path in paths:
        try:
            answer = control_client.ask("refresh", path, parent_too=True)
            values = _parsed(answer)
        except UserError as error:
            failed.append(error)
            continue
        if not values.get("kernel_names_dropped", True):
            output.warn(f"{path}: the kernel may repeat old names for a while")
    _tell_all(failed)


@click.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON; an array where several PATHs are given.")
def info(paths: tuple[str, ...], as_json: bool) -> None:
    """Say what is known of a run, project, directory or file in a mount.

    Of a run: name, status, project, times, parameters, tags, metrics; of a file: size, time, how much is cached.
    """
    from artifactfs.cli import render
    from artifactfs.control.place_info import Info
    from artifactfs.mount import control_client

    whole: list[object] = []
    shown: list[list[str]] = []
    failed: list[UserError] = []
    for path in paths:
        try:
            answer = control_client.ask("info", path)
            values = _parsed(answer)
            whole.append(values)
            found = _decoded(values, Info, answer.point)
        except UserError as error:
            failed.append(error)
            continue
        shown.append(render.lines(render.info_rows(found)))
        if found.error:
            todo = f"; {found.what_to_do}" if found.what_to_do else ""
            failed.append(
                UserError(ExitCode.INCOMPLETE, f"{found.path}: the service did not tell all: {found.error}{todo}")
            )
    if as_json and (whole or len(paths) > 1):
        output.data(whole if len(paths) > 1 else whole[0])
    elif shown and not as_json:
        output.say(*[line for lines in shown for line in ("", *lines)][1:])
    _tell_all(failed)


def _tell_all(failed: list[UserError]) -> None:
    """Say of each path what is wrong with it: the others are not left out for one. Raises the last."""
    for error in failed[:-1]:
        output.complain(str(error))
    if failed:
        raise failed[-1]


def _one(path: str, as_json: bool) -> None:
    from artifactfs.cli import render
    from artifactfs.control.status_schema import OK, Status, json_text
    from artifactfs.mount import control_client

    try:
        answer = control_client.ask("status.json", path)
    except UserError as error:
        if as_json and error.code == ExitCode.NO_ANSWER:
            output.exact(json_text(_no_status(control_client.point_of(path) or path, error)))
        raise
    values = _parsed(answer)
    if as_json:
        output.exact(json_text(values))
    found = _decoded(values, Status, answer.point)
    if not as_json:
        output.say(*_lines(found, answer.point))
    if found.health.state != OK:
        raise UserError(ExitCode.UNHEALTHY, f"{answer.point}: {render.health_line(found)}; {found.health.what_to_do}")


def _all(as_json: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from artifactfs.cli import render
    from artifactfs.control.status_schema import json_text
    from artifactfs.mount import control_client

    mounts = control_client.my_mounts()
    # At once: one that does not answer takes its time, and must not add to that of the next.
    with ThreadPoolExecutor(max(1, min(len(mounts), _AT_ONCE))) as pool:
        looks = [look for look in pool.map(_look, [mount.point for mount in mounts]) if look is not None]
    if as_json:
        output.exact(json_text([look.values for look in looks]))
    elif looks:
        output.say(*render.lines((look.point, look.line) for look in looks))
    else:
        output.complain("you have no mounts: `artifactfs mount MOUNTPOINT` makes one")
    wrong = [look.error for look in looks if look.error is not None]
    if wrong:
        raise max(wrong, key=lambda error: error.code)


@dataclass(frozen=True)
class _Look:
    """What one of many mounts said: as JSON's value, as a line, and what is wrong."""

    point: str
    values: object
    line: str
    error: UserError | None = None


def _look(point: str) -> _Look | None:
    """Return what a mount says; None for one that is another user's."""
    from artifactfs.cli import render
    from artifactfs.control.status_schema import OK, Status
    from artifactfs.mount import control_client, mount_owner

    try:
        answer = control_client.ask("status.json", point)
        values = _parsed(answer)
        found = _decoded(values, Status, answer.point)
    except mount_owner.NotMountOwner:
        return None
    except UserError as error:
        values = _no_status(point, error)
        line = "dead: its process is gone" if values["health"]["state"] == "dead" else f"no answer: {error}"
        # A mount that has just ended is not an error.
        gone = error.code == ExitCode.NOT_MOUNTED
        return _Look(point, values, line, None if gone else error)
    wrong = None
    if found.health.state != OK:
        said = f"{point}: {found.health.message}; `artifactfs status {shell_word(point)}` says more"
        wrong = UserError(ExitCode.UNHEALTHY, said)
    line = f"{render.health_line(found)}; {found.site or found.origin}"
    return _Look(point, values, line, wrong)


def _no_status(point: str, error: UserError) -> dict[str, Any]:
    """Return what stands in the place of status.json for a mount that does not answer."""
    from artifactfs.mount import control_client

    dead = isinstance(error, control_client.NoAnswer) and error.dead
    return {"mountpoint": point, "health": {"state": "dead" if dead else "no_answer", "message": str(error)}}


def _watch(path: str, interval_s: float, as_json: bool) -> None:
    """Look again and again, until Ctrl-C or the end of the mount."""
    from rich.live import Live
    from rich.text import Text

    from artifactfs.cli import render
    from artifactfs.control.status_schema import Status
    from artifactfs.mount import control_client

    def look() -> tuple[Status, dict[str, Any]]:
        answer = control_client.ask("status.json", path)
        values = _parsed(answer)
        return _decoded(values, Status, answer.point), values

    console = output.console()
    if as_json or not console.is_terminal:
        while True:
            found, values = look()
            if as_json:
                output.data(values, indent=None)
            else:
                output.say(*_shown(lambda status: [render.summary(status)], found, path))
            time.sleep(interval_s)
    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        while True:
            found, _ = look()
            live.update(Text("\n".join(_lines(found, path))), refresh=True)
            time.sleep(interval_s)


def _parsed(answer: "Answer") -> dict[str, Any]:
    """Return the JSON object that a mount answered with. Raises UserError for another answer."""
    try:
        # The standard library's: lone surrogates of the server's are escaped in it.
        values = json.loads(answer.text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(ExitCode.NO_ANSWER, f"{answer.point} does not answer as a mount of artifactfs does")
    # It tells where it was made; by `mount --move` it may be elsewhere since.
    return {**values, "mountpoint": answer.point} if "mountpoint" in values else values


def _decoded(values: dict[str, Any], kind: type[T], point: str) -> T:
    import msgspec

    try:
        return msgspec.convert(values, kind)
    except (ValueError, msgspec.ValidationError):
        raise _other_version(point) from None


def _lines(found: "Status", point: str) -> list[str]:
    from artifactfs.cli import render

    return _shown(lambda status: render.lines(render.status_rows(status)), found, point)


def _shown(show: "Callable[[Status], list[str]]", found: "Status", point: str) -> list[str]:
    """Return `show(found)`. Raises UserError for sections of another version."""
    try:
        return show(found)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise _other_version(point) from None


def _other_version(point: str) -> UserError:
    return UserError(
        ExitCode.NO_ANSWER, f"{point} is served by another version of artifactfs", "use that one, or --json"
    )
