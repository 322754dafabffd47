"""Suggests a known name for an unknown one."""

import difflib
from collections.abc import Iterable

# difflib's default: `listing_tll` and `listing_ttl` have 0.91, `cache` and `cache_dir` 0.71.
_LIKE = 0.6


def nearest(name: str, known: Iterable[str], like: float = _LIKE) -> str | None:
    """Return the most similar known name; None where none is similar (`like`: 1 is the same)."""
    found = difflib.get_close_matches(name, list(known), 1, like)
    return found[0] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return the fix for an unknown name: the most similar known one, or else all of them."""
    names = sorted(known)
    meant = nearest(name, names)
    if meant is not None:
        return f"did you mean {meant}?"
    return f"there are {', '.join(names)}" if names else "there are none"
