r"""Untrusted text for a terminal: one line, without control sequences and invisible characters.

Invisible characters are escaped as in Python: a newline is `\n`, an escape sequence begins with `\x1b`, a change of
the writing direction is `\u202e`, a byte that is not UTF-8 is `\udcff`. Printable text stays as it is, backslashes
included, so that a path can be copied. Escaping is idempotent.
"""

import os
import re
import shlex

# Printable to Python (str.isprintable), yet invisible: Unicode's Default_Ignorable_Code_Point outside of Cf and Cn
# (DerivedCoreProperties.txt), and the blank Braille pattern.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def one_line(text: str) -> str:
    r"""Return a text with all invisible characters escaped: a newline is `\n`, an escape sequence `\x1b[…`."""
    if text.isprintable() and _UNSEEN.search(text) is None:
        return text
    return "".join(c if _is_seen(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def shell_word(text: str) -> str:
    r"""Return a text quoted for a shell, for commands to paste; `one_line` does not change the result.

    Invisible characters become `$'…'` with the bytes in octal, which bash, zsh, ksh and busybox read (POSIX since
    2024). A control character in plain quotes would reach the terminal.
    """
    if one_line(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(c if _is_seen(c) and c not in "\\'" else _octal(c) for c in text) + "'"


def _is_seen(character: str) -> bool:
    return character.isprintable() and _UNSEEN.match(character) is None


def _octal(character: str) -> str:
    # Always three digits: the next character may be a digit.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
