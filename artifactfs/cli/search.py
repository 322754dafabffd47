"""`artifactfs search`: the runs that words choose, as a table or as JSON."""

import click

from artifactfs.cli import output
from artifactfs.cli.completion import Offered
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import load_for_service, service_options
from artifactfs.settings import Arguments


def _terms(_context: click.Context, _incomplete: str) -> list[str]:
    from artifactfs.tree.search_terms import COMPLETIONS

    return COMPLETIONS


@command()
@click.argument("words", metavar="WORDS…", nargs=-1, required=True, type=Offered(_terms))
@click.option("--limit", "-n", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Runs at most.")
@click.option("--json", "as_json", is_flag=True, help="Print all that the service says of each run, as JSON.")
@service_options
def search(words: tuple[str, ...], limit: int, as_json: bool, given: Arguments) -> None:
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
    found = run(wanted, limit, load_for_service(given))
    if as_json:
        output.data([msgspec.to_builtins(each.run) | {"project_name": each.project_name} for each in found])
    elif found:
        output.table(render.found_rows(found))
    else:
        output.hint("no run matches")
