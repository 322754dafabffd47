"""Exponential backoff: the pause before an attempt that follows a failure."""

import random
from collections.abc import Callable

# Full jitter: a random pause up to base * 2^attempt. Arbitrary within what a waiting shell bears.
_BASE_S = 0.2
_CAP_S = 5.0


def backoff_s(attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the pause before attempt number `attempt` + 1 (the first is 1), with full jitter."""
    return uniform(0.0, min(_CAP_S, _BASE_S * 2**attempt))
