"""Statement 6.1 of the contract, as far as `artifactfs doctor` has a part in it: what it shows, and what it keeps."""

import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests.answers import ok, raw
from tests.contract.test_semantics_6_keys import echo, watching
from tests.doctoring import Told, ask
from tests.harness import Lab, Shell
from tests.leaks import Watched


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Two servers, keys of their own, and every place in which they might turn up."""
    with watching(str(tmp_path)) as each:
        yield each


@pytest.fixture
def listener() -> Iterator[tuple[int, list[int]]]:
    """A port that counts who comes, and hangs up."""
    came: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                came.append(1)
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY", "http_proxy")


@pytest.mark.parametrize("site", [True, False], ids=["a site", "loopback"])
def test_the_environment_is_not_read(
    site: bool, shell: Shell, lab: Lab, listener: tuple[int, list[int]], tmp_path: Path
) -> None:
    """6.1: the doctor shows the proxy and CA settings as they are used; ignored variables are named.

    No request reaches the proxy that the environment names, and its password is not said.
    """
    port, came = listener
    proxy = f"http://me:pass-word-of-proxy@127.0.0.1:{port}"
    (tmp_path / "ca.pem").write_text("no certificate at all\n")
    env = dict.fromkeys(PROXIES, proxy) | {
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "SSLKEYLOGFILE": str(tmp_path / "tls"),
    }
    # A site of this name does not exist: so no key leaves this machine, whatever is wrong.
    where = ("--site", "datadoghq.invalid") if site else ("--api-url", lab.url)
    done = shell.cli("doctor", "--json", "--deadline", "5s", *where, env=env)
    told = Told(done)
    told.says("proxy", "warning", "HTTPS_PROXY", "not read", '--proxy "$HTTPS_PROXY"')
    if site:
        told.says("certificates", "warning", "certifi", "SSL_CERT_FILE", '--ca-file "$SSL_CERT_FILE"')
        told.says("service", "fault", "datadoghq.invalid")
    else:
        told.says("service", "good", "is a Model Lab")
    assert came == []
    assert "pass-word" not in done.text + done.err
    assert not (tmp_path / "tls").exists()


def test_a_proxy_of_the_settings(shell: Shell, lab: Lab, listener: tuple[int, list[int]]) -> None:
    """6.1: a proxy of the settings is shown by the doctor, without its password, and never used for loopback."""
    port, came = listener
    proxy = ("--proxy", f"http://me:pass-word-of-proxy@127.0.0.1:{port}")
    told = ask(shell, *proxy, code=0)
    told.says("proxy", "good", f"http://***@127.0.0.1:{port}", "without it")
    assert came == []
    done = shell.cli("doctor", "--json", "--deadline", "5s", "--site", "datadoghq.invalid", *proxy)
    told = Told(done)
    told.says("service", "fault", f"through the proxy http://***@127.0.0.1:{port}")
    assert came != []
    assert "pass-word" not in done.text + done.err + json.dumps(told.checks)


ANSWERS = {
    "as it should be": None,
    "a refusal": raw(ok(b'{"errors":["Forbidden"]}', status="403 X")),
    "keys in a page": echo("200 OK"),
    "keys in a redirect": echo("302 X", "Location: ftp://host/"),
    "keys in a limit": echo("429 X", "X-RateLimit-Reset: 1\r\nX-RateLimit-Name: "),
    "no HTTP": raw(b"\0\1\2"),
}


@pytest.mark.parametrize(("name", "form"), list(zip(ANSWERS, itertools.cycle([(), ("--json",)]))))
def test_the_keys_of_the_doctor(name: str, form: tuple[str, ...], watched: Watched) -> None:
    """6.1: whatever the service answers to the doctor, the keys are in headers to the API, and nowhere else."""
    run_id = watched.api.plant()
    answer = ANSWERS[name]
    if answer is not None:
        watched.api.runs = answer
    options = ("--deadline", "2s", "--api-url", watched.api.url, "--run", str(run_id))
    watched.said.append(watched.shell.cli("doctor", *form, *options))
    assert watched.said[-1].code in (ExitCode.OK, ExitCode.UNHEALTHY)
    assert "Traceback" not in watched.said[-1].err
    assert watched.leaks() == []
    assert watched.api.received
    for asked in watched.api.received:
        assert asked.header("dd-application-key") == watched.keys[1]


def test_a_redirect_of_the_doctor(watched: Watched) -> None:
    """6.1: a redirect of a file is followed by the doctor as by a mount: without the keys."""
    run_id = watched.api.plant(
        content=lambda _: iter([ok(b"", f"Location: {watched.elsewhere.url}/a", status="307 X")])
    )
    watched.said.append(watched.shell.cli("doctor", "--json", "--api-url", watched.api.url, "--run", str(run_id)))
    told = Told(watched.said[-1])
    assert "redirect" in told.checks["contents"]["fact"]
    assert watched.elsewhere.received
    assert all(asked.header("dd-api-key") is None for asked in watched.elsewhere.received)
    assert watched.leaks() == []


def test_plain_http(shell: Shell) -> None:
    """6.1: the doctor refuses plain http except for loopback, as a finding, and sends no request."""
    told = Told(shell.cli("doctor", "--json", "--api-url", "http://192.0.2.1"))
    told.says("settings", "fault", "plain http", "https")
    told.says("service", "skipped")


def test_a_config_file_that_others_read(shell: Shell, lab: Lab) -> None:
    """6.2: keys in a config file that others can read are a finding of the doctor's, with what fixes it."""
    os.makedirs(shell.path("config/artifactfs"))
    path = shell.path("config/artifactfs/config.toml")
    Path(path).write_text(f'app_key = "{lab.app_key}"\n', "ascii")
    os.chmod(path, 0o644)
    told = ask(shell, code=ExitCode.UNHEALTHY)
    told.says("settings", "fault", f"chmod 600 {path}")
    assert told.requests == {}
