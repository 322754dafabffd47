"""Section 6 of the contract: where keys go, and who gets in."""

import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import Mounting
from tests.harness import Lab, Shell, mount_type, needs_root, run
from tests.tlsproxy import certificate, tls_proxy


def secrets(lab: Lab) -> list[str]:
    return [lab.api_key, lab.app_key]


def test_keys_are_nowhere_to_be_seen(lab: Lab, mounting: Mounting) -> None:
    """6.1: keys are not in the verbose log, `ps`, the command line, a URL, the state or the cache."""
    mounted = mounting("-v")
    mounted.log.announce("answered 500")
    mounted.tree(sample.RUN)
    lab.fault("run", {"status": 500})
    mounted.error_of("runs", lab.new_run())
    lab.faults()

    places = [
        *mounted.log.lines(),
        # Of this test's processes: others use the same keys, and give some of them on a command line.
        run("ps", "ww", "-o", "args", "-p", ",".join(map(str, mounted.shell.processes()))).ok().text,
        run("cat", f"/proc/{mounted.pid}/cmdline").text,
    ]
    places += [entry["query"] + entry["path"] for entry in lab.stats()["log"]]
    for kept in ("home", "state", "cache", "config"):
        for top, _, files in os.walk(mounted.shell.path(kept)):
            places += [Path(top, name).read_text("latin-1") for name in files]
    assert len(mounted.log.lines()) > 3
    assert not [place for place in places for secret in secrets(lab) if secret in place]


def test_keys_go_to_no_other_origin(lab: Lab, mounting: Mounting) -> None:
    """6.1: a redirect to another origin gets no keys; it is not followed at all."""
    mounted = mounting()
    mounted.log.announce("redirect")
    for kind in ("listing", "run"):
        run_id = lab.new_run()
        elsewhere = {"Location": f"{lab.other_url}/api/v2/model-lab-api/runs/{run_id}"}
        lab.fault(kind, {"status": 307, "headers": elsewhere})
        lab.reset()
        assert mounted.error_of("runs", run_id, "a.txt") != 0
        assert [entry for entry in lab.stats()["log"] if lab.url.endswith(entry["host"])]
        assert not [entry for entry in lab.stats()["log"] if not lab.url.endswith(entry["host"])]


@pytest.mark.parametrize("how", ["environment", "option"])
def test_loopback_goes_through_no_proxy(how: str, lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.1: plain http goes to loopback only, and never through a proxy, whatever the environment says."""
    with tls_proxy(lab.port, *certificate(str(tmp_path), "127.0.0.1")) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        if how == "environment":
            names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
            mounted = shell.mount(env=dict.fromkeys(names, url))
        else:
            mounted = shell.mount("--proxy", url)
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
        assert proxy.seen == []


def test_a_site_through_a_proxy(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.1: with a site, a proxy and a CA of one's own: the proxy sees the host's name, TLS, and no key."""
    cert, key = certificate(str(tmp_path), "api.datadoghq.eu")
    mounted = shell.expected_mount()
    with tls_proxy(lab.port, cert, key) as proxy:
        options = (
            "--site",
            "https://app.datadoghq.eu/",
            "--proxy",
            f"http://127.0.0.1:{proxy.port}",
            "--ca-file",
            cert,
        )
        shell.cli("mount", *options, "--log-file", mounted.log_file, mounted.point).ok()
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
        assert {entry["host"] for entry in lab.stats()["log"]} == {"api.datadoghq.eu"}
        assert all(head.startswith(b"CONNECT api.datadoghq.eu:443 ") for head in proxy.seen)
        assert proxy.seen
        assert not [head for head in proxy.seen for secret in secrets(lab) if secret.encode() in head]
        mounted.umount()


def refused(shell: Shell, code: ExitCode, *arguments: str) -> str:
    """Try to mount, which must fail with this code in one line, and leave nothing. Returns the line."""
    mounted = shell.expected_mount()
    done = shell.cli("mount", *arguments, mounted.point)
    assert done.code == code, (done.code, done.err)
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.err
    assert mount_type(mounted.point) is None
    assert not shell.processes()
    return done.err


def test_keys_of_another_site(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """5.8: a 403 of a site names the site, and how to choose another."""
    cert, key = certificate(str(tmp_path), "api.us5.datadoghq.com")
    shell.more_env["DD_API_KEY"] = "keys-of-another-site"
    with tls_proxy(lab.port, cert, key) as proxy:
        options = ("--site", "us5.datadoghq.com", "--proxy", f"http://127.0.0.1:{proxy.port}", "--ca-file", cert)
        said = refused(shell, ExitCode.KEYS_REJECTED, *options)
    assert "us5.datadoghq.com" in said
    assert "DD_SITE" in said
    assert "keys-of-another-site" not in said


@pytest.mark.parametrize("trusted", ["nobody", "another host"])
def test_a_certificate_that_is_not_trusted(trusted: str, lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.1: a self-signed certificate, and one of another host, fail the mount before a key is sent."""
    cert, key = certificate(str(tmp_path), "127.0.0.1" if trusted == "nobody" else "api.example.com")
    options = () if trusted == "nobody" else ("--ca-file", cert)
    with tls_proxy(lab.port, cert, key, connect=False) as server:
        said = refused(shell, ExitCode.TLS_FAILED, *options, "--api-url", f"https://127.0.0.1:{server.port}")
    assert "TLS" in said
    assert lab.total() == 0


def test_a_certificate_of_ones_own(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.1: with `--ca-file` a self-signed certificate of the right host is trusted."""
    cert, key = certificate(str(tmp_path), "127.0.0.1")
    mounted = shell.expected_mount()
    with tls_proxy(lab.port, cert, key, connect=False) as server:
        url = f"https://127.0.0.1:{server.port}"
        shell.cli("mount", "--ca-file", cert, "--api-url", url, "--log-file", mounted.log_file, mounted.point).ok()
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
        mounted.umount()


def test_a_server_without_tls(lab: Lab, shell: Shell) -> None:
    """6.1: https to a server that speaks plain http is a TLS failure, never a downgrade."""
    refused(shell, ExitCode.TLS_FAILED, "--api-url", lab.url.replace("http:", "https:"))
    assert lab.total() == 0


def test_the_libraries_variables_change_nothing(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """6.1: SSL_CERT_FILE is not picked up behind our back, nor are TLS secrets written to SSLKEYLOGFILE."""
    cert, key = certificate(str(tmp_path), "127.0.0.1")
    keylog = str(tmp_path / "keylog")
    shell.more_env |= {"SSL_CERT_FILE": cert, "SSL_CERT_DIR": str(tmp_path), "SSLKEYLOGFILE": keylog}
    with tls_proxy(lab.port, cert, key, connect=False) as server:
        refused(shell, ExitCode.TLS_FAILED, "--api-url", f"https://127.0.0.1:{server.port}")
    assert not os.path.exists(keylog)


def test_a_core_dump_is_not_written(mounting: Mounting) -> None:
    """6.1: the serving process dumps no core, which would hold the keys."""
    soft, _ = resource.prlimit(mounting().pid, resource.RLIMIT_CORE)
    assert soft <= 1


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_config_that_others_can_read(mode: int, lab: Lab, shell: Shell) -> None:
    """6.2: a config file that holds keys and that others can read is refused, with the command that fixes it."""
    config = shell.path("config.toml")
    Path(config).write_text(f'api_key = "{lab.api_key}"\napp_key = "{lab.app_key}"\n', "ascii")
    os.chmod(config, mode)
    said = refused(shell, ExitCode.BAD_CONFIG, "--config", config, "--api-url", lab.url)
    assert f"chmod 600 {config}" in said
    assert not [secret for secret in secrets(lab) if secret in said]


@pytest.mark.parametrize("mode", [0o622, 0o664])
def test_a_config_with_commands_that_others_can_write(mode: int, lab: Lab, shell: Shell) -> None:
    """6.2: a config file that others can write to and that names a command is refused: it would be run as the user."""
    config, marker = shell.path("config.toml"), shell.path("was-run")
    Path(config).write_text(f'[profiles.other]\napp_key_command = "touch {marker}"\n', "ascii")
    os.chmod(config, mode)
    said = refused(shell, ExitCode.BAD_CONFIG, "--config", config, "--api-url", lab.url)
    assert f"chmod go-w {config}" in said
    assert not os.path.exists(marker)


@needs_root
def test_a_config_with_commands_of_another_user(lab: Lab, shell: Shell) -> None:
    """6.2: root does not run what another user's config file says."""
    config, marker = shell.path("config.toml"), shell.path("was-run")
    Path(config).write_text(f'app_key_command = "touch {marker}"\n', "ascii")
    os.chmod(config, 0o600)
    os.chown(config, 12347, 12347)
    said = refused(shell, ExitCode.BAD_CONFIG, "--config", config, "--api-url", lab.url)
    assert "belongs to another user" in said
    assert not os.path.exists(marker)


def test_a_key_file_that_others_can_read(lab: Lab, shell: Shell) -> None:
    """6.2: a key file that every user can read is used, as Docker and Kubernetes hand them out, with a warning."""
    mounted = shell.expected_mount()
    options = ("--api-url", lab.url, "--log-file", mounted.log_file, "--app-key-file")
    place = tempfile.mkdtemp(dir="/tmp")  # the test's own directory is closed to others
    try:
        key = Path(place, "key")
        key.write_text(lab.app_key, "ascii")
        os.chmod(key, 0o644)
        os.chmod(place, 0o755)
        done = shell.cli("mount", *options, str(key), mounted.point, env={"DD_APP_KEY": None}).ok()
        assert done.err == f"artifactfs: warning: all users of this machine can read the key in {key}; " + (
            f"run `chmod 600 {key}`\n"
        )
        mounted.umount()
        os.chmod(key, 0o640)
        assert shell.cli("mount", *options, str(key), mounted.point, env={"DD_APP_KEY": None}).ok().err == ""
    finally:
        shutil.rmtree(place)


def test_a_config_of_ones_own(lab: Lab, shell: Shell) -> None:
    """6.2: keys and settings in a config file that only its owner can read are used, as are key files."""
    config = shell.path("config/artifactfs/config.toml")
    os.makedirs(os.path.dirname(config))
    Path(config).write_text(f'api_key = "{lab.api_key}"\napi_url = "{lab.url}"\nruns_listed = 2\n', "ascii")
    os.chmod(config, 0o600)
    Path(shell.path("app-key")).write_text(lab.app_key + "\n", "ascii")
    mounted = shell.expected_mount()
    options = ("--app-key-file", shell.path("app-key"), "--log-file", mounted.log_file)
    shell.cli("mount", *options, mounted.point, env={"DD_API_KEY": None, "DD_APP_KEY": None}).ok()
    assert len(mounted.sh('ls "$M/runs"').ok().text.split()) == 2


@pytest.mark.parametrize("variable", ["DD_BEARER_TOKEN", "DD_ACCESS_TOKEN"])
def test_an_access_token(variable: str, lab: Lab, shell: Shell) -> None:
    """6.1: an access token is sent in place of keys, and is as little to be seen."""
    mounted = shell.expected_mount()
    env = {"DD_API_KEY": None, "DD_APP_KEY": None, variable: lab.access_token}
    shell.cli("mount", "-v", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point, env=env).ok()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert not mounted.log.has(lab.access_token)


def test_the_log_is_where_it_is_said_to_be(lab: Lab, shell: Shell) -> None:
    """6.2: without --log-file a mount in the background logs under the user's state directory, for him alone."""
    point = shell.expected_mount().point
    shell.cli("mount", "--api-url", lab.url, point).ok()
    logs = [
        os.path.join(top, name) for top, _, names in os.walk(shell.path("state")) for name in names if ".log" in name
    ]
    assert len(logs) == 1
    assert f"at {point}" in Path(logs[0]).read_text("utf-8")
    directory = os.path.dirname(logs[0])
    assert os.stat(directory).st_mode & 0o077 == 0
