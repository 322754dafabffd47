"""Finds variables that other programs read and artifactfs does not, for `doctor` to show.

curl, pip and httpx take proxies and certificates from them; docs/semantics.md 6.1 forbids that here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from artifactfs.util.urls import parse_proxy

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
_CA_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Unread:
    """A variable that is set and not read. `option`: the option with the same effect, None where there is none."""

    name: str
    option: str | None


def unread_proxies(environ: Mapping[str, str] = os.environ) -> list[Unread]:
    """Return the variables that name a proxy. Never their values, which may hold a password."""
    return [Unread(name, "--proxy" if _is_proxy(environ[name]) else None) for name in PROXIES if environ.get(name)]


def unread_exceptions(environ: Mapping[str, str] = os.environ) -> list[Unread]:
    """Return the variables that name hosts to be asked without a proxy."""
    return [Unread(name, None) for name in ("NO_PROXY", "no_proxy") if environ.get(name)]


def unread_ca_files(environ: Mapping[str, str] = os.environ) -> list[Unread]:
    """Return the variables that name CA certificates; for a directory of them there is no option."""
    found = [Unread(name, "--ca-file") for name in _CA_FILES if environ.get(name)]
    return [*found, *([Unread("SSL_CERT_DIR", None)] if environ.get("SSL_CERT_DIR") else [])]


def _is_proxy(text: str) -> bool:
    try:
        parse_proxy(text)
    except ValueError:
        return False
    return True
