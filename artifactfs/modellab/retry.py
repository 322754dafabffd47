"""How often a request is sent, and after which failures. `transport.py` sends it.

The official client retries the same statuses, except 508 and all past 512; proxies send those, too.
"""

from collections.abc import Callable

import msgspec

from artifactfs import errors
from artifactfs.util import backoff

RETRIED = frozenset({408, 429, *range(500, 600)} - {501})


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often a request is sent, and the seconds before each attempt after a failed one (the first failed is 1)."""

    max_attempts: int = 4
    backoff_s: Callable[[int], float] = backoff.backoff_s


class KeysRefused(errors.AccessDenied):
    """The API refused the keys of a generation. `denied`: the exception that the caller gets."""

    def __init__(self, denied: errors.AccessDenied, generation: int) -> None:
        super().__init__(denied.fact, denied.status)
        self.denied = denied
        self.generation = generation
