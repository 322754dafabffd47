"""Parses sites, API base URLs and proxies as users write them. Pure; the ValueError says what is wrong."""

import ipaddress
import re
import urllib.parse

# Every path of Model Lab's API begins so (model-lab-api.md).
API_PREFIX = "/api/v2/model-lab-api"

# Datadog's sites, the default first: the table of each endpoint (https://docs.datadoghq.com/api/latest/model-lab-api/).
SITES = (
    "datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com", "ap2.datadoghq.com",
    "uk1.datadoghq.com", "ddog-gov.com", "us2.ddog-gov.com",
)  # fmt: skip
_DOMAINS = tuple(site for site in SITES if site.count(".") == 1)


def is_of_datadog(host: str) -> bool:
    """Whether a host name lies in one of Datadog's own domains."""
    return f".{host.lower()}".endswith(tuple(f".{domain}" for domain in _DOMAINS))


def parse_site(text: str) -> str:
    """Return the bare site for a pasted URL: `https://app.datadoghq.eu/` is `datadoghq.eu`."""
    host = text.strip().lower()
    host = re.sub(r"^[a-z][a-z0-9+.-]*://", "", host).split("/", 1)[0].rstrip(".")
    host = re.sub(r"^(?:app|api|www)\.", "", host, count=1)
    label = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    if not re.fullmatch(rf"{label}(?:\.{label})+", host) or len(host) > 253:
        # A pasted URL may hold a password, or a key after its `?`.
        shown = re.sub(r"\?.*", "?***", re.sub(r"^(.*//)?.*@", r"\1***@", text, flags=re.DOTALL), flags=re.DOTALL)
        raise ValueError(
            f"{shown!r} is not a Datadog site: there are {', '.join(SITES)}; for another API use --api-url"
        )
    return host


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_api_url(text: str) -> str:
    """Return an API base URL without trailing slash; plain http only to loopback (docs/semantics.md 6.1)."""
    # The text before an `@` or after a `?` may be a secret: no message repeats it.
    shown = repr(re.sub(r"//.*@", "//", text.strip()).partition("?")[0])
    try:
        url = urllib.parse.urlsplit(text.strip())
        host, port = url.hostname, url.port  # `.port` raises for an invalid port
    except ValueError:
        raise ValueError(f"{shown} is not a URL") from None
    if "@" in url.netloc:
        raise ValueError("the URL must not hold a user name or password: keys have their own settings")
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment or port == 0:
        raise ValueError(f"{shown} is not an API base: give it like https://api.datadoghq.eu")
    if not is_host(host, url.netloc) or not re.fullmatch(r"[\x21-\x7e]*", url.path):
        raise ValueError(f"{shown} is not a URL for requests")
    if url.scheme == "http" and not is_loopback(host):
        raise ValueError(
            f"{shown}: plain http would show the keys to the network; use https (http is for loopback only)"
        )
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"


def parse_proxy(text: str) -> str:
    """Return the URL of an HTTP proxy. Raises ValueError."""
    # The text may hold a password, so no message repeats it.
    try:
        url = urllib.parse.urlsplit(text.strip())
        valid = url.scheme in ("http", "https") and is_host(url.hostname or "", url.netloc) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("not a proxy's URL: give it like http://proxy.example:3128")
    return text.strip()


def without_password(text: str) -> str:
    """Return a URL, or a text with URLs in it, without user names and passwords: `http://***@proxy:3128`."""
    return re.sub(r"//.*@", "//***@", text, flags=re.DOTALL)


def is_host(text: str, netloc: str) -> bool:
    """Whether a URL's host is a name (in ASCII, as it goes over the wire) or an address."""
    if "[" in netloc or text.rpartition(".")[2].isdigit():
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
    # Underscores occur in internal names, whatever the standard says.
    return re.fullmatch(r"[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*\.?", text) is not None
