"""With -v: a line for each request to the service, when it is over.

No key is in it: keys are in headers, and those are not logged. Nor is a link that may be signed: of anything but Model
Lab's own paths, only the host is.
"""

import logging
import time

import httpx
import trio

from artifactfs import errors
from artifactfs.util.urls import API_PREFIX

log = logging.getLogger(__name__)

# A path may have 64 KiB.
_MAX_SHOWN = 500


def log_request(
    endpoint: str,
    url: httpx.URL,
    *,
    to_api: bool,
    began: float,
    status: int | None = None,
    size_bytes: int = 0,
    error: BaseException | None = None,
) -> None:
    """Log a request. `to_api`: it went to the API's origin; `began`: of time.perf_counter; `size_bytes`: received."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    _, found, below = url.raw_path.decode("ascii").partition(API_PREFIX)
    shown = below if to_api and found else f"at {url.netloc.decode('ascii')}"
    parts = [] if status is None else [str(status)]
    if isinstance(error, trio.Cancelled | GeneratorExit):
        parts.append("given up")
    elif isinstance(error, errors.ServiceError):
        # The status says it; the caller logs the rest.
        parts += [f"failed: {error}"] if error.status is None else []
    elif error is not None:
        parts.append(type(error).__name__)
    log.debug(
        "GET %s %s: %s, %d bytes, %.1f ms",
        endpoint,
        shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "…",
        ", ".join(parts),
        size_bytes,
        (time.perf_counter() - began) * 1000,
    )
