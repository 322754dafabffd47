"""With -v: a line for each request to the service, when it is done.

No key is in it: keys are in headers, and those are not logged. Nor is a link that may be signed: of what is not Model
Lab's own path, only the host is.
"""

import logging
import time
from types import TracebackType

import httpx
import trio

from artifactfs import errors
from artifactfs.util.urls import API_PREFIX

log = logging.getLogger(__name__)

# A path may have 64 KiB.
_MAX_SHOWN = 500


class Line:
    """What there is to say of a request; this one is not said. A context, for a request that ends within it.

    `status`: of the answer; `size_bytes`: of its body, as far as it came; `error`: how the request failed.
    """

    __slots__ = ("error", "size_bytes", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.size_bytes = 0
        self.error: BaseException | None = None

    def end(self) -> None:
        """Say it, with -v."""

    def __enter__(self) -> "Line":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.error = error
        self.end()


class _SaidLine(Line):
    """One that is said."""

    __slots__ = ("_began", "_what")

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._began = time.perf_counter()

    def end(self) -> None:
        parts = [] if self.status is None else [str(self.status)]
        error = self.error
        if isinstance(error, trio.Cancelled | GeneratorExit):
            parts.append("given up")
        elif isinstance(error, errors.ServiceError) and error.status is not None:
            pass  # the status says it; the caller logs the rest
        elif error is not None:
            parts.append(f"failed: {error}" if isinstance(error, errors.ServiceError) else type(error).__name__)
        ms = (time.perf_counter() - self._began) * 1000
        log.debug("GET %s: %s, %d bytes, %.1f ms", self._what, ", ".join(parts), self.size_bytes, ms)


def begin(endpoint: str, url: httpx.URL, *, ours: bool) -> Line:
    """Return the line of a request that is about to be sent. `ours`: it goes to the API's origin."""
    if not log.isEnabledFor(logging.DEBUG):
        return Line()
    _, found, below = url.raw_path.decode("ascii").partition(API_PREFIX)
    shown = below if ours and found else f"at {url.netloc.decode('ascii')}"
    return _SaidLine(f"{endpoint} {shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + '…'}")
