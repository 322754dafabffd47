"""`artifactfs config`: the settings of a mount, and their sources."""

from typing import TYPE_CHECKING

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.help_layout import group
from artifactfs.cli.options import config_file_option, setting_options

if TYPE_CHECKING:
    from artifactfs.settings import Arguments, Explanation, Shown


@group()
def config() -> None:
    """Show the settings and their sources."""


@config.command("show")
@setting_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def config_show(given: "Arguments", as_json: bool) -> None:
    """Show every setting, its value, and its source. Takes the options of `mount`.

    No command is run and no key is shown. An invalid value is marked, and the exit code is that of `mount`.
    """
    found = settings.explain(**given)
    if as_json:
        output.data(_for_programs(found))
    else:
        output.say(*_as_text(found))
    for warning in found.warnings:
        output.warn(str(warning))
    if found.problem is not None:
        raise found.problem


@config.command("path")
@config_file_option
def config_path(config_file: str | None) -> None:
    """Print the path of the config file, which need not exist: for `$EDITOR "$(artifactfs config path)"`."""
    output.exact(settings.find_config_file(config_file))


def _as_text(found: "Explanation") -> list[str]:
    there = "" if found.config_exists else "  (there is none)"
    lines = [f"config file  {found.config_file}{there}"]
    if found.profiles:
        lines.append(f"profiles     {', '.join(found.profiles)}")
    if found.profile is not None:
        lines.append(f"profile      {found.profile}  ({found.profile_source})")
    rows = [(shown.name, shown.text, _remark(shown)) for shown in found.settings]
    # A long URL or path shifts only its own line.
    widths = [max(min(len(row[column]), 36) for row in rows) for column in (0, 1)]
    lines.append("")
    lines += [f"{name:{widths[0]}}  {text:{widths[1]}}  {remark}".rstrip() for name, text, remark in rows]
    return lines


def _remark(shown: "Shown") -> str:
    if shown.problem is not None:
        return f"{shown.source}: {shown.problem}"
    return shown.source if shown.used else f"{shown.source} (not used: another key takes precedence)"


def _for_programs(found: "Explanation") -> dict[str, object]:
    return {
        "config_file": found.config_file if found.config_exists else None,
        "profile": found.profile,
        "profile_source": found.profile_source,
        "profiles": list(found.profiles),
        "settings": {
            shown.name: {"value": shown.value, "source": shown.source}
            | ({} if shown.problem is None else {"problem": shown.problem})
            | ({} if shown.used else {"used": False})
            for shown in found.settings
        },
        "warnings": list(map(str, found.warnings)),
    }
