"""`artifactfs search`: the runs that words choose, as a table or as JSON."""

from functools import partial
from typing import Any

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import Offered
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import setting_options
from artifactfs.settings import KEY_FORMS, SETTINGS

# The settings with an option: those of the service. All others come from the other sources.
_WITHOUT = frozenset(row.name for row in SETTINGS) - KEY_FORMS - {"site", "api_url", "proxy", "ca_file", "deadline"}


def _terms(_context: click.Context, _incomplete: str) -> list[str]:
    from artifactfs.tree.search_terms import COMPLETIONS

    return COMPLETIONS


@command()
@click.argument("words", metavar="WORDS…", nargs=-1, required=True, type=Offered(_terms))
@click.option("--limit", "-n", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Runs at most.")
@click.option("--json", "as_json", is_flag=True, help="Print all that the service says of each run, as JSON.")
@partial(setting_options, without=_WITHOUT)
def search(
    words: tuple[str, ...],
    limit: int,
    as_json: bool,
    options: tuple[str, ...],
    config_file: str | None,
    **flags: Any,
) -> None:
    """Show the runs that WORDS choose, without a mount.

    A word is looked for in names and descriptions, as the service does it. All of these terms must hold: status:failed,
    project:2387, tag:team=vision, 'param:lr>0.001' (also =, >=, <, <=), owner:UUID, parent:70158, parent:none. The runs
    that were updated last come first. In a mount, /search/WORDS/ is a directory of the same runs.
    """
    import msgspec

    from artifactfs.cli import render
    from artifactfs.run_search import filter_of, run

    wanted = filter_of(words)
    output.warn_of_notices()
    loaded = settings.load(flags, options=",".join(options), config_file=config_file)
    settings.drop_keys()
    for notice in loaded.warnings:
        output.warn(str(notice))
    found = run(wanted, limit, loaded)
    if as_json:
        output.data([msgspec.to_builtins(each.run) | {"project_name": each.project_name} for each in found])
    elif found:
        output.table(render.found_rows(found))
    else:
        output.hint("no run matches")
