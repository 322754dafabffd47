"""What the environment holds that other programs heed and artifactfs does not: said by `doctor`, never used.

curl, pip and httpx take proxies and certificates from these; semantics 6.1 forbids that here, and who relies on them
should hear it.
"""

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from artifactfs.util.urls import parse_proxy

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
_CA_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Unread:
    """A variable that is set and not read. `option`: the one that would do what it asks for; None: none can."""

    name: str
    option: str | None


def unread_proxies(environ: Mapping[str, str] = os.environ) -> list[Unread]:
    """Return the variables that other programs would take a proxy from. Never their values: one may be a password."""
    return [Unread(name, "--proxy" if _is_proxy(environ[name]) else None) for name in PROXIES if environ.get(name)]


def unread_exceptions(environ: Mapping[str, str] = os.environ) -> list[Unread]:
    """Return the variables that other programs would take hosts from that they ask without a proxy."""
    return [Unread(name, None) for name in ("NO_PROXY", "no_proxy") if environ.get(name)]


def unread_ca_files(environ: Mapping[str, str] = os.environ) -> list[Unread]:
    """Return the variables that other programs would take certificates from; of a directory of them, none here can."""
    found = [Unread(name, "--ca-file") for name in _CA_FILES if environ.get(name)]
    return [*found, *([Unread("SSL_CERT_DIR", None)] if environ.get("SSL_CERT_DIR") else [])]


def _is_proxy(text: str) -> bool:
    try:
        parse_proxy(text)
    except ValueError:
        return False
    return True


def without_password(proxy: str) -> str:
    """Return a proxy's URL as it may be shown: without user name and password."""
    parts = urllib.parse.urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
