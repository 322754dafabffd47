"""artifactfs.settings: where requests go, and with which keys (docs/semantics.md 6.1, 6.2)."""

import copy
import dataclasses
import itertools
import traceback
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import Secret, Settings
from artifactfs.util.urls import SITES, is_loopback, is_of_datadog, parse_api_url, parse_site, without_password

KEYS = {"DD_API_KEY": "api-s3cr3t", "DD_APP_KEY": "app-s3cr3t"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no real configuration has a say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def load(
    environ: dict[str, str], flags: dict[str, str | bool | None] | None = None, config_file: str | None = None
) -> Settings:
    return settings.load(flags or {}, environ=environ, config_file=config_file)


def refusal(
    environ: dict[str, str], flags: dict[str, str | bool | None] | None = None, config_file: str | None = None
) -> UserError:
    with pytest.raises(UserError) as caught:
        load(environ, flags, config_file)
    text = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in text, "a secret is in the exception or its traceback"
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


# --- the site -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pasted", "site"),
    [
        ("datadoghq.com", "datadoghq.com"), ("us3.datadoghq.com", "us3.datadoghq.com"),
        ("DATADOGHQ.EU", "datadoghq.eu"), ("https://app.datadoghq.eu/", "datadoghq.eu"),
        ("https://us5.datadoghq.com", "us5.datadoghq.com"),
        ("https://api.us3.datadoghq.com/api/v2", "us3.datadoghq.com"), ("www.datadoghq.com", "datadoghq.com"),
        ("http://app.ddog-gov.com/", "ddog-gov.com"), (" datadoghq.eu \n", "datadoghq.eu"),
        ("datadoghq.eu.", "datadoghq.eu"), ("us2.ddog-gov.com", "us2.ddog-gov.com"), ("api.app.test", "app.test"),
    ],
)  # fmt: skip
def test_sites_that_people_paste(pasted: str, site: str) -> None:
    """Scheme, path, slash, case and one leading `app.`, `api.` or `www.` do not matter."""
    assert parse_site(pasted) == site
    assert load(KEYS, {"site": pasted}).api_url == f"https://api.{site}"


@pytest.mark.parametrize(
    "text",
    ["", " ", "com", "datadoghq", "a..b", "-a.b", "a_b.c", "a.b:443", "u@a.b", "a.b?x", "a b.c", "é.fr", "a." * 130],
)
def test_what_is_no_site(text: str) -> None:
    """Anything that is not a host name is refused before a key goes anywhere."""
    with pytest.raises(ValueError, match="is not a Datadog site"):
        parse_site(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:s3cr3t@datadoghq.eu", "'https://***@datadoghq.eu'"), ("u:s3cr3t@a.b", "'***@a.b'"),
        ("https://u:s3/cr3t@s3cr3t@a.b", "'https://***@a.b'"), ("a.b?api_key=s3cr3t", "'a.b?***'"),
        ("https://u:s3cr3t\n@a.b", "'https://***@a.b'"),
    ],
)  # fmt: skip
def test_secrets_in_a_site_are_not_repeated(text: str, shown: str) -> None:
    """6.1: nor by what `config show` says of it."""
    error = refusal(KEYS, {"site": text})
    assert str(error).startswith(f"--site: {shown} is not a Datadog site: there are datadoghq.com, us3.datadoghq.com, ")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("datadoghq.co", "datadoghq.com"),
        ("datadog.com", "datadoghq.com"),
        ("app.datadoghq.ue", "datadoghq.eu"),
        ("datadoghq.com.login.example", "datadoghq.com"),
        ("us5.datadoghq.com.example", "datadoghq.com"),
    ],
)
def test_a_mistyped_site_gets_no_key(text: str, meant: str) -> None:
    """6.1: a host that only looks like Datadog's is refused, with the site that is meant, and the way to insist."""
    host = text.removeprefix("app.")
    assert str(refusal(KEYS, {"site": text})) == (
        f"--site: '{host}' is not a Datadog site: did you mean {meant}? If not, use --api-url https://api.{host}"
    )
    assert load(KEYS, {"api_url": f"https://api.{host}"}).origin == f"api.{host}"


@pytest.mark.parametrize("host", ["xn--dtadoghq-26g.com", "eu.xn--e1afmkfd.xn--80akhbyknj4f"])
def test_a_look_alike_gets_no_key(host: str) -> None:
    """6.1: a name with letters of other alphabets, which may look like any of Datadog's, takes --api-url, too."""
    assert str(refusal(KEYS, {"site": host})) == (
        f"--site: '{host}' is not a Datadog site: its name has letters that only look like others. "
        f"If not, use --api-url https://api.{host}"
    )
    assert load(KEYS, {"api_url": f"https://api.{host}"}).origin == f"api.{host}"


@pytest.mark.parametrize(
    ("site", "fix"),
    [("us6.datadoghq.com", "did you mean us5.datadoghq.com?"), ("lab.example", "there are ap1.datadoghq.com, ")],
)
def test_an_unknown_site_is_warned_of(site: str, fix: str) -> None:
    """6.1: a site that Datadog may have added, or none of its own: a warning before the keys go there."""
    (notice,) = load(KEYS, {"site": site}).warnings
    assert notice.fact == f"{site} is not among Datadog's sites, and its API gets the keys"
    assert notice.fix.startswith(fix)
    assert load(KEYS, {"site": site, "api_url": "https://x.example"}).warnings == ()
    assert settings.explain({"site": "no site"}, environ=KEYS).warnings == ()


def test_every_site_is_taken_as_it_is() -> None:
    """Without a warning; and each is Datadog's own."""
    for site in SITES:
        assert load(KEYS, {"site": site}).warnings == ()
        assert is_of_datadog(site)
        assert is_of_datadog(f"api.{site}".upper())
    assert not is_of_datadog("notdatadoghq.com")


@pytest.mark.parametrize(
    "name", ["deadline", "cache_size", "uid", "umask", "wait", "runs_listed", "prefetch", "log_to"]
)
def test_a_password_where_no_url_belongs_is_not_repeated(name: str) -> None:
    """6.1: whatever the setting, a message repeats what it holds without user name and password."""
    assert "://***@" in str(refusal(KEYS, {name: "https://u:s3cr3t@h"}))


# --- the API URL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://api.datadoghq.eu", "https://api.datadoghq.eu"),
        ("https://api.datadoghq.eu/", "https://api.datadoghq.eu"),
        (" https://gateway.internal/dd/ ", "https://gateway.internal/dd"), ("https://a_b.c:8443", "https://a_b.c:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"), ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"), ("http://127.8.9.1", "http://127.8.9.1"),
        ("https://10.0.0.1", "https://10.0.0.1"),
    ],
)  # fmt: skip
def test_api_urls(text: str, url: str) -> None:
    """https to any host, http to loopback (6.1); without a slash at the end."""
    assert parse_api_url(text) == url
    assert load(KEYS, {"api_url": text}).api_url == url


@pytest.mark.parametrize(
    "text",
    [
        "http://api.datadoghq.com", "http://10.0.0.1", "http://127.0.0.1.example.com", "http://localhost.example.com",
        "http://0.0.0.0", "http://[::2]", "http://127.0.0.1@example.com", "http://example.com#@127.0.0.1",
    ],
)  # fmt: skip
def test_plain_http_is_for_loopback_only(text: str) -> None:
    """6.1: keys never go over the network in the clear, whatever the host looks like."""
    assert refusal(KEYS, {"api_url": text}).code is ExitCode.USAGE


@pytest.mark.parametrize(
    "text",
    [
        "api.datadoghq.com", "//x", "https://", "https://h:99999", "https://h:0", "https://h:x", "https://[::1",
        "file:///x",
        "https://h?x=1", "https://h#x", "https://exa mple.com", "https://a..b", "https://256.1.1.1", "https://[v1.x]",
        "https://h|x", "https://*.x", "https://@h", "https://h/a b", "https://h/\x01", "https://" + "a" * 70 + ".com",
    ],
)  # fmt: skip
def test_what_is_no_api_url(text: str) -> None:
    """Anything that no request could be sent to is refused at once."""
    assert refusal(KEYS, {"api_url": text}).code is ExitCode.USAGE


@pytest.mark.parametrize(
    "text", ["https://u:s3cr3t@h", "https://u:s3cr3t@h:99999", "https://h/?api_key=s3cr3t", "ftp://u:s3cr3t@h"]
)
def test_secrets_in_an_api_url_are_not_repeated(text: str) -> None:
    """6.1: keys do not belong into a URL, and the refusal shows none."""
    assert refusal(KEYS, {"api_url": text}).code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("LOCALHOST", True),
        ("localhost.evil.com", False), ("128.0.0.1", False), ("", False), ("::", False), ("0.0.0.0", False),
    ],
)  # fmt: skip
def test_what_is_loopback(host: str, loopback: bool) -> None:
    """6.1: only this machine's own addresses are."""
    assert is_loopback(host) is loopback


def test_a_proxy_is_ours_to_name() -> None:
    """6.1: proxies come from our own setting and never from HTTP_PROXY and friends."""
    environment = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"), "http://evil:1")
    assert load(KEYS | environment).proxy is None
    assert load(KEYS, {"proxy": "http://u:p@proxy:3128"}).proxy == "http://u:p@proxy:3128"


@pytest.mark.parametrize(
    "text", ["proxy:3128", "socks5://u:s3cr3t@h", "http://u:s3cr3t@h:99999", "http://u:s3cr3t@", "http://u:s3cr3t@a b"]
)
def test_a_bad_proxy_is_not_repeated(text: str) -> None:
    """6.1: its URL may hold a password."""
    error = refusal(KEYS, {"proxy": text})
    assert error.code is ExitCode.USAGE
    assert str(error).startswith("--proxy: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://proxy:3128", "http://proxy:3128"), ("http://u:s3cr3t@proxy:1/x", "http://***@proxy:1/x"),
        ("https://s3cr3t@[::1]:1", "https://***@[::1]:1"), ("http://u:p@s3cr3t@h", "http://***@h"),
    ],
)  # fmt: skip
def test_a_proxy_that_is_shown(url: str, shown: str) -> None:
    """6.1: neither the user's name nor the password."""
    assert without_password(url) == shown


# --- keys ---------------------------------------------------------------------------------------------------


def test_keys_of_the_official_tools() -> None:
    """DD_API_KEY and DD_APP_KEY, else the older names; ours before theirs."""
    found = load({"DATADOG_API_KEY": "old-api", "DATADOG_APP_KEY": "old-app"})
    assert (found.api_key, found.app_key) == (Secret("old-api"), Secret("old-app"))
    found = load({"DATADOG_API_KEY": "old", "DD_API_KEY": "new", "ARTIFACTFS_APP_KEY": "ours", "DD_APP_KEY": "theirs"})
    assert (found.api_key, found.app_key) == (Secret("new"), Secret("ours"))


TOKENS = ("ARTIFACTFS_ACCESS_TOKEN", "DD_BEARER_TOKEN", "DD_ACCESS_TOKEN")


@pytest.mark.parametrize("variable", TOKENS)
def test_an_access_token_needs_no_keys(variable: str) -> None:
    """Each variable of a token stands in for both keys."""
    found = load({variable: "ddpat_x"})
    assert (found.access_token, found.api_key, found.app_key) == (Secret("ddpat_x"), None, None)
    assert found.warnings == ()


@pytest.mark.parametrize(("strong", "weak"), list(itertools.combinations(TOKENS, 2)))
def test_the_first_variable_of_a_token_counts(strong: str, weak: str) -> None:
    """Ours, then the one of the API's document, then the one of Datadog's CLI; an empty one says nothing."""
    assert load({weak: "s3cr3t-2", strong: "s3cr3t-1"}).access_token == Secret("s3cr3t-1")
    assert load({weak: "s3cr3t-2", strong: " "}).access_token == Secret("s3cr3t-2")


def test_two_of_datadogs_variables_that_differ() -> None:
    """A warning names the one that counts: for a token, and for keys. One of ours is there to be another."""
    said = "is used, and not"
    both = {"DD_BEARER_TOKEN": "s3cr3t-1", "DD_ACCESS_TOKEN": "s3cr3t-2"}
    (warning,) = load(both).warnings
    assert str(warning) == f"DD_BEARER_TOKEN {said} DD_ACCESS_TOKEN, which has another value; unset one of them"
    assert settings.explain({}, environ=both).warnings == (warning,)
    assert load(dict.fromkeys(both, "same")).warnings == ()
    assert load(both | {"ARTIFACTFS_ACCESS_TOKEN": "s3cr3t-3"}).warnings == ()
    old = {"DATADOG_API_KEY": "s3cr3t-3", "DATADOG_APP_KEY": "s3cr3t-4"}
    assert [each.fact.partition(f" {said} ")[0] for each in load(KEYS | old).warnings] == ["DD_API_KEY", "DD_APP_KEY"]
    # Where the token counts, nothing is asked with the keys.
    assert load(KEYS | old | {"DD_BEARER_TOKEN": "t"}).warnings == ()


def test_missing_keys_say_what_to_do(home: Path) -> None:
    """Which key is missing, and the three ways to give it."""
    error = refusal({"DD_API_KEY": "api-s3cr3t"})
    assert error.code is ExitCode.KEYS_MISSING
    for hint in ("application key", "DD_APP_KEY", "--app-key-file", str(home)):
        assert hint in str(error)
    assert "DD_API_KEY" in str(refusal({"DD_APP_KEY": "app-s3cr3t"}))
    assert settings.load({}, environ={}, need_keys=False).api_key is None


def test_a_variable_that_is_nearly_right() -> None:
    """DD_APPLICATION_KEY is called after the header, and is not it; another key that is right is no guess."""
    error = refusal({"DD_API_KEY": "api-s3cr3t", "DD_APPLICATION_KEY": "app-s3cr3t"})
    assert (
        "`artifactfs login` asks for it and keeps it; or set DD_APP_KEY (there is DD_APPLICATION_KEY), or use"
        in str(error)
    )
    assert "set DD_APP_KEY, or use" in str(refusal({"DD_SITE": "x.y"} | {"DD_API_KEY": "api-s3cr3t"}))


def test_key_files(tmp_path: Path) -> None:
    """A key file's white space does not count; a file named by a flag beats a key in the environment."""
    (tmp_path / "api").write_text("  from-file\n\n")
    assert load(KEYS, {"api_key_file": str(tmp_path / "api")}).api_key == Secret("from-file")
    assert load(KEYS | {"ARTIFACTFS_API_KEY_FILE": str(tmp_path / "api")}).api_key == Secret("from-file")


def test_bad_key_files(tmp_path: Path) -> None:
    """Missing, empty, a directory, binary, several words: KEYS_MISSING in one line that names the file."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "words").write_text("two s3cr3t\n")
    (tmp_path / "lines").write_text("one\ns3cr3t\n")
    for name in ("none", "empty", "binary", "words", "lines", "."):
        error = refusal(KEYS, {"app_key_file": str(tmp_path / name)})
        assert error.code is ExitCode.KEYS_MISSING, name
        assert "--app-key-file" in str(error)


@pytest.mark.parametrize("key", ["two s3cr3t", "s3cr3t\x7f", "s3cr3té", "s3cr3t\ninjected: x"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    """A key is not judged by its shape, but what cannot be a header is refused here and not in httpx."""
    error = refusal({"DD_API_KEY": key, "DD_APP_KEY": "x"})
    assert error.code is ExitCode.KEYS_MISSING
    assert str(error).startswith("DD_API_KEY: ")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
@pytest.mark.parametrize("name", ["api_key", "app_key", "access_token"])
def test_a_config_file_with_keys_that_others_can_touch(tmp_path: Path, name: str, mode: int) -> None:
    """6.2: it is refused, with the command that fixes it; the key is not shown."""
    path = tmp_path / "keys.toml"
    path.write_text(f'{name} = "s3cr3t"')
    path.chmod(mode)
    error = refusal(KEYS, config_file=str(path))
    assert error.code is ExitCode.BAD_CONFIG
    assert f"chmod 600 {path}" in str(error)
    path.chmod(0o600)
    assert getattr(settings.load({}, environ={}, config_file=str(path), need_keys=False), name) == Secret("s3cr3t")


def test_a_config_file_without_keys_may_be_public(tmp_path: Path) -> None:
    """6.2: only keys are secret."""
    path = tmp_path / "public.toml"
    path.write_text('site = "datadoghq.eu"')
    path.chmod(0o644)
    assert load(KEYS, config_file=str(path)).site == "datadoghq.eu"


@pytest.mark.parametrize("text", ['api_key = "s3cr3t', "api_key = s3cr3t", 'api_key = "s3cr3t"\napi_key = "s3cr3t"'])
def test_a_malformed_config_file_does_not_show_its_keys(tmp_path: Path, text: str) -> None:
    """6.1: a parser's message is safe to show."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    path.chmod(0o600)
    assert refusal(KEYS, config_file=str(path)).code is ExitCode.BAD_CONFIG


# --- secrets ------------------------------------------------------------------------------------------------


def test_no_text_shows_a_secret() -> None:
    """6.1: neither repr, str, format, % nor a struct that holds it shows one."""
    secret = Secret("s3cr3t")
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>20}",
        repr([secret]),
    ):
        assert "s3cr3t" not in shown
    assert not hasattr(secret, "__dict__")
    assert secret.reveal() == "s3cr3t"
    assert secret == Secret("s3cr3t")
    assert secret != Secret("other")
    assert secret != "s3cr3t"
    assert copy.copy(secret) == secret


def test_settings_show_no_secret() -> None:
    """6.1: the repr of all settings holds no key, and no proxy's password."""
    found = load(KEYS | {"DD_ACCESS_TOKEN": "token-s3cr3t"}, {"proxy": "http://u:s3cr3t@proxy:1"})
    assert "s3cr3t" not in repr(found)
    assert "s3cr3t" not in str(dataclasses.replace(found, site="x.y"))


def test_secrets_for_the_logs_redaction() -> None:
    """6.1: every secret that there is goes to the redacting formatter."""
    found = load(KEYS | {"DD_ACCESS_TOKEN": "token"}, {"proxy": "http://u:pass@proxy:1"})
    assert sorted(found.secrets()) == ["api-s3cr3t", "app-s3cr3t", "pass", "token"]
    assert load(KEYS).secrets() == ["api-s3cr3t", "app-s3cr3t"]
