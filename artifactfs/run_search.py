"""`artifactfs search`: the runs that words choose, as the service names them; without a mount.

Owns the requests: one that checks the keys, those of a list of runs, and one for each project's name.
"""

from collections.abc import Sequence

import msgspec

from artifactfs import errors
from artifactfs.domain import RunDetails, RunFilter
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab.client import ModelLab
from artifactfs.mount import preflight
from artifactfs.settings import Settings
from artifactfs.tree import search_terms
from artifactfs.util import foreground

# Projects whose names are asked for; of others the number is shown. Arbitrary.
_PROJECTS_NAMED = 20


class FoundRun(msgspec.Struct, frozen=True):
    """A run that was found. `project_name`: None where it is not known."""

    run: RunDetails
    project_name: str | None


def filter_of(words: Sequence[str]) -> RunFilter:
    """Return what words choose. Raises UserError."""
    try:
        return search_terms.parse_parts(words)
    except search_terms.BadTerm as problem:
        fix = "see `artifactfs search --help`; put words with < or > into quotes, or the shell takes them for files"
        raise UserError(ExitCode.USAGE, str(problem), fix) from None


def run(wanted: RunFilter, count: int, settings: Settings) -> list[FoundRun]:
    """Return the `count` runs last updated of those that are wanted. Raises UserError."""
    return foreground.run(_run, wanted, count, settings)


async def _run(wanted: RunFilter, count: int, settings: Settings) -> list[FoundRun]:
    async with preflight.reached(settings) as (lab, _):
        try:
            records = await lab.find_runs(count, wanted)
        except errors.ServiceError as error:
            raise UserError(ExitCode.SERVICE_FAILED, error.fact, errors.what_to_do(error)) from error
        found = [msgspec.json.decode(record.details, type=RunDetails) for record in records]
        names: dict[str, str | None] = {}
        for project in list(dict.fromkeys(each.project_id for each in found))[:_PROJECTS_NAMED]:
            names[project] = await _name(lab, project)
        return [FoundRun(each, names.get(each.project_id)) for each in found]


async def _name(lab: ModelLab, project: str) -> str | None:
    try:
        return (await lab.get_project(int(project))).name
    except (ValueError, errors.ServiceError):
        # The runs are what was searched for.
        return None
