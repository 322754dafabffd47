"""artifactfs.settings.config_edit: settings written into a config file, whose other contents stay (6.2)."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import config_edit
from tests.harness import needs_root

CHANGES: dict[str, str | None] = {"site": "datadoghq.eu", "api_url": None, "api_key": 'a"\\k'}


@pytest.mark.parametrize(
    ("before", "profile", "after"),
    [
        ("", None, "site = S\napi_key = K\n"),
        ("", "eu", "[profiles.eu]\nsite = S\napi_key = K\n"),
        ("", "e u", '[profiles."e u"]\nsite = S\napi_key = K\n'),
        (
            "# mine\nsite = 'x.y' # old\nwait = true # why\n\n# us\n[profiles.us]\nsite = 'u.v'\n", None,
            "# mine\nwait = true # why\nsite = S\napi_key = K\n\n# us\n[profiles.us]\nsite = 'u.v'\n",
        ),
        (
            "wait = true\r\n[profiles.us]\nlisting_ttl = 5\n\n[profiles.eu]\napi_url = '''\nhttps://x\n'''\n", "us",
            "wait = true\n[profiles.us]\nlisting_ttl = 5\nsite = S\napi_key = K\n\n[profiles.eu]\n"
            "api_url = '''\nhttps://x\n'''\n",
        ),
        (
            "[ profiles . 'us' ]\napi_url = '''\nhttps://x\n[profiles.us]\n'''\napi_key =   'old'", "us",
            "[ profiles . 'us' ]\nsite = S\napi_key = K\n",
        ),
        ("listing_ttl = 5", "eu", "listing_ttl = 5\n\n[profiles.eu]\nsite = S\napi_key = K\n"),
        # Its profiles are written in a way that lines cannot be added to.
        ("profiles = {eu = {wait = true}}\n", "eu", None),
        ("profiles.eu.wait = true\n", "eu", None),
    ],
)  # fmt: skip
def test_what_changes_and_what_stays(before: str, profile: str | None, after: str | None) -> None:
    """Comments, order and other tables stay; a setting of several lines is replaced whole."""
    expected = None if after is None else after.replace("S\n", '"datadoghq.eu"\n').replace("K\n", '"a\\"\\\\k"\n')
    assert config_edit.edited(before, profile, CHANGES) == expected


# No basic string holds the last one unescaped.
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\x7f"), min_size=1)


@given(st.dictionaries(names, st.dictionaries(st.sampled_from(["site", "account"]), names)), names, names)
def test_whatever_the_names_hold(profiles: dict[str, dict[str, str]], profile: str, key: str) -> None:
    """The result reads back as asked, with the other profiles as they were; or nothing is changed."""
    text = "".join(
        f"[profiles.{config_edit._string(name)}]\n"
        + "".join(f"{setting} = {config_edit._string(value)}\n" for setting, value in table.items())
        for name, table in profiles.items()
    )
    new = config_edit.edited(text, profile, {"api_key": key, "site": None})
    assert new is not None
    mine = {name: value for name, value in profiles.get(profile, {}).items() if name != "site"}
    assert tomllib.loads(new) == {"profiles": {**profiles, profile: {**mine, "api_key": key}}}


def test_it_is_private_and_whole(tmp_path: Path) -> None:
    """6.2: 0600 whatever the mode and the umask were; a missing directory is made, 0700; nothing else is left there."""
    path = tmp_path / "made" / "config.toml"
    before = os.umask(0)
    try:
        assert config_edit.write_config(str(path), None, CHANGES) == str(path)
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        path.chmod(0o644)
        config_edit.write_config(str(path), "p", CHANGES)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["config.toml"]
    assert tomllib.loads(path.read_text())["profiles"]["p"] == {"site": "datadoghq.eu", "api_key": 'a"\\k'}


def test_a_link_of_ones_own_stays(tmp_path: Path) -> None:
    """A file that is kept elsewhere, with others of its kind, is replaced there."""
    (tmp_path / "dotfiles").mkdir()
    real, path = tmp_path / "dotfiles" / "lab.toml", tmp_path / "config.toml"
    real.write_text("wait = true\n")
    path.symlink_to("dotfiles/lab.toml")
    assert config_edit.write_config(str(path), None, CHANGES) == str(real)
    assert path.is_symlink()
    assert (real.stat().st_mode & 0o777, tomllib.loads(real.read_text())["wait"]) == (0o600, True)


@needs_root
@pytest.mark.parametrize("where", ["link", "directory"])
def test_a_place_of_another_user_gets_no_key(where: str, tmp_path: Path) -> None:
    """6.2: neither through a link of another user, nor in a directory that another user can replace."""
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs" / "config.toml"
    if where == "link":
        (tmp_path / "real.toml").write_text("")
        path.symlink_to(tmp_path / "real.toml")
        os.chown(path, 12345, 12345, follow_symlinks=False)
    else:
        os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(UserError, match="another user") as caught:
        config_edit.write_config(str(path), None, CHANGES)
    assert caught.value.code is ExitCode.NOT_WRITABLE
    assert [file for file in tmp_path.rglob("*") if file.is_file() and "datadoghq" in file.read_text()] == []


def test_a_place_of_all_users_gets_no_key(tmp_path: Path) -> None:
    """Others could put a file of theirs there; not where only the owner of a file can (`/tmp`)."""
    path = tmp_path / "shared" / "mine" / "config.toml"
    path.parent.mkdir(parents=True)
    path.parent.parent.chmod(0o777)
    with pytest.raises(
        UserError, match=f"can be changed by all users, who can write to {path.parent.parent}"
    ) as caught:
        config_edit.write_config(str(path), None, CHANGES)
    assert caught.value.code is ExitCode.NOT_WRITABLE
    assert not path.exists()
    path.parent.parent.chmod(0o1777)
    config_edit.write_config(str(path), None, CHANGES)
    assert path.exists()


def _state(path: Path) -> tuple[int, ...]:
    """Return what tells a file that was touched; not its time of access, which reading a link moves."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("kind", ["pipe", "directory", "dangling"])
def test_what_is_no_file_is_left_as_it_is(kind: str, tmp_path: Path) -> None:
    """Neither a pipe nor /dev/null, say, is replaced by a file of keys."""
    path = tmp_path / "config.toml"
    {"pipe": os.mkfifo, "directory": os.mkdir, "dangling": lambda link: os.symlink("none", link)}[kind](path)
    before = _state(path)
    with pytest.raises(UserError) as caught:
        config_edit.write_config(str(path), None, CHANGES)
    assert caught.value.code is ExitCode.NOT_WRITABLE
    assert _state(path) == before
    assert os.listdir(tmp_path) == ["config.toml"]
