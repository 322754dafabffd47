"""`artifactfs doctor`: prints the findings of the doctor."""

from functools import partial
from typing import TYPE_CHECKING

import click

from artifactfs import __version__
from artifactfs.cli import output
from artifactfs.cli.completion import DIRECTORY, FILE
from artifactfs.cli.help_layout import command
from artifactfs.cli.options import setting_options
from artifactfs.errors import ExitCode, UserError
from artifactfs.util.escaping import shell_word
from artifactfs.util.humanize import format_size

if TYPE_CHECKING:
    from artifactfs.doctor import Finding, Request
    from artifactfs.doctor.findings import Tell
    from artifactfs.settings import Arguments

# The mark, its substitute in ASCII, and its color.
_MARKS = {
    "good": ("✓", "ok", "green"),
    "warning": ("!", "!!", "yellow"),
    "fault": ("✗", "XX", "red"),
    "skipped": ("-", "--", "bright_black"),
}


@command()
@click.argument("mountpoint", required=False, type=DIRECTORY)
# The mounts' --offline makes way for the doctor's own, below.
@partial(setting_options, without=frozenset({"offline"}))
@click.option("--run", "run_id", type=click.IntRange(1, 2**63 - 1), metavar="ID", help="Run to test the service with.")
@click.option("--no-index", is_flag=True, help="Do not request a project's listing, which may be long.")
@click.option("--offline", is_flag=True, help="Check this machine only: no request.")
@click.option(
    "--bundle", type=FILE, metavar="FILE", help="Write what a report needs into a new file, with nothing private in it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(
    mountpoint: str | None,
    given: "Arguments",
    run_id: int | None,
    no_index: bool,
    offline: bool,
    bundle: str | None,
    as_json: bool,
) -> None:
    """Check whether a mount would work here (at MOUNTPOINT), and print the fix of each problem.

    Takes the options of `mount`, and changes nothing. It sends about five requests: the runs last updated (keys, site,
    clock, rate limit); a run's root, and up to four more where it is empty; a directory of it, in two forms at most;
    some bytes of a file; the project's listing. Failures that may pass are retried, as in a mount.

    --bundle sends some fifteen more, about what the API's documentation leaves open, and describes the form of the
    answers. FILE is text, for you to read before you send it: names, ids, paths, hosts and keys in it are replaced.

    Exit code 0: a mount works, possibly with warnings; 23: something is wrong.
    """
    import logging

    if offline and (run_id is not None or no_index):
        raise click.UsageError("--offline sends no request: leave out --run and --no-index")
    # The findings replace the log.
    logging.getLogger().addHandler(logging.NullHandler())
    from artifactfs.doctor import Finding, Mark, Request, examine

    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            _print(finding)

    request = Request(given, mountpoint, offline=offline, index=not no_index, run_id=run_id)
    requests = examine(request, tell) if bundle is None else _bundled(bundle, request, tell, findings)
    faults = [finding for finding in findings if finding.mark is Mark.FAULT]
    if as_json:
        import msgspec

        checks = msgspec.to_builtins(findings)
        output.data({"artifactfs": __version__, "healthy": not faults, "checks": checks, "requests": requests})
    if faults:
        names = ", ".join(dict.fromkeys(finding.check for finding in faults))
        raise UserError(ExitCode.UNHEALTHY, f"something is wrong: {names}")
    if not as_json:
        warnings = sum(finding.mark is Mark.WARNING for finding in findings)
        said = {0: "", 1: ", with a warning"}.get(warnings, f", with {warnings} warnings")
        output.say(f"A mount works here{said}{', as far as this machine goes' if offline else ''}.")


def _bundled(file: str, request: "Request", tell: "Tell", findings: list["Finding"]) -> dict[str, int]:
    """Run the checks, and write the bundle; returns the number of requests by kind."""
    import dataclasses

    from artifactfs.doctor import examine
    from artifactfs.doctor.bundle import Bundle

    with Bundle(file, request.given, request.mountpoint) as bundle:
        requests = examine(dataclasses.replace(request, more=bundle.ask), tell)
        size = format_size(bundle.write(findings, requests))
    output.hint(
        f"{file} ({size}) holds versions, these findings, settings, the state of your mounts, the end of their logs,",
        "and the form of the service's answers. Names, ids, paths, hosts and keys are replaced.",
        f"Read it (less {shell_word(file)}), then attach it to your report, or send it as SECURITY.md says.",
    )
    return requests


def _print(finding: "Finding") -> None:
    """Print a finding with its mark, and its fix below it."""
    has_signs = output.can_show("✓✗→…")

    def fit(text: str) -> str:
        return text if has_signs else text.replace("…", "...")

    sign, ascii_sign, color = _MARKS[finding.mark.value]
    output.say_marked(sign if has_signs else ascii_sign, color, fit(f"{finding.check}: {finding.fact}"))
    if finding.fix is not None:
        output.say(f"{'  →' if has_signs else '   ->'} {fit(finding.fix)}")
