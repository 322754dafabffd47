"""artifactfs.settings.paths: where this user's files are, in odd surroundings too (XDG Base Directory)."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import paths
from artifactfs.settings.parsers import command, path
from tests.harness import needs_root

VARIABLES = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")
PLACES: tuple[Callable[[], str], ...] = (
    paths.config_home, paths.cache_home, paths.state_dir, paths.data_home, paths.user_unit_dir,
    lambda: paths.default_log_file("/mnt"), lambda: settings.find_config_file(None, environ={}),
    lambda: settings.load({}, config_file=os.devnull, environ={}, need_keys=False).cache_dir,
)  # fmt: skip


WITH_A_TILDE: tuple[Callable[[], object], ...] = (
    paths.home, lambda: path("~/x"), lambda: command("~/x y"), lambda: settings.find_config_file("~/x"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A home, and none of the XDG variables."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this user one without an entry in the password database."""

    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def set_home(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)


@pytest.mark.parametrize("value", [None, "", "relative", "./x", "~", " "])
def test_a_home_that_is_none(value: str | None, environment: pytest.MonkeyPatch) -> None:
    """The password database is asked, as a log-in does: no directory called `~` or `.config` comes to be anywhere."""
    set_home(environment, value)
    own = pwd.getpwuid(os.getuid()).pw_dir
    assert paths.home() == own
    assert path("~/x") == f"{own}/x"
    assert path("~") == own
    assert command("~/x y") == (f"{own}/x", "y")
    for place in PLACES:
        assert place().startswith(f"{own}/")


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("value", [None, "", "relative"])
def test_no_home_at_all(value: str | None, environment: pytest.MonkeyPatch) -> None:
    """A sentence says what to set, whichever place is asked for; what needs no home works."""
    set_home(environment, value)
    for nowhere in (*PLACES, *WITH_A_TILDE):
        with pytest.raises(
            UserError, match=r"^there is no home directory: .* set HOME to a directory of your own"
        ) as caught:
            nowhere()
        assert caught.value.code is ExitCode.USAGE
        assert len(str(caught.value).splitlines()) == 1
    assert path("/x/~") == "/x/~"
    for name in VARIABLES:
        environment.setenv(name, "/some/where")
    for place in PLACES:
        assert place().startswith("/some/where")


@pytest.mark.parametrize("value", ["", "relative", "./x", "../x", "~/x", " /x", "\n"])
def test_a_relative_variable_is_ignored(value: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The specification says so; it would be another place in each directory."""
    for name in VARIABLES:
        environment.setenv(name, value)
    for place in PLACES:
        assert place().startswith(f"{tmp_path}/.")


def test_a_tilde_of_another_user() -> None:
    """`~root` is root's home; of a user that there is not, it is a name like any."""
    assert path("~root/x") == f"{pwd.getpwnam('root').pw_dir}/x"
    assert path("~no-such-user/x") == f"{os.getcwd()}/~no-such-user/x"


@needs_root
@pytest.mark.parametrize("place", [paths.data_home, paths.user_unit_dir, lambda: paths.default_log_file("/mnt")])
def test_another_users_home(place: Callable[[], str], environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """6.2: root writes nothing there, where a symbolic link would lead it elsewhere."""
    home = tmp_path / "theirs"
    home.mkdir()
    environment.setenv("HOME", str(home))
    assert place().startswith(str(home))
    os.chown(home, 12347, 12347)
    with pytest.raises(
        UserError, match=r"can be changed by another user \(uid 12347\); run `sudo -H artifactfs …`"
    ) as caught:
        place()
    assert caught.value.code is ExitCode.NOT_WRITABLE
