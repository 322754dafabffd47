"""artifactfs.doctor.settings_checks: settings that are whole, broken, or hang; what of the environment is not read."""

import os
import tempfile
from pathlib import Path

import pytest

from artifactfs import settings
from artifactfs.doctor import path_checks, settings_checks
from artifactfs.doctor.findings import Finding, Mark
from artifactfs.doctor.settings_checks import Setup
from artifactfs.util.urls import SITES

KEYS = {"DD_API_KEY": "s3cr3t-api", "DD_APP_KEY": "s3cr3t-app"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without settings, and with a config directory of its own."""
    for name in list(os.environ):
        if name.startswith(("DD_", "DATADOG_", "ARTIFACTFS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return monkeypatch


def read(config: str | None = None, options: str = "", **flags: str) -> Setup:
    its = settings_checks.read(settings.Arguments(flags=flags, options=options, config_file=config))
    for finding in its.findings:
        assert "s3cr3t" not in f"{finding.fact} {finding.fix}"
    return its


def found(its: Setup, check: str) -> Finding:
    (finding,) = [each for each in its.findings if each.check == check]
    return finding


def test_whole(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where each key comes from is reported; the most important place that has it counts, as it does for a mount."""
    for name, value in KEYS.items():
        environment.setenv(name, value)
    (tmp_path / "key").write_text("s3cr3t-file\n")
    its = read(site="datadoghq.eu", app_key_file=str(tmp_path / "key"))
    assert its.may_ask
    assert found(its, "settings").fact == "asks https://api.datadoghq.eu"
    keys = found(its, "keys").fact
    assert keys == f"API key from DD_API_KEY, application key from --app-key-file ({tmp_path / 'key'})"
    environment.setenv("DD_ACCESS_TOKEN", "s3cr3t-token")
    assert found(read(), "keys").fact == "access token from DD_ACCESS_TOKEN"
    environment.setenv("DD_BEARER_TOKEN", "s3cr3t-bearer")
    its = read()
    assert found(its, "keys").fact == "access token from DD_BEARER_TOKEN"
    assert [each.fact for each in its.findings if each.mark is Mark.WARNING] == [
        "DD_BEARER_TOKEN is used, and not DD_ACCESS_TOKEN, which has another value"
    ]


def test_offline_no_keys_are_needed(environment: pytest.MonkeyPatch) -> None:
    """8.3: the doctor asks for no keys where a mount does not."""
    assert found(read(), "keys").mark is Mark.FAULT
    environment.setenv("ARTIFACTFS_OFFLINE", "always")
    its = read()
    assert (found(its, "keys").mark, its.may_ask) == (Mark.SKIPPED, True)


def test_a_key_in_the_config_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('api_key = "s3cr3t-1"\napp_key = "s3cr3t-2"\nsite = "datadoghq.eu"\n')
    file.chmod(0o600)
    its = read(str(file))
    assert its.settings.site == "datadoghq.eu"
    assert found(its, "keys").fact.count(str(file)) == 2


def test_no_keys(environment: pytest.MonkeyPatch) -> None:
    """What is wrong is reported; the service may be asked all the same, without keys."""
    its = read()
    assert its.may_ask
    assert its.settings.api_key is None
    assert found(its, "keys").mark is Mark.FAULT
    assert "DD_API_KEY" in f"{found(its, 'keys').fix}"
    assert found(its, "settings").mark is Mark.GOOD


def test_a_key_file_that_is_missing(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("DD_APP_KEY", "s3cr3t-app")
    its = read(api_key_file=str(tmp_path / "no such"), cache_dir="/my/cache")
    # Half a pair of keys is not sent.
    assert its.may_ask
    assert (its.settings.api_key, its.settings.app_key) == (None, None)
    assert found(its, "keys").mark is Mark.FAULT
    assert "no such" in found(its, "keys").fact
    # The rest of the settings still counts.
    assert its.settings.cache_dir == "/my/cache"


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("listing_ttl = ", "TOML", "${EDITOR:-vi} "),
        ("no_such = 1\n", "no_such", "${EDITOR:-vi} "),
        ('listing_ttl = "soon"\n', "soon", "${EDITOR:-vi} "),
        ('app_key = "s3cr3t-world-readable"\n', "others can read it", "chmod 600 "),
    ],
)
def test_a_broken_config_file(text: str, said: str, fix: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is reported, and no request is sent: a site that was in it would not be the one that gets the keys (6.1)."""
    for name, value in KEYS.items():
        environment.setenv(name, value)
    file = tmp_path / "config.toml"
    file.write_text(text)
    file.chmod(0o644)
    its = read(str(file), cache_dir="/my/cache")
    assert not its.may_ask
    assert found(its, "settings").mark is Mark.FAULT
    assert said in found(its, "settings").fact
    assert found(its, "settings").fix == f"{fix}{file}"
    assert its.settings.cache_dir == "/my/cache"
    assert its.settings.api_key is None or its.settings.site == SITES[0]
    # It is looked at itself, and not what stands in for it.
    for way in (its, read(options=f"config={file}"), read(str(file), options="nonsense=1")):
        assert way.settings.config_file == str(file)
        assert path_checks.config(way.settings, understood=False).fact == str(file)


@pytest.mark.parametrize("options", ["nonsense=1", "rw"])
def test_bad_options(options: str, environment: pytest.MonkeyPatch) -> None:
    its = read(options=options)
    assert not its.may_ask
    assert found(its, "settings").mark is Mark.FAULT


def test_a_bad_flag_and_a_bad_variable(environment: pytest.MonkeyPatch) -> None:
    assert not read(listing_ttl="soon").may_ask
    environment.setenv("ARTIFACTFS_CACHE_SIZE", "elephants")
    its = read()
    assert "ARTIFACTFS_CACHE_SIZE" in found(its, "settings").fact
    assert f"{found(its, 'settings').fix}".startswith("unset ARTIFACTFS_CACHE_SIZE ")


def test_a_config_file_that_is_none(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would fix it is another file, or a look at what is there in its place."""
    missing = found(read(str(tmp_path / "none.toml")), "settings")
    assert (missing.mark, missing.fix) == (Mark.FAULT, "artifactfs doctor --config FILE  # one that is there")
    assert f"ls -ld {tmp_path} " in f"{found(read(str(tmp_path)), 'settings').fix}"


def test_a_profile(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its name is reported, and one that there is not is a fault after which no request is sent."""
    for name, value in KEYS.items():
        environment.setenv(name, value)
    file = tmp_path / "config.toml"
    file.write_text('[profiles.eu]\nsite = "datadoghq.eu"\n')
    its = read(str(file), profile="eu")
    assert found(its, "settings").fact == "asks https://api.datadoghq.eu, with profile eu"
    its = read(str(file), profile="us")
    assert found(its, "settings").mark is Mark.FAULT
    assert not its.may_ask


def test_a_key_from_a_command(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is run, as by a mount, and may take longer than files may: a user may be typing."""
    environment.setattr(settings_checks, "_READING_S", 0.05)
    environment.setenv("DD_APP_KEY", "s3cr3t-app")
    its = read(api_key_command="sh -c 'sleep 0.2; echo s3cr3t-of-a-command'")
    assert its.settings.api_key is not None
    assert its.settings.api_key.reveal() == "s3cr3t-of-a-command"
    assert "--api-key-command" in found(its, "keys").fact
    its = read(api_key_command="false")
    assert "the command failed" in found(its, "keys").fact


def test_a_key_that_every_user_can_read(environment: pytest.MonkeyPatch) -> None:
    """What a mount would warn of is a warning, with the command that it names."""
    environment.setenv("DD_APP_KEY", "s3cr3t-app")
    # Below the test's own directory no other user gets anywhere.
    handle, path = tempfile.mkstemp(dir="/var/tmp")
    try:
        os.write(handle, b"s3cr3t-file")
        os.fchmod(handle, 0o644)
        (_, advice) = [each for each in read(api_key_file=path).findings if each.check == "settings"]
    finally:
        os.close(handle)
        os.unlink(path)
    assert advice.mark is Mark.WARNING
    assert advice.fix == f"chmod 600 {path}"


def test_a_key_file_that_hangs(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pipe without a writer is reported at once; for one whose writer says nothing the wait ends, and says why."""
    environment.setattr(settings_checks, "_READING_S", 0.3)
    os.mkfifo(tmp_path / "pipe")
    environment.setenv("DD_APP_KEY", "s3cr3t-app")
    its = read(api_key_file=str(tmp_path / "pipe"))
    assert found(its, "keys").mark is Mark.FAULT
    assert "it is a pipe without a writer" in found(its, "keys").fact
    with open(tmp_path / "pipe", "r+b", buffering=0):
        its = read(api_key_file=str(tmp_path / "pipe"))
    assert found(its, "keys").mark is Mark.FAULT
    assert "took more than 0.3 s" in found(its, "keys").fact


# --- proxy and certificates -----------------------------------------------------------------------------


def proxy(environ: dict[str, str], **flags: str) -> Finding:
    loaded = settings.load(flags, config_file=os.devnull, environ={}, need_keys=False)
    return settings_checks.proxy(loaded, settings.unread_proxies(environ), settings.unread_exceptions(environ))


def test_a_proxy_of_the_environment() -> None:
    """It is named, never its value, with the option that would do it; one that could not be used gets none."""
    with_password = {"HTTPS_PROXY": "http://me:s3cr3t@proxy:3128"}
    found = proxy(with_password)
    assert found.mark is Mark.WARNING
    assert found.fact == "none; HTTPS_PROXY of the environment is not read"
    assert found.fix == 'artifactfs mount --proxy "$HTTPS_PROXY" …'
    socks = proxy({"ALL_PROXY": "socks5://proxy:1080"})
    assert socks.mark is Mark.WARNING
    assert socks.fix is None
    assert proxy({"HTTPS_PROXY": ""}).mark is Mark.GOOD
    assert proxy({}).fact == "none"


def test_a_proxy_of_the_settings() -> None:
    """It is shown without its password; on this machine it is not used."""
    found = proxy({"HTTPS_PROXY": "http://other:1"}, proxy="http://me:s3cr3t@proxy:3128")
    assert found.mark is Mark.GOOD
    assert "http://***@proxy:3128" in found.fact
    assert "s3cr3t" not in found.fact
    assert "me" not in found.fact.split()
    assert "NO_PROXY of the environment is not read" in proxy({"NO_PROXY": "*"}, proxy="http://proxy:3128").fact
    local = proxy({}, proxy="http://proxy:3128", api_url="http://127.0.0.1:1")
    assert "without it" in local.fact


def certificates(environ: dict[str, str], **flags: str) -> Finding:
    loaded = settings.load(flags, config_file=os.devnull, environ={}, need_keys=False)
    return settings_checks.certificates(loaded, settings.unread_ca_files(environ))


def test_certificates(tmp_path: Path) -> None:
    """Those of certifi, those of a file, none in a file; what the environment names is not used, and said."""
    assert "certifi" in certificates({}).fact
    found = certificates({"SSL_CERT_FILE": "/x", "SSL_CERT_DIR": "/y"})
    assert found.mark is Mark.WARNING
    assert "SSL_CERT_FILE, SSL_CERT_DIR" in found.fact
    assert found.fix == 'artifactfs mount --ca-file "$SSL_CERT_FILE" …'
    assert certificates({"SSL_CERT_DIR": "/y"}).fix is None
    # Where there is no TLS, it does not matter.
    assert certificates({"SSL_CERT_FILE": "/x"}, api_url="http://127.0.0.1:1").mark is Mark.GOOD
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    assert certificates({}, ca_file=str(file)).mark is Mark.FAULT
    assert str(file) in certificates({}, ca_file=str(file)).fact
    assert certificates({}, ca_file=str(tmp_path / "no such")).mark is Mark.FAULT
