"""Mounts of several machines behind a real nginx, as docs/fleets.md configures it."""

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.harness import Lab, Mount, Shell
from tests.nginx import Nginx, accounts, nginx
from tests.tlsproxy import TlsProxy, certificate, tls_proxy

HOST = "api.datadoghq.com"
CONTENT = "/api/v2/model-lab-api/artifacts/content"
RUNS = "/api/v2/model-lab-api/runs"
# As long as any test may last: that a listing gets old is a test of its own.
LONG = {"proxy_cache_valid 200 20s;": "proxy_cache_valid 200 1h;"}


@dataclass
class Fleet:
    """A lab, TLS in front of it, nginx in front of that, and machines that mount through it."""

    lab: Lab
    front: TlsProxy
    proxy: Nginx
    shell: Shell

    def mount(self, machine: str, *options: str, env: Mapping[str, str | None] | None = None) -> Mount:
        """Mount on a machine of that name, which has a cache of its own; what that cost is not counted."""
        return self.shell.mount(*self.options(machine), *options, name=machine, env=env)

    def options(self, machine: str) -> tuple[str, ...]:
        cache = self.shell.path(f"cache of {machine}")
        proxy = ("--api-url", self.proxy.url, "--ca-file", self.proxy.ca_file, "--version-header")
        return (*proxy, "--cache-dir", cache, "--prefetch", "off")

    def get(self, target: str, as_written: Mapping[str, str] | None = None, /, **headers: str) -> "Got":
        """Ask nginx as curl would; `headers` with underscores for dashes, except for those `as_written`."""
        request = urllib.request.Request(self.proxy.url + target, headers=dict(as_written or {}))
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        context = ssl.create_default_context(cafile=self.proxy.ca_file)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=30) as answer:
                return Got(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Got(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    @property
    def keys(self) -> dict[str, str]:
        return {"DD_API_KEY": self.lab.api_key, "DD_APPLICATION_KEY": self.lab.app_key}


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes


@contextlib.contextmanager
def running(shell: Shell, lab: Lab, changes: Mapping[str, str], *, trusted: str | None = None) -> Iterator[Fleet]:
    upstream = certificate(shell.make_directory("upstream"), HOST)
    own = certificate(shell.make_directory("own"), "127.0.0.1")
    known = accounts({"DD_API_KEY": lab.api_key, "DD_APP_KEY": lab.app_key})
    known += accounts({"DD_ACCESS_TOKEN": lab.access_token}).replace("research", "others")
    with (
        tls_proxy(lab.port, *upstream, connect=False) as front,
        nginx(
            shell.make_directory("nginx"),
            upstream=f"127.0.0.1:{front.port}",
            trusted=trusted or upstream[0],
            certificate=own,
            accounts=known,
            changes=changes,
        ) as proxy,
        contextlib.closing(shell),
    ):
        yield Fleet(lab, front, proxy, shell)


def read(mounted: Mount, run_id: int) -> str:
    """List a run and read all of it; returns digests by name."""
    return mounted.sh('cd "$M/runs/$1" && find . -type f | sort | xargs -d "\\n" sha256sum', run_id).ok().text
