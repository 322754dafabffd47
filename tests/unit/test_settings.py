"""artifactfs.settings: which source wins, and what each bad value says."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import KEY_FORMS, SETTINGS, Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no real configuration has a say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def load(
    flags: dict[str, str | bool | None] | None = None, *, environ: dict[str, str] | None = None, **more: str | None
) -> Settings:
    options, config_file = more.get("options") or "", more.get("config_file")
    return settings.load(flags or {}, options=options, config_file=config_file, environ=environ or {}, need_keys=False)


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "a.toml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def refusal(**given: object) -> UserError:
    """Return what loading these raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        load(**given)  # type: ignore[arg-type]  # the tests' own arguments
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_defaults(home: Path) -> None:
    """Without anything said: US1, the documented times and sizes, the user's own cache, who mounts."""
    found = load()
    assert (found.site, found.api_url) == ("datadoghq.com", "https://api.datadoghq.com")
    assert (found.listing_ttl, found.finished_ttl, found.negative_ttl) == (60.0, 3600.0, 10.0)
    assert (found.stale_max, found.deadline, found.runs_listed) == (3600.0, 30.0, 200)
    assert (found.cache_size, found.cache_min_free) == (10 << 30, 1 << 30)
    assert (found.uid, found.gid, found.umask) == (os.geteuid(), os.getegid(), 0)
    assert found.cache_dir == str(home / ".cache" / "artifactfs")
    assert not found.allow_other
    assert found.proxy is None
    assert found.prefetch == "auto"


def test_precedence(tmp_path: Path) -> None:
    """Flag and -o before environment before config file before default."""
    file = config(tmp_path, 'listing_ttl = 4\nsite = "us3.datadoghq.com"')
    environ = {"ARTIFACTFS_LISTING_TTL": "3"}
    everything = {"environ": environ, "config_file": file}
    assert load({"listing_ttl": "1"}, options="listing_ttl=2", **everything).listing_ttl == 1  # type: ignore[arg-type]
    assert load(options="listing_ttl=2", **everything).listing_ttl == 2  # type: ignore[arg-type]
    assert load(environ=environ, config_file=file).listing_ttl == 3
    assert load(config_file=file).listing_ttl == 4
    assert load().listing_ttl == 60
    # What a higher source does not name comes from a lower one.
    assert load(environ=environ, config_file=file).site == "us3.datadoghq.com"


def test_own_variables_before_the_official_ones() -> None:
    """ARTIFACTFS_SITE beats DD_SITE; an empty variable says nothing."""
    assert load(environ={"DD_SITE": "datadoghq.eu"}).site == "datadoghq.eu"
    assert load(environ={"DD_SITE": "datadoghq.eu", "ARTIFACTFS_SITE": "us5.datadoghq.com"}).site == "us5.datadoghq.com"
    assert load(environ={"DD_SITE": "datadoghq.eu", "ARTIFACTFS_SITE": " "}).site == "datadoghq.eu"
    assert load(environ={"DD_SITE": ""}).site == "datadoghq.com"


def test_a_flag_that_was_not_given_says_nothing() -> None:
    """None and False are what the command line hands on for options that were left out."""
    environ = {"ARTIFACTFS_ALLOW_OTHER": "yes", "ARTIFACTFS_DEADLINE": "5"}
    found = load({"allow_other": False, "deadline": None}, environ=environ)
    assert found.allow_other
    assert found.deadline == 5
    assert load({"allow_other": True}).allow_other


def test_every_setting_comes_from_every_source(tmp_path: Path) -> None:
    """Flags, variables, -o and the config file come from one table: a row works in all of them."""
    samples = {
        "site": "datadoghq.eu", "api_url": "https://api.example.com", "proxy": "http://p:1", "umask": "022", "uid": "7",
        "gid": "8", "allow_other": "true", "verbose": "true", "runs_listed": "5", "prefetch": "tree", "wait": "true",
        "log_to": "journal", "log_format": "json", "xattrs": "true", "version_header": "true",
        "offline": "auto",
    }  # fmt: skip
    for row in SETTINGS:
        if row.name in KEY_FORMS:
            continue  # tests/unit/test_settings_keys.py
        text = samples.get(row.name, "/somewhere" if row.metavar in ("FILE", "DIR") else "77")
        # Alone, it is refused on a command line.
        more: dict[str, str | bool | None] = {"wait": "true"} if row.name == "wait_max" else {}
        values = {
            getattr(found, row.name)
            for found in (
                load({row.name: text, **more}),
                load(more, options=f"{row.name}={text}"),
                load(more, options=f"{row.name.replace('_', '-')}={text}"),
                load(environ={row.env[0]: text}),
                load(config_file=config(tmp_path, f'{row.name} = "{text}"')),
            )
        }
        assert len(values) == 1, row.name
        assert values != {row.default}


def test_a_wait_limit_without_a_wait(tmp_path: Path) -> None:
    """On a command line it is refused, as it would do nothing; elsewhere it is for the mounts that wait."""
    assert str(refusal(flags={"wait_max": "5m"})) == "--wait-max: it has no effect without --wait; add --wait"
    assert str(refusal(options="wait_max=5m")).startswith("-o wait_max: ")
    assert load(options="wait_max=5m,_netdev").wait_max == 300
    file = config(tmp_path, "wait_max = 9")
    assert (load(config_file=file).wait_max, load({"wait": True}, config_file=file).wait_max) == (9, 9)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("listing_ttl", "soon"), ("listing_ttl", "-1"), ("listing_ttl", "inf"), ("deadline", "0"),
        ("cache_size", "big"), ("cache_size", "1" * 400 + ".5"), ("runs_listed", "-1"), ("runs_listed", "1.5"),
        ("runs_listed", "9" * 14),
        ("umask", "999"), ("dir_mode", "0o755"), ("file_mode", "4644"), ("prefetch", "all"), ("prefetch", "true"),
        ("umask", "0o22"), ("uid", "nobody-of-that-name"), ("gid", "nobody-of-that-name"), ("uid", "4294967295"),
        ("gid", "99999999999"), ("allow_other", "perhaps"), ("cache_dir", ""), ("site", "nowhere"), ("site", "a b.c"),
        ("api_url", "ftp://api.example.com"), ("api_url", ""), ("proxy", "socks://x"),
        ("log_to", "nowhere"), ("log_format", "xml"), ("wait_max", "0"), ("fsname", ""),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_line_that_names_its_source(tmp_path: Path, name: str, text: str) -> None:
    """Each bad value: one line, beginning with where it came from; USAGE, or BAD_CONFIG for the config file's."""
    row = next(row for row in SETTINGS if row.name == name)
    file = config(tmp_path, f'{name} = "{text}"')
    assert str(refusal(flags={name: text})).startswith(f"{row.option}: ")
    assert refusal(flags={name: text}).code is ExitCode.USAGE
    if text:
        assert str(refusal(environ={row.env[-1]: text})).startswith(f"{row.env[-1]}: ")
        assert refusal(environ={row.env[-1]: text}).code is ExitCode.USAGE
    assert str(refusal(options=f"{name}={text}")).startswith(f"-o {name}: ")
    assert str(refusal(config_file=file)).startswith(f"{name} in {file}: ")
    assert refusal(config_file=file).code is ExitCode.BAD_CONFIG


def test_owners_by_name_or_number() -> None:
    """uid and gid are numbers or names, as with chown."""
    found = load({"uid": "root", "gid": "root"})
    assert (found.uid, found.gid) == (0, 0)
    assert load({"uid": "4294967294"}).uid == 4294967294


def test_paths_are_absolute_at_once(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A background mount leaves its working directory: relative paths mean the one where it was started."""
    monkeypatch.chdir(home)
    assert load({"cache_dir": "c"}).cache_dir == str(home / "c")
    assert load(environ={"ARTIFACTFS_LOG_FILE": "~/x.log"}).log_file == str(home / "x.log")


# --- -o ---------------------------------------------------------------------------------------------------


def test_mount_options_of_fstab() -> None:
    """What mount(8) adds is ignored, what only the kernel knows is handed on, a switch needs no value."""
    found = load(options="ro,defaults,relatime,nosuid,nodev,noexec,noatime,x-systemd.automount,x-gvfs-show,allow_other")
    assert found.kernel_options == {"noexec", "noatime"}
    assert found.allow_other
    assert not load(options="allow_other=false").allow_other
    assert load(options=",,umask=027,").umask == 0o27


@pytest.mark.parametrize("options", ["rw", "nonsense", "nonsense=1", "noexec=1", "site", "api_key=x", "config_file=x"])
def test_bad_mount_options(options: str) -> None:
    """An option that is none, or lacks its value, is USAGE in one line that names it."""
    error = refusal(options=options)
    assert error.code is ExitCode.USAGE
    assert str(error).startswith(f"-o {options.partition('=')[0]}: ")


def test_a_key_on_the_command_line_is_not_repeated() -> None:
    """6.1: `-o api_key=…` is refused (ps shows it), and the refusal does not show it again."""
    error = refusal(options="umask=022,api_key=s3cr3t")
    assert "s3cr3t" not in str(error)


# --- the config file --------------------------------------------------------------------------------------


def test_the_default_config_file_may_be_missing(home: Path) -> None:
    """A file that was named must be there; the default one need not."""
    assert load().config_file == str(home / ".config" / "artifactfs" / "config.toml")
    error = refusal(config_file=str(home / "none.toml"))
    assert error.code is ExitCode.BAD_CONFIG
    assert "none.toml" in str(error)
    assert refusal(environ={"ARTIFACTFS_CONFIG": str(home / "none.toml")}).code is ExitCode.BAD_CONFIG


def test_the_default_config_file_is_read(home: Path) -> None:
    """~/.config/artifactfs/config.toml counts without being named."""
    path = home / ".config" / "artifactfs" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('site = "ap1.datadoghq.com"\nallow_other = true\nlisting_ttl = 1.5\nruns_listed = 7')
    found = load()
    assert (found.site, found.allow_other, found.listing_ttl) == ("ap1.datadoghq.com", True, 1.5)
    assert found.runs_listed == 7


@pytest.mark.parametrize(
    "text",
    [
        "site = ", "site", "\x00", "unknown = 1", "[keys]\nsite = 'x'", "site = ['x']", "site = 2026-05-16",
        "a = " + "[" * 5000, "cache_size = " + "9" * 5000, "cache_size = 0x" + "f" * 5000, "site = 'a'\nsite = 'b'",
        'cache_dir = "a\\u0000b"',
    ],
)  # fmt: skip
def test_a_malformed_config_file(tmp_path: Path, text: str) -> None:
    """Whatever is in the file, it is one line with BAD_CONFIG that names the file."""
    file = config(tmp_path, text)
    error = refusal(config_file=file)
    assert error.code is ExitCode.BAD_CONFIG
    assert file in str(error)


def test_a_config_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Not UTF-8, or a directory: BAD_CONFIG."""
    file = tmp_path / "b.toml"
    file.write_bytes(b"site = '\xff'")
    assert refusal(config_file=str(file)).code is ExitCode.BAD_CONFIG
    assert refusal(config_file=str(tmp_path)).code is ExitCode.BAD_CONFIG


@given(st.binary(max_size=60))
def test_any_bytes_as_config_file(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """No bytes make reading raise anything but UserError."""
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(raw)
    try:
        load(config_file=str(file))
    except UserError as error:
        code = error.code
    else:
        code = ExitCode.BAD_CONFIG  # comments and white space are fine
    assert code is ExitCode.BAD_CONFIG


# --- log files --------------------------------------------------------------------------------------------


def test_each_mount_point_has_a_log_of_its_own(home: Path) -> None:
    """Two background mounts never rotate one file."""
    points = ["/", "/root", "/mnt/lab", "/mnt-lab", "/mnt/lab run", "/mnt/lab\nrun", "/mnt/lab-run", "/mnt/ü", "/mnt/ö"]
    points += ["/x" * 200, "/y/" + "x" * 199 + "/" + "x" * 200, "/z/" + "x" * 199 + "/" + "x" * 200]
    files = [settings.default_log_file(point) for point in points]
    assert len(set(files)) == len(points)
    assert settings.default_log_file("/mnt/lab").endswith("/artifactfs/log/mnt-lab.log")
    for file in files:
        assert file.startswith(str(home))
        assert len(os.fsencode(os.path.basename(file))) <= 240  # room for `.1` and the like


def test_what_asks_to_be_waited_for() -> None:
    """5.8: fstab's `nofail` and `_netdev` ask to go on trying, unless it is said otherwise."""
    assert not load().wait
    for options in ("nofail", "_netdev", "ro,_netdev,nofail", "nofail,wait"):
        assert load(options=options).wait, options
    assert not load(options="_netdev,wait=false").wait
    assert not load(options="wait=false,_netdev").wait
    assert load(options="nofail,wait_max=90s").wait_max == 90
    assert "no such option" in str(refusal(options="nofail=1"))


@pytest.mark.parametrize("name", ["a,b", "a\\b", "a\nb", "\x1b[2J", "\udcff"])
def test_what_no_mount_table_can_hold(name: str) -> None:
    """A comma would be another option to the kernel, a newline another row to a reader of the table."""
    assert "cannot be a mount's source" in str(refusal(flags={"fsname": name}))


def test_a_source_that_the_kernel_would_not_take() -> None:
    """It goes to the kernel with all other options, in 4096 bytes: a long one is refused where it is given."""
    assert load(flags={"fsname": "é" * 127}).fsname == "é" * 127
    for name in ("x" * 5000, "é" * 128):
        error = refusal(flags={"fsname": name})
        assert error.code is ExitCode.USAGE
        assert str(error) == f"--fsname: a mount's source can have 255 bytes at most: {name[:20]!r}… has more"
