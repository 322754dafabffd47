"""`artifactfs desktop`: file types, a launcher and an icon for this user's desktop."""

import os
import sys

import click

from artifactfs import settings
from artifactfs.cli import output
from artifactfs.desktop import install as installing
from artifactfs.desktop import opening
from artifactfs.desktop.desktop_files import Choice
from artifactfs.errors import UserError
from artifactfs.mount import mount_table

_MOUNTPOINT = "~/model-lab"


@click.group()
def desktop() -> None:
    """Fit this user's desktop to Model Lab: file types, a launcher, an icon."""


@desktop.command("install")
@click.option(
    "--bin",
    "with_bin",
    is_flag=True,
    help="Also name *.bin: as binary data, for every such file of yours, wherever it is.",
)
@click.option("--mountpoint", metavar="DIR", help=f"Where the launcher mounts.  [{_MOUNTPOINT}]")
def install(with_bin: bool, mountpoint: str | None) -> None:
    """Install for this user, or bring up to date.

    File managers then know safetensors, PyTorch, Parquet files and their like by the name; else they read every file of
    a directory to say what it is. Without --bin an earlier --bin is taken back. `uninstall` removes it all.
    """
    data_home = settings.data_home()
    choice = Choice(_absolute(mountpoint or _MOUNTPOINT), _program(), with_bin)
    for path in installing.install(data_home, choice):
        output.say(f"installed {path}")
    output.say(f"the launcher “Model Lab” mounts {choice.mountpoint} and opens it; keys: see `artifactfs mount --help`")
    if with_bin:
        output.say("every *.bin file of yours is “Binary data” now, wherever it is; `install` without --bin undoes it")
    output.say("file managers that are open may have to be started again")


@desktop.command("uninstall")
def uninstall() -> None:
    """Remove what `install` installed, and nothing else."""
    removed = installing.uninstall(settings.data_home())
    for path in removed:
        output.say(f"removed {path}")
    if not removed:
        output.say("nothing is installed")


@desktop.command("status")
def status() -> None:
    """Say what is installed, and where."""
    data_home = settings.data_home()
    mountpoint = installing.launcher_mountpoint(data_home)
    choice = Choice(mountpoint or _absolute(_MOUNTPOINT), _program(), installing.has_bin(data_home))
    for part in installing.status(data_home, choice):
        output.say(f"{part.name:<10}  {part.state}" + (f"  {part.path}" if part.state != "not installed" else ""))
    if mountpoint is not None:
        output.say(f"the launcher opens {mountpoint}")


@desktop.command("open")
@click.argument("mountpoint", metavar="[DIR]", default=_MOUNTPOINT)
def open_(mountpoint: str) -> None:
    """Mount at DIR (~/model-lab) unless that is done, and show it in the file manager: what the launcher runs."""
    try:
        opening.show(_absolute(mountpoint), _program())
    except UserError as error:
        if not sys.stderr.isatty():
            opening.tell(str(error))
        raise


def _absolute(path: str) -> str:
    return mount_table.resolve(settings.expanded(path))


def _program() -> tuple[str, ...]:
    """Return the words that run artifactfs: the script beside this Python, which need not be on PATH."""
    script = os.path.join(os.path.dirname(sys.executable), "artifactfs")
    return (script,) if os.access(script, os.X_OK) else (sys.executable, "-m", "artifactfs")
