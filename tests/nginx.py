"""A real nginx with the configuration of docs/nginx: its own prefix, ports, processes, and nothing of the system's."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.harness import CHECKOUT, END_S, run, wait_until
from tests.ports import held_port
from tests.processes import state_of

CONFIGURATION = os.path.join(CHECKOUT, "docs", "nginx", "artifactfs.conf")
# Debian has it where only root looks.
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

# How docs/fleets.md adds a line to the file of accounts.
_APPEND = "sudo tee -a /etc/nginx/artifactfs/accounts >/dev/null"

# How nginx names a file of its cache until the answer is whole.
_BEING_WRITTEN = re.compile(r"\.\d{10}$")

# What is around the file in /etc/nginx/nginx.conf, and no place of the system's.
_MAIN = """
{user}
daemon off;
worker_processes 2;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log {prefix}/access.log;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    types {{ text/html html; }}
    default_type application/octet-stream;
    sendfile on;
    gzip on;
    include {prefix}/artifactfs.conf;
}}
"""


@dataclass
class Nginx:
    """Where it is. `changes`: what of the file stands in other words, besides the lines marked CHANGE."""

    prefix: str
    port: int
    ca_file: str
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def path(self, *names: str) -> str:
        return os.path.join(self.prefix, *names)

    def written(self) -> str:
        """Return all logs."""
        logs = []
        for name in ("error.log", "access.log"):
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                logs.append(file.read())
        return "".join(logs)

    def cached(self) -> dict[str, bytes]:
        """Return the files of the cache, by their path, once none is still being written."""
        # An answer is complete at its reader before its file has its name.
        wait_until(lambda: not any(_BEING_WRITTEN.search(path) for path in self._files()), "the files of nginx's cache")
        found = {}
        for path in self._files():
            with open(path, "rb") as file:
                found[path] = file.read()
        return found

    def _files(self) -> list[str]:
        return [os.path.join(top, name) for top, _, names in os.walk(self.path("cache")) for name in names]


def configured(text: str, changes: Mapping[str, str]) -> str:
    """Return the configuration with parts of it replaced; each has to be there, once."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the configuration"
        text = text.replace(old, new)
    return text


def accounts(env: Mapping[str, str]) -> str:
    """Return the lines that the commands of docs/fleets.md make of keys, or of a token, in the environment."""
    with open(os.path.join(CHECKOUT, "docs", "fleets.md"), encoding="utf-8") as file:
        commands = re.findall(rf"^    (printf .*) \| {_APPEND}$", file.read(), re.MULTILINE)
    assert len(commands) == 2
    command = commands["DD_ACCESS_TOKEN" in env]
    return run("sh", "-c", command, env=env).ok().text


@contextlib.contextmanager
def nginx(
    prefix: str,
    *,
    upstream: str,
    trusted: str,
    certificate: tuple[str, str],
    accounts: str,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Nginx]:
    """Run nginx in front of `upstream` ("127.0.0.1:port"), whose certificate is in the file `trusted`.

    `certificate`: its own, for 127.0.0.1, and its key. `accounts`: the text of the file of accounts.
    """
    with held_port() as held:
        port: int = held.getsockname()[1]
        places = {
            "set $artifactfs_upstream $artifactfs_host:443;": f"set $artifactfs_upstream {upstream};",
            "/etc/ssl/certs/ca-certificates.crt": trusted,
            **(changes or {}),
        }
        with _serving(prefix, port, certificate, accounts, places) as its:
            yield its


@contextlib.contextmanager
def _serving(
    prefix: str, port: int, certificate: tuple[str, str], accounts: str, changes: Mapping[str, str]
) -> Iterator[Nginx]:
    assert NGINX is not None, "nginx is missing: .ci/setup.sh tests installs it"
    its = Nginx(prefix, port, certificate[0])
    os.makedirs(its.path("cache"), exist_ok=True)
    with open(its.path("accounts"), "w", encoding="ascii") as file:
        file.write(accounts)
    os.chmod(its.path("accounts"), 0o600)
    with open(CONFIGURATION, encoding="utf-8") as file:
        text = file.read()
    text = configured(text, {
        "/etc/nginx/artifactfs/accounts": its.path("accounts"),
        "/var/cache/nginx/artifactfs": its.path("cache"),
        "max_size=200g min_free=10g": "max_size=1g",
        "/var/log/nginx/error.log": its.path("error.log"),
        "listen 8443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/nginx/artifactfs/server.pem": certificate[0],
        "/etc/nginx/artifactfs/server.key": certificate[1],
        **changes,
    })  # fmt: skip
    with open(its.path("artifactfs.conf"), "w", encoding="utf-8") as file:
        file.write(text)
    with open(its.path("nginx.conf"), "w", encoding="utf-8") as file:
        file.write(_MAIN.format(prefix=prefix, user="user root;" if os.geteuid() == 0 else ""))
    # Before it reads its configuration it would write to a log of the system's.
    command = [NGINX, "-p", prefix, "-c", its.path("nginx.conf"), "-e", its.path("error.log")]
    run(*command, "-t").ok()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: _listens(port) or process.poll() is not None, "nginx")
        assert process.poll() is None, its.written()
        yield its
    finally:
        children = _children(process.pid)
        process.terminate()
        process.wait(END_S)
        wait_until(lambda: all(state_of(pid) in ("gone", "Z") for pid in children), "the end of nginx's workers", END_S)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(each) for each in file.read().split()]


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
