"""`artifactfs desktop`: file types, a launcher and an icon for this user's desktop."""

import sys
from typing import TYPE_CHECKING

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.cli.completion import DIRECTORY
from artifactfs.cli.help_layout import group
from artifactfs.cli.options import program
from artifactfs.errors import UserError
from artifactfs.mount import mount_table

if TYPE_CHECKING:
    from artifactfs.desktop.install import Installation

_MOUNTPOINT = "~/model-lab"


@group()
def desktop() -> None:
    """Integrate Model Lab into this user's desktop: file types, a launcher, an icon."""


@desktop.command("install")
@click.option(
    "--bin", "with_bin", is_flag=True, help="Also make every *.bin file of yours, wherever it is, binary data."
)
@click.option(
    "--no-previews",
    is_flag=True,
    help="Also turn off previews, and counts of items, in your file managers: for all directories.",
)
@click.option(
    "--mountpoint",
    metavar="DIR",
    type=DIRECTORY,
    default=_MOUNTPOINT,
    show_default=True,
    help="Where the launcher mounts.",
)
def install(with_bin: bool, no_previews: bool, mountpoint: str) -> None:
    """Install or update for this user.

    File managers then recognize safetensors, PyTorch, Parquet and similar files by their names; otherwise they read
    every file of a directory. For previews, and for the number of items in a directory, they read and list what is not
    opened; --no-previews turns that off. Without --bin or --no-previews an earlier one is undone; `uninstall` undoes
    all.
    """
    from artifactfs.desktop.desktop_files import Choice
    from artifactfs.mount import checks

    place = _absolute(mountpoint) if mountpoint else ""
    # The launcher would fail at each click.
    checks.resolve(place)
    choice = Choice(place, program(), with_bin, previews=not no_previews)
    for path in _installation().install(choice):
        output.say(f"installed {path}")
    output.say(f"the launcher “Model Lab” mounts {choice.mountpoint} and opens it; keys: see `artifactfs mount --help`")
    if with_bin:
        output.say("every *.bin file of yours is “Binary data” now, wherever it is; `install` without --bin undoes it")
    if no_previews:
        output.say("no previews and counts in your file managers now; `install` without --no-previews undoes it")
    output.say("restart file managers that are open")


@desktop.command("uninstall")
def uninstall() -> None:
    """Remove the files of `install`, and no others."""
    removed = _installation().uninstall()
    for path in removed:
        output.say(f"removed {path}")
    if not removed:
        output.say("nothing is installed")


@desktop.command("status")
def status() -> None:
    """Show what is installed, and where."""
    installation = _installation()
    for part in installation.status(program(), _absolute(_MOUNTPOINT)):
        output.say(f"{part.name:<10}  {part.state}" + (f"  {part.path}" if part.state != "not installed" else ""))
    if (mountpoint := installation.mountpoint()) is not None:
        output.say(f"the launcher opens {mountpoint}")
    if programs := installation.without_previews():
        output.say(f"no previews in {', '.join(programs)}")


@desktop.command("open")
@click.argument("mountpoint", metavar="[DIR]", type=DIRECTORY, default=_MOUNTPOINT)
def open_(mountpoint: str) -> None:
    """Mount at DIR (~/model-lab) unless it is mounted, and show it in the file manager, as the launcher does."""
    from artifactfs.desktop import opening

    try:
        opening.show(_absolute(mountpoint), program())
    except UserError as error:
        if not sys.stderr.isatty():
            opening.tell(str(error))
        raise


def _installation() -> "Installation":
    from artifactfs.desktop.install import Installation

    return Installation(settings.data_home(), settings.own_config_home())


def _absolute(path: str) -> str:
    return mount_table.resolve(settings.expanded(path))
