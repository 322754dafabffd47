"""`artifactfs doctor`: prints what the doctor finds."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from artifactfs import __version__
from artifactfs.cli import output
from artifactfs.cli.options import setting_options
from artifactfs.errors import ExitCode, UserError

if TYPE_CHECKING:
    from artifactfs.doctor import Request

# Mark, and what it is where the terminal cannot show it; and the colour.
_MARKS = {
    "good": ("✓", "ok", "green"),
    "warning": ("!", "!!", "yellow"),
    "fault": ("✗", "XX", "bold red"),
    "skipped": ("-", "--", "dim"),
}


@click.command()
@click.argument("mountpoint", required=False)
@setting_options
@click.option("--run", "run_id", type=click.IntRange(1, 2**63 - 1), metavar="ID", help="Run to try the service on.")
@click.option("--no-index", is_flag=True, help="Do not ask for a project's listing, which may be long.")
@click.option("--offline", is_flag=True, help="Look at this machine only: no request at all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(
    mountpoint: str | None,
    options: tuple[str, ...],
    config_file: str | None,
    run_id: int | None,
    no_index: bool,
    offline: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Say whether a mount would work here (at MOUNTPOINT), and how to fix what is wrong.

    Takes the options of `mount`, and changes nothing. It sends about five requests: the runs last updated (keys, site,
    clock, rate limit); a run's root, and up to four more where it is empty; a directory of it, in two forms at most;
    some bytes of a file; the project's listing. More only where an answer fails in passing, as a mount would.

    Exit code 0: a mount works, if perhaps with warnings; 23: something is wrong.
    """
    # What it logs, it finds.
    logging.getLogger().addHandler(logging.NullHandler())
    from artifactfs.doctor import Request
    from artifactfs.doctor.settings_checks import SettingsArguments

    given = SettingsArguments(flags, ",".join(options), config_file)
    request = Request(given, mountpoint, offline=offline, index=not no_index, run_id=run_id)
    _visit(request, as_json=as_json)


def _visit(request: "Request", *, as_json: bool) -> None:
    from artifactfs import doctor as visit

    findings: list[visit.Finding] = []
    show = _printer()

    def tell(finding: visit.Finding) -> None:
        findings.append(finding)
        if not as_json:
            show(finding.mark.value, f"{finding.check}: {finding.fact}", finding.fix)

    requests = visit.examine(request, tell)
    faults = [finding for finding in findings if finding.mark is visit.Mark.FAULT]
    if as_json:
        import msgspec

        output.data(msgspec.to_builtins(visit.Report(__version__, not faults, findings, requests)))
    if faults:
        names = ", ".join(dict.fromkeys(finding.check for finding in faults))
        raise UserError(ExitCode.UNHEALTHY, f"something is wrong: {names}")
    if not as_json:
        warnings = sum(finding.mark is visit.Mark.WARNING for finding in findings)
        said = {0: "", 1: ", with a warning"}.get(warnings, f", with {warnings} warnings")
        output.say(f"A mount works here{said}{', as far as this machine goes' if request.offline else ''}.")


def _printer() -> Callable[[str, str, str | None], None]:
    """Return a function that prints a finding with its mark, and its fix below it."""
    from rich.text import Text

    console = output.console()
    plain = not output.can_show("✓✗→…")

    def fit(text: str) -> str:
        return output.shown(text.replace("…", "...") if plain else text)

    def show(mark: str, text: str, fix: str | None) -> None:
        sign, ascii_sign, colour = _MARKS[mark]
        line = Text(f"{ascii_sign if plain else sign} ", style=colour).append(fit(text), style="none")
        if fix is not None:
            line.append(f"\n{'   ->' if plain else '  →'} {fit(fix)}", style="none")
        console.print(line, soft_wrap=True)

    return show
