"""artifactfs.settings.explain: what `config show` says of each setting."""

import json
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import SETTINGS, Explanation, Shown
from artifactfs.settings.schema import KEY_FORMS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no real configuration has a say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def explain(
    flags: dict[str, str | bool | None] | None = None,
    *,
    options: str = "",
    environ: dict[str, str] | None = None,
    file: str | None = None,
) -> Explanation:
    return settings.explain(flags or {}, options=options, config_file=file, environ=environ or {})


def exit_code(found: Explanation) -> ExitCode:
    """Return the exit code of `config show`."""
    return found.problem.code if found.problem is not None else ExitCode.OK


def by_name(found: Explanation) -> dict[str, Shown]:
    return {shown.name: shown for shown in found.settings}


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "a.toml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_every_setting_is_shown(home: Path) -> None:
    """All rows of the table, in its order, with what they are by default."""
    found = explain()
    assert [shown.name for shown in found.settings] == [row.name for row in SETTINGS]
    assert not found.config_exists
    assert found.config_file == str(home / ".config" / "artifactfs" / "config.toml")
    assert (exit_code(found), found.problem, found.profile, found.profiles) == (ExitCode.OK, None, None, ())
    rows = by_name(found)
    assert (rows["cache_size"].value, rows["cache_size"].text) == (10 << 30, "10 GiB")
    assert (rows["listing_ttl"].value, rows["listing_ttl"].text) == (60.0, "60s")
    assert (rows["umask"].value, rows["umask"].text) == ("000", "000")
    assert (rows["allow_other"].value, rows["allow_other"].text) == (False, "false")
    assert (rows["proxy"].value, rows["proxy"].text) == (None, "-")
    assert (rows["api_url"].value, rows["api_url"].source) == ("https://api.datadoghq.com", "the site")
    assert rows["cache_dir"].value == str(home / ".cache" / "artifactfs")
    assert {rows[name].source for name in ("cache_size", "listing_ttl", "site", "api_key")} == {"default"}


def test_where_each_comes_from(tmp_path: Path) -> None:
    """Option, `-o`, variable, profile, file, credential, default: each by its own name."""
    file = config(tmp_path, 'finished_ttl = "90m"\n[profiles.eu]\nsite = "datadoghq.eu"\n[profiles.us]\n')
    (tmp_path / "api_key").write_text("k")
    environ = {"ARTIFACTFS_STALE_MAX": "2h", "DD_APP_KEY": "s3cr3t", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    found = explain({"deadline": "5", "profile": "eu"}, options="umask=027", environ=environ, file=file)
    rows = by_name(found)
    assert {name: rows[name].source for name in (
        "deadline", "umask", "stale_max", "app_key", "api_key_file", "site", "api_url", "finished_ttl", "negative_ttl",
    )} == {
        "deadline": "--deadline", "umask": "-o umask", "stale_max": "ARTIFACTFS_STALE_MAX", "app_key": "DD_APP_KEY",
        "api_key_file": "systemd credential api_key", "site": f"[profiles.eu] in {file}", "api_url": "the site",
        "finished_ttl": file, "negative_ttl": "default",
    }  # fmt: skip
    assert rows["api_url"].value == "https://api.datadoghq.eu"
    assert (rows["finished_ttl"].text, rows["umask"].text) == ("1h30m", "027")
    assert (found.profile, found.profile_source, found.profiles) == ("eu", "--profile", ("eu", "us"))
    assert (found.config_file, found.config_exists) == (file, True)


def test_secrets_are_only_set(tmp_path: Path) -> None:
    """6.1: no key, no command (it may hold one) and no proxy's password is shown; and no command is run."""
    marker = tmp_path / "was-run"
    environ = {"DD_API_KEY": "s3cr3t", "DD_ACCESS_TOKEN": "s3cr3t", "PATH": "/usr/bin:/bin"}
    flags: dict[str, str | bool | None] = {
        "proxy": "http://u:s3cr3t@h:1",
        "app_key_command": f"sh -c 'touch {marker}; echo s3cr3t'",
    }
    found = explain(flags, environ=environ)
    assert "s3cr3t" not in repr(found)
    rows = by_name(found)
    assert {name for name, row in rows.items() if row.value == "set"} == {"api_key", "access_token", "app_key_command"}
    assert rows["proxy"].value == "http://***@h:1"
    assert not marker.exists()
    assert exit_code(found) is ExitCode.OK


def test_which_keys_are_used() -> None:
    """What is set and not asked with is marked, so that its effect is clear."""
    environ = {"DD_API_KEY": "x", "DD_APP_KEY": "x", "DD_ACCESS_TOKEN": "x"}
    rows = by_name(explain(environ=environ))
    assert {name for name in KEY_FORMS if not rows[name].used} == {"api_key", "app_key"}
    rows = by_name(explain({"api_key_file": "/dev/null/x"}, environ=environ))
    assert {name for name in KEY_FORMS if not rows[name].used} == {"access_token", "api_key"}


@pytest.mark.parametrize(
    ("text", "name", "code", "words"),
    [
        ("deadline = 'soon'", "deadline", ExitCode.BAD_CONFIG, "'soon' is not a time"),
        ("api_key_file = '/none'\napp_key = 'x'", "api_key_file", ExitCode.KEYS_MISSING, "cannot read the key"),
        ("api_key_command = 'none-such'\napp_key = 'x'", "api_key_command", ExitCode.KEYS_MISSING, "was not found"),
        ("api_key = 'a b'\napp_key = 'x'", "api_key", ExitCode.KEYS_MISSING, "spaces or characters"),
        ("api_key_command = '\"'\napp_key = 'x'", "api_key_command", ExitCode.BAD_CONFIG, "not a command"),
    ],
)
def test_a_broken_value_is_one_of_the_answers(tmp_path: Path, text: str, name: str, code: ExitCode, words: str) -> None:
    """The rest is shown all the same; the code is what `mount` would exit with."""
    file = config(tmp_path, text)
    found = explain({"umask": "022"}, file=file, environ={"PATH": "/usr/bin"})
    rows = by_name(found)
    assert words in str(rows[name].problem)
    assert rows[name].text == "?"
    assert [row.name for row in found.settings if row.problem is not None] == [name]
    assert exit_code(found) is code
    assert str(found.problem).startswith(f"{name} in {file}: ")
    assert rows["umask"].text == "022"


def test_a_bad_option(tmp_path: Path) -> None:
    """One of the command line is USAGE; the first in the table's order is what the exit code is of."""
    file = config(tmp_path, "runs_listed = -1")
    found = explain({"deadline": "0"}, file=file)
    assert exit_code(found) is ExitCode.USAGE
    assert [row.name for row in found.settings if row.problem is not None] == ["deadline", "runs_listed"]
    assert str(found.problem).startswith("--deadline: ")


def test_a_pipe_is_left_to_the_mount(tmp_path: Path) -> None:
    """A key that can be read only once is not read to be shown."""
    import os

    os.mkfifo(tmp_path / "pipe")
    found = explain({"api_key_file": str(tmp_path / "pipe")}, environ={"DD_APP_KEY": "x"})
    assert exit_code(found) is ExitCode.OK


# Names in which a sentence about a path seems to end, or to begin.
ODD_NAMES = ["a: b", "a; b", "a: b; c: d", "a\nb: c", 'it\'s "a": b', "run `x`; y", "-o x: y"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("key", [row.name for row in SETTINGS if row.name.endswith("key_file")])
@pytest.mark.parametrize("place", ["config file", "variable", "flag"])
def test_a_problem_of_a_path_with_an_odd_name(tmp_path: Path, name: str, key: str, place: str) -> None:
    """5.3: a path may have any name; the problem is shown, and the exit code is that of `mount`."""
    (tmp_path / name).mkdir()
    path = str(tmp_path / name / "no such: key; run `x`")
    other = "app_key" if key == "api_key_file" else "api_key"
    text = json.dumps(path) if place == "config file" else None
    file = config(tmp_path / name, f"{other} = 'k'\n" + (f"{key} = {text}\n" if text else ""))
    found = explain(
        {key: path} if place == "flag" else {},
        environ={f"ARTIFACTFS_{key.upper()}": path} if place == "variable" else {},
        file=file,
    )
    assert exit_code(found) is ExitCode.KEYS_MISSING
    assert [row.name for row in found.settings if row.problem is not None] == [key]
    assert by_name(found)[key].problem == f"cannot read the key from {path}: No such file or directory"
    with pytest.raises(UserError) as caught:
        settings.load({}, config_file=file, environ={f"ARTIFACTFS_{key.upper()}": path})
    assert caught.value.fact == by_name(found)[key].problem


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_broken_value_below_an_odd_name(tmp_path: Path, name: str) -> None:
    """5.3: the same for a value that the config file in such a directory gives."""
    (tmp_path / name).mkdir()
    found = explain(file=config(tmp_path / name, "app_key = 'a b'\napi_key = 'k'\ndeadline = 'soon: a; b'"))
    problems = {row.name: row.problem for row in found.settings if row.problem is not None}
    assert set(problems) == {"app_key", "deadline"}
    assert str(problems["app_key"]).startswith("the key holds spaces")
    assert str(problems["deadline"]).startswith("'soon: a; b' is not a time")
