"""The setting `offline`: how it is given, and that an offline mount needs no key (docs/semantics.md 8.3)."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from artifactfs import settings
from artifactfs.cli.options import setting_option
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import BY_NAME, Secret, Settings


def load(path: Path, text: str, *, options: str = "", may_be_offline: bool = True) -> Settings:
    """Return the settings of a config file of this text, and of `-o` options."""
    file = path / "config.toml"
    file.write_text(text)
    file.chmod(0o600)
    return settings.load(
        {}, options=options, config_file=str(file), environ={"PATH": "/usr/bin:/bin"}, may_be_offline=may_be_offline
    )


def test_offline_takes_no_value_on_the_command_line() -> None:
    """`--offline` leaves the mount point alone, and means always."""
    taken: list[object] = []

    @setting_option(BY_NAME["offline"])
    def mount(**flags: object) -> None:
        taken.append(flags)

    command = click.command()(click.argument("mountpoint")(mount))
    assert CliRunner().invoke(command, ["--offline", "auto"]).exit_code == 0
    assert CliRunner().invoke(command, ["there"]).exit_code == 0
    assert taken == [{"mountpoint": "auto", "offline": "always"}, {"mountpoint": "there", "offline": None}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [("offline", "always"), ("offline=auto", "auto"), ("offline=never", "never"), ("ro", "auto")],
)
def test_offline_among_mount_options(tmp_path: Path, options: str, expected: str) -> None:
    """-o and fstab give it alone, or with a value; the config file has words."""
    text = 'offline = "auto"\napi_key = "a"\napp_key = "b"'
    assert load(tmp_path, text, options=options).offline == expected


def test_no_key_is_needed_and_no_command_run(tmp_path: Path) -> None:
    """The keys that are at hand only tell the account; one that cannot be read is a warning."""
    marker = tmp_path / "was-run"
    text = f'offline = "always"\napi_key_command = "touch {marker}"\n'
    found = load(tmp_path, text)
    assert (found.api_key, found.app_key, found.warnings) == (None, None, ())
    found = load(tmp_path, f'{text}app_key_file = "/nonexistent/key"')
    assert (found.app_key, len(found.warnings)) == (None, 1)
    assert "cannot read the key from /nonexistent/key" in str(found.warnings[0])
    found = load(tmp_path, f'{text}app_key = "mine"')
    assert (found.app_key, found.warnings) == (Secret("mine"), ())
    assert not list(found.keys.origins())
    assert not marker.exists()


@pytest.mark.parametrize(("word", "may_be_offline"), [("always", False), ("auto", True), ("never", True)])
def test_keys_are_needed_to_ask(tmp_path: Path, word: str, may_be_offline: bool) -> None:
    """A mount that may ask the service later needs keys; so does a command that asks now, whatever mounts do."""
    with pytest.raises(UserError) as caught:
        load(tmp_path, f'offline = "{word}"', may_be_offline=may_be_offline)
    assert caught.value.code is ExitCode.KEYS_MISSING
