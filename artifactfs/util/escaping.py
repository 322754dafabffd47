r"""Text of others as a terminal can show it: one line, with nothing in it that a terminal obeys or an eye cannot see.

What is hidden is written out as Python writes it: a newline is `\n`, an escape sequence begins with `\x1b`, a character
that turns the direction of writing is `\u202e`, a byte that is no UTF-8 is `\udcff`. Printable text stays as it is, a
backslash too, so that a path can be copied; escaping a text twice is escaping it once.
"""

import os
import re
import shlex

# Printable to Python (str.isprintable), and yet nothing on a screen, or a blank: Unicode's Default_Ignorable_Code_Point
# outside of Cf and Cn (DerivedCoreProperties.txt), and the blank of Braille.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def one_line(text: str) -> str:
    r"""Return a text with everything escaped that is not to be seen: a newline is `\n`, an escape sequence `\x1b[…`."""
    if text.isprintable() and _UNSEEN.search(text) is None:
        return text
    return "".join(c if _is_seen(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def shell_word(text: str) -> str:
    r"""Return a text as it is typed in a shell, for commands that a user is to paste: `one_line` leaves it as it is.

    Where an escape is needed it is `$'…'` with the bytes in octal, which bash, zsh, ksh and busybox read (POSIX since
    2024); a quoted control character would reach the terminal.
    """
    if one_line(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(c if _is_seen(c) and c not in "\\'" else _octal(c) for c in text) + "'"


def _is_seen(character: str) -> bool:
    return character.isprintable() and _UNSEEN.match(character) is None


def _octal(character: str) -> str:
    # Always of three digits: the next character may be a digit.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
