"""What somebody may have meant who wrote a name that there is not."""

import difflib
from collections.abc import Iterable

# difflib's own: `listing_tll` and `listing_ttl` have 0.91, `cache` and `cache_dir` 0.71.
_LIKE = 0.6


def nearest(name: str, known: Iterable[str], like: float = _LIKE) -> str | None:
    """Return the known name that is most like another one; None where none is like it (`like`: 1 is the same)."""
    found = difflib.get_close_matches(name, list(known), 1, like)
    return found[0] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return how a message about an unknown name ends: the nearest known one, or else all of them."""
    names = sorted(known)
    meant = nearest(name, names)
    if meant is not None:
        return f"did you mean {meant}?"
    return f"there are {', '.join(names)}" if names else "there are none"
