"""What the disk of a mount has of a place: asked by `warm` and `pin`, which end only when all of it is there."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from artifactfs.cli.status import ask_mount, of_this_version
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.humanize import counted

if TYPE_CHECKING:
    from artifactfs.control.pin_schema import Kept, PinAnswer


def looked(order: str, path: str) -> "tuple[PinAnswer, Kept]":
    """Return how much of a path is here: the mount is asked again as long as it gets on. Raises UserError."""
    from artifactfs.control.pin_schema import Kept

    best = (-1, -1)
    while True:
        answer = ask(order, path)
        check_is_in_run(path, answer)
        kept = answer.kept or Kept()
        if kept.failure is not None:
            raise UserError(ExitCode.INCOMPLETE, kept.failure, kept.what_to_do or "", subject=path)
        is_whole = kept.is_listed and (order == "kept" or kept.kept_files == kept.files)
        # Each answer begins with the first files again: it gets on if it comes further than any before.
        gets_on = kept.files - kept.unsized > best[0] or kept.kept_bytes > best[1]
        if is_whole or not gets_on:
            return answer, kept
        best = max(best[0], kept.files - kept.unsized), max(best[1], kept.kept_bytes)


def ask(order: str, path: str) -> "PinAnswer":
    import msgspec

    from artifactfs.control.pin_schema import PinAnswer

    point, values = ask_mount(order, path)
    with of_this_version(point):
        answer = msgspec.convert(values, PinAnswer)
    if answer.error is not None:
        raise UserError(ExitCode.CACHE_REFUSED, answer.error, answer.what_to_do, subject=point)
    return answer


def check_is_in_run(path: str, answer: "PinAnswer") -> None:
    if answer.path is None:
        fact = "this is no run and in none, and a pin is of runs or of what is in one"
        raise UserError(ExitCode.USAGE, fact, "name a run", subject=path)


def check_whole(looks: "Iterable[Kept]", again: str) -> None:
    """Raise UserError where the disk lacks a file. `again`: what to do then, at the end of a sentence."""
    lacking = sum(each.files - each.kept_files for each in looks)
    if lacking:
        fact = f"{counted(lacking, 'file')} could not be kept whole: the cache or its disk may be full"
        raise UserError(ExitCode.INCOMPLETE, fact, f"`artifactfs status` shows how full they are; {again}")
