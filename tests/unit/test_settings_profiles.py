"""artifactfs.settings: profiles of the config file, where it is found, and what an unknown name is answered with."""

import itertools
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Secret, Settings

CONFIG = """
site = "us3.datadoghq.com"
listing_ttl = "2m"
account = "everybody"

[profiles.eu]
site = "datadoghq.eu"
app_key = "app-of-eu"

[profiles."far away"]
listing_ttl = "10m"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no real configuration has a say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


@pytest.fixture
def file(tmp_path: Path) -> str:
    return config(tmp_path, CONFIG)


def config(tmp_path: Path, text: str, name: str = "a.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def load(
    flags: dict[str, str | bool | None] | None = None,
    *,
    options: str = "",
    environ: dict[str, str] | None = None,
    file: str | None = None,
) -> Settings:
    return settings.load(flags or {}, options=options, config_file=file, environ=environ or {}, need_keys=False)


def refusal(
    flags: dict[str, str | bool | None] | None = None,
    *,
    options: str = "",
    environ: dict[str, str] | None = None,
    file: str | None = None,
) -> UserError:
    with pytest.raises(UserError) as caught:
        load(flags, options=options, environ=environ, file=file)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


# --- which profile ------------------------------------------------------------------------------------------


def test_the_top_of_the_file_is_the_default_of_all_profiles(file: str) -> None:
    """What a profile does not say, the top says; without a profile only the top counts."""
    found = load({"profile": "eu"}, file=file)
    assert (found.site, found.listing_ttl, found.account) == ("datadoghq.eu", 120, "everybody")
    assert (found.profile, found.app_key, found.api_url) == ("eu", Secret("app-of-eu"), "https://api.datadoghq.eu")
    found = load({"profile": "far away"}, file=file)
    assert (found.site, found.listing_ttl, found.app_key) == ("us3.datadoghq.com", 600, None)
    found = load(file=file)
    assert (found.site, found.listing_ttl, found.profile, found.app_key) == ("us3.datadoghq.com", 120, None, None)


def test_sources_of_the_profile(tmp_path: Path) -> None:
    """--profile, -o, the variable, and the file's own word, in this order."""
    names = ("flag", "option", "variable", "own")
    tables = "".join(f'[profiles.{name}]\nsite = "{name}.example"\n' for name in names)
    file = config(tmp_path, f'profile = "own"\n{tables}')
    for first in range(len(names)):
        given = names[first:]
        found = load(
            {"profile": "flag" if "flag" in given else None},
            options="profile=option" if "option" in given else "",
            environ={"ARTIFACTFS_PROFILE": "variable" if "variable" in given else " "},
            file=file,
        )
        assert (found.profile, found.site) == (given[0], f"{given[0]}.example")


@pytest.mark.parametrize(("strong", "weak"), list(itertools.combinations(range(5), 2)))
def test_precedence(tmp_path: Path, strong: int, weak: int) -> None:
    """Flag or -o, environment, profile, top of the file, default: the stronger of any two counts."""
    said = {strong: "11", weak: "22"}
    file = config(
        tmp_path,
        (f"deadline = {said[3]}\n" if 3 in said else "")
        + "[profiles.p]\n"
        + (f"deadline = {said[2]}\n" if 2 in said else ""),
    )
    found = load(
        {"profile": "p", "deadline": said.get(0)},
        environ={"ARTIFACTFS_DEADLINE": said[1]} if 1 in said else {},
        file=file,
    )
    assert found.deadline == 11


def test_the_config_file_by_option(tmp_path: Path, file: str) -> None:
    """`-o config=FILE`, as fstab would have it: weaker than --config, stronger than the variable."""
    other = config(tmp_path, 'site = "us5.datadoghq.com"', "b.toml")
    assert load(options=f"config={other}").site == "us5.datadoghq.com"
    assert load(options=f"config={other}", file=file).site == "us3.datadoghq.com"
    assert load(options=f"config={other}", environ={"ARTIFACTFS_CONFIG": file}).site == "us5.datadoghq.com"
    assert load(options=f"config={file},profile=eu").site == "datadoghq.eu"
    assert "none.toml" in str(refusal(options="config=/none.toml"))
    assert refusal(options="config=/none.toml").code is ExitCode.BAD_CONFIG
    assert refusal(options="profile").code is ExitCode.USAGE


def test_where_the_config_file_is(home: Path) -> None:
    """`config path` tells it, there or not."""
    own = str(home / ".config" / "artifactfs" / "config.toml")
    assert settings.find_config_file(None, environ={}) == own
    assert settings.find_config_file(None, environ={"ARTIFACTFS_CONFIG": "~/x.toml"}) == str(home / "x.toml")
    assert settings.find_config_file("/y.toml", environ={"ARTIFACTFS_CONFIG": "~/x.toml"}) == "/y.toml"


# --- what there is not --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "source", "code"),
    [
        ("flag", "--profile", ExitCode.USAGE),
        ("option", "-o profile", ExitCode.USAGE),
        ("variable", "ARTIFACTFS_PROFILE", ExitCode.USAGE),
        ("file", None, ExitCode.BAD_CONFIG),
    ],
)
def test_an_unknown_profile(tmp_path: Path, file: str, by: str, source: str | None, code: ExitCode) -> None:
    """Who named it, the nearest that there is, and all that there are."""
    if by == "file":
        file = config(tmp_path, 'profile = "far-away"\n' + CONFIG)
    error = refusal(
        {"profile": "far-away" if by == "flag" else None},
        options="profile=far-away" if by == "option" else "",
        environ={"ARTIFACTFS_PROFILE": "far-away"} if by == "variable" else {},
        file=file,
    )
    assert error.code is code
    assert str(error) == (
        f"{source or file}: there is no profile 'far-away'; did you mean far away? {file} has eu, far away"
    )


def test_a_profile_where_there_are_none(tmp_path: Path, home: Path) -> None:
    """A file without profiles, and no file at all: it is said what to do."""
    file = config(tmp_path, "")
    assert f"{file} has none; add a table [profiles.eu]" in str(refusal({"profile": "eu"}, file=file))
    assert f"there is no config file {home}" in str(refusal({"profile": "eu"}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listing_tll = 1", "there is no setting 'listing_tll'; did you mean listing_ttl?"),
        ("sites = 'x'", "there is no setting 'sites'; did you mean site?"),
        ("[profiles.eu]\napi_keyfile = 'x'", "[profiles.eu] in {}: there is no setting 'api_keyfile'; did you mean"),
        ("profil = 'eu'", "there is no setting 'profil'; did you mean profile?"),
        ("zzz = 1", "there is no setting 'zzz'; there are access_token, "),
        ("[eu]\nsite = 'x'", "{}: a profile's table is called [profiles.eu]"),
        ("[profile.eu]\nsite = 'x'", "a profile's table is called [profiles.NAME]"),
        ("[profils.eu]\nsite = 'x'", "there is no setting 'profils'; did you mean profiles?"),
        ("profile = 1", "profile must be the name of a profile"),
        ("profiles = 'eu'", "profiles must be tables: [profiles.NAME]"),
        ("[profiles]\neu = 'x'", "eu in profiles is no profile"),
        ("[profiles.eu]\nprofile = 'us'", "[profiles.eu] in {}: profile belongs at the top of the file"),
        ("[profiles.eu]\nsite = ['x']", "[profiles.eu] in {}: site must be a string"),
        ("[profiles.eu]\numask = 27", '[profiles.eu] in {}: umask must be text, like "750"'),
        ("[profiles.eu.deep]\nsite = 'x'", "[profiles.eu] in {}: a profile's table is called [profiles.deep]"),
        ("api_key_command = [1]", "api_key_command must be a string"),
        ("site = 'x y'", "site in {}: "),
    ],
)
def test_an_unknown_name_or_an_odd_value(tmp_path: Path, text: str, words: str) -> None:
    """One line with BAD_CONFIG that names the place and the nearest name: in profiles that are not used, too."""
    file = config(tmp_path, text)
    error = refusal(file=file)
    assert error.code is ExitCode.BAD_CONFIG
    assert words.format(file) in str(error)
    assert file in str(error)


def test_a_bad_value_in_a_profile(tmp_path: Path) -> None:
    """It is named by its profile; in one that is not used it does not matter."""
    file = config(tmp_path, "[profiles.a]\ndeadline = '0'\n[profiles.b]\n")
    error = refusal({"profile": "a"}, file=file)
    assert error.code is ExitCode.BAD_CONFIG
    assert str(error).startswith(f"deadline in [profiles.a] in {file}: ")
    assert load({"profile": "b"}, file=file).deadline == 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("listing_tll=5", "-o listing_tll: there is no such option; did you mean listing_ttl?"),
        ("listing-tll=5", "-o listing-tll: there is no such option; did you mean listing_ttl?"),
        ("allow_others", "did you mean allow_other?"),
        ("noexex", "did you mean noexec?"),
        ("zzz", "there are access_token_command, "),
        ("app-key=s3cr3t", "a key does not belong on a command line"),
    ],
)
def test_an_unknown_option(options: str, words: str) -> None:
    """The nearest one is named, or all there are; never a value."""
    error = refusal(options=options)
    assert error.code is ExitCode.USAGE
    assert words in str(error)
    assert "s3cr3t" not in str(error)


def test_a_comma_in_an_option() -> None:
    r"""`\,` is a comma in a value, as for libfuse; what it is not needed for is left alone."""
    found = load(options=r"account=a\,b\\c,umask=022,cache_dir=/x=y")
    assert (found.account, found.umask, found.cache_dir) == (r"a,b\c", 0o22, "/x=y")


def test_unknown_variables() -> None:
    """A typing error is pointed out, and no more than that; what Kubernetes makes of a service's name is none."""
    environ = {
        "ARTIFACTFS_LISTING_TLL": "5", "ARTIFACTFS_PORT": "tcp://x", "ARTIFACTFS_SERVICE_HOST": "x",
        "ARTIFACTFS_PORT_80_TCP_ADDR": "x", "ARTIFACTFS_PROFIL": "eu", "DD_SIT": "x", "ARTIFACTFS_": "x",
    }  # fmt: skip
    assert [*map(str, load(environ=environ).warnings)] == [
        "ARTIFACTFS_LISTING_TLL is no variable of artifactfs; did you mean ARTIFACTFS_LISTING_TTL?",
        "ARTIFACTFS_PROFIL is no variable of artifactfs; did you mean ARTIFACTFS_PROFILE?",
    ]


def test_a_profile_that_the_environment_overrides(file: str) -> None:
    """A profile by --profile, with DD_SITE or keys in the environment: a warning says that those count."""
    environ = {"DD_SITE": "us5.datadoghq.com", "DD_APP_KEY": "x", "DD_API_KEY": "x", "ARTIFACTFS_LISTING_TTL": "1"}
    found = load({"profile": "eu"}, environ=environ, file=file)
    assert (found.site, found.app_key) == ("us5.datadoghq.com", Secret("x"))
    assert [notice.fact for notice in found.warnings] == [
        "DD_SITE, DD_APP_KEY of the environment overrides the profile eu"
    ]
    # Keys in place of a token, and the other way round; half a pair replaces nothing.
    file = config(Path(file).parent, "[profiles.t]\naccess_token = 't'\n[profiles.k]\napi_key = 'k'\napp_key = 'k'\n")
    for profile, variables, told in (
        ("t", ["DD_API_KEY", "DD_APP_KEY"], "DD_API_KEY, DD_APP_KEY of"),
        ("k", ["DD_ACCESS_TOKEN"], "DD_ACCESS_TOKEN of"), ("t", ["DD_API_KEY"], None),
    ):  # fmt: skip
        warnings = load({"profile": profile}, environ=dict.fromkeys(variables, "x"), file=file).warnings
        assert [notice.fact.startswith(str(told)) for notice in warnings] == ([True] if told else [])
    # The same site; or a profile that the command line does not name.
    file = config(Path(file).parent, CONFIG)
    assert load({"profile": "eu"}, environ={"DD_SITE": "datadoghq.eu"}, file=file).warnings == ()
    assert load(environ=environ | {"ARTIFACTFS_PROFILE": "eu"}, file=file).warnings == ()
    assert (
        load({"profile": "eu", "site": "ddog-gov.com"}, environ={"DD_SITE": "uk1.datadoghq.com"}, file=file).warnings
        == ()
    )


LEVELS = ("flag", "-o", "variable", "profile", "top")


@pytest.mark.parametrize(("site", "url"), list(itertools.product(LEVELS, LEVELS)))
def test_site_or_api_url(tmp_path: Path, site: str, url: str) -> None:
    """The stronger level counts, and in one level the URL: `--site` is never without effect."""

    def at(level: str) -> dict[str, str]:
        return {
            **({"site": "s.example"} if site == level else {}),
            **({"api_url": "https://u"} if url == level else {}),
        }

    def lines(level: str) -> str:
        return "".join(f"{name} = '{text}'\n" for name, text in at(level).items())

    found = load(
        {"profile": "p", **at("flag")},
        options=",".join(f"{name}={text}" for name, text in at("-o").items()),
        environ={f"ARTIFACTFS_{name.upper()}": text for name, text in at("variable").items()},
        file=config(tmp_path, f"{lines('top')}[profiles.p]\n{lines('profile')}"),
    )
    ranks = {level: max(1, rank) for rank, level in enumerate(LEVELS)}
    assert found.api_url == ("https://api.s.example" if ranks[site] < ranks[url] else "https://u")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[1m", "x" * 201])
def test_what_is_no_account(name: str) -> None:
    """A name is what can be shown."""
    assert refusal({"account": name}).code is ExitCode.USAGE
    assert load({"account": " my team "}).account == "my team"


def test_missing_keys_where_profiles_have_them(tmp_path: Path) -> None:
    """The profiles are named, which a user of none has forgotten; where one is chosen they are not."""
    file = config(tmp_path, "[profiles.us]\nsite = 'us5.datadoghq.com'\n[profiles.eu]\nsite = 'datadoghq.eu'\n")
    for environ, is_named in (({}, True), ({"ARTIFACTFS_PROFILE": "eu"}, False)):
        with pytest.raises(UserError) as caught:
            settings.load({}, config_file=file, environ=environ)
        assert caught.value.code is ExitCode.KEYS_MISSING
        assert ("; choose a profile with --profile (eu, us); or `artifactfs login`" in str(caught.value)) == is_named


def test_a_text_without_quotes(tmp_path: Path) -> None:
    """The commonest slip in TOML: the parser says where, and the message how it is written."""
    error = refusal(file=config(tmp_path, "listing_ttl = 5m\n"))
    assert error.code is ExitCode.BAD_CONFIG
    assert 'are in quotes, as in listing_ttl = "5m"' in str(error)
