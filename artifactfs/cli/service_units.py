"""`artifactfs service`: a mount that systemd starts at log-in, and restarts."""

import click

from artifactfs import settings
from artifactfs.cli import output, systemd_units
from artifactfs.cli.completion import DIRECTORY, PROFILE_NAME
from artifactfs.cli.help_layout import group
from artifactfs.cli.options import config_options, program
from artifactfs.settings import user_unit_dir
from artifactfs.util.escaping import shell_word


@group()
def service() -> None:
    """Let systemd mount at log-in: write a user unit, or delete it."""


@service.command("install")
@click.argument("mountpoint", type=DIRECTORY)
@config_options
@click.option("-n", "--dry-run", is_flag=True, help="Only print the unit.")
def service_install(mountpoint: str, profile: str | None, config_file: str | None, dry_run: bool) -> None:
    """Write a user unit that mounts at MOUNTPOINT; starts nothing.

    A profile has a unit of its own: artifactfs@PROFILE.
    """
    from artifactfs.mount import checks

    # Report a mistake in the config file or the profile now, not at the next log-in.
    loaded = settings.load({"profile": profile}, config_file=config_file, need_keys=False)
    config = loaded.config_file if config_file is not None else None
    unit = systemd_units.make(user_unit_dir(), program(), checks.future(mountpoint), profile, config)
    if dry_run:
        output.exact(unit.text.removesuffix("\n"))
        return
    replaced = systemd_units.install(unit)
    name = _typed(unit.name)
    output.say(f"wrote {unit.path}")
    if replaced is not None:
        output.say(f"it replaces the unit that mounted at {replaced}; for both, give each a --profile")
        output.say("end that mount, if it is running:")
        output.say(f"    systemctl --user stop {name}")
    output.say("start it, now and at each log-in:")
    output.say(f"    systemctl --user daemon-reload && systemctl --user enable --now {name}")
    output.say("run it from boot on, without a log-in:")
    output.say("    loginctl enable-linger")


@service.command("uninstall")
@click.option("--profile", metavar="NAME", type=PROFILE_NAME, help="Profile of the unit.")
def service_uninstall(profile: str | None) -> None:
    """Delete the unit that `install` wrote."""
    output.say(f"deleted {systemd_units.uninstall(user_unit_dir(), profile)}")
    name = _typed(systemd_units.name_of(profile))
    output.say("end it, if it is running:")
    output.say(f"    systemctl --user stop {name}; systemctl --user daemon-reload")


def _typed(name: str) -> str:
    """Return a unit's name as it is typed in a shell."""
    return shell_word(name.removesuffix(".service"))
