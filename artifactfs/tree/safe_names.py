"""Names that people give, made safe as names of files (docs/semantics.md 1). Pure.

Runs and projects are `<name>~<id>`: the id makes a name unique and is all that is needed to find what it stands for;
the name is in front, so that a shell completes it. Keys and values of facets are themselves where they can be, else
`<what can be shown>~<digest>`.
"""

import hashlib
import re
import unicodedata

from artifactfs.domain import NAME_MAX_BYTES

_MAX_ID = 2**63 - 1
# Of a text that is no name. Long enough that no two of thousands are alike.
_DIGEST_BYTES = 5
_DIGESTED = re.compile(rb"~[0-9a-f]{%d}\Z" % (2 * _DIGEST_BYTES))
# Unicode's categories of what moves the cursor, ends a line or is no character at all; and the marks that turn the
# direction of a line, by which a name can look like another.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def named(name: str, number: int) -> bytes:
    """Return `<name>~<number>` in at most 255 bytes: `/`, NUL and control characters replaced, the name cut to fit."""
    end = b"~%d" % number
    safe = "".join("_" if _is_unsafe(character) else character for character in name[:NAME_MAX_BYTES])
    return safe.encode()[: NAME_MAX_BYTES - len(end)].decode(errors="ignore").encode() + end


def facet_name(text: str) -> bytes:
    """Return the name of a key or a value in at most 255 bytes: itself, or with a digest where it cannot be that.

    No two texts have the same, and `text_of` tells which names are texts.
    """
    safe = "".join("_" if _is_unsafe(character) else character for character in text[:NAME_MAX_BYTES])
    name = safe.encode()
    if name == text.encode() and text_of(name) == text:
        return name
    end = b"~%b" % hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest().encode()
    return name[: NAME_MAX_BYTES - len(end)].decode(errors="ignore").encode() + end


def text_of(name: bytes) -> str | None:
    """Return the key or value that is its own name; None for a name that is none, or that stands for another text."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    is_other = not text or text.startswith(("<", ">", ".")) or _DIGESTED.search(name) is not None
    return None if is_other or any(map(_is_unsafe, text)) or len(name) > NAME_MAX_BYTES else text


def number_of(name: bytes) -> int | None:
    """Return the id at the end of a name that `named` may have made, None for any other name."""
    return parse_id(name.rpartition(b"~")[2]) if b"~" in name else None


def parse_id(name: bytes) -> int | None:
    """Return the id of a run or project that a name is, None for what cannot be one (docs/semantics.md 1.2)."""
    if re.fullmatch(rb"[1-9][0-9]{0,18}", name) is None:
        return None
    number = int(name)
    return number if number <= _MAX_ID else None


def is_id(number: int) -> bool:
    """Whether a number can be the id of a run or project."""
    return 1 <= number <= _MAX_ID


def _is_unsafe(character: str) -> bool:
    return character == "/" or character in _TURNS or unicodedata.category(character) in _CONTROLS
