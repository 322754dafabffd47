"""Texts that a terminal would obey, that turn the direction of writing, or that no user sees; and how to find them."""

import unicodedata

# By what each is; each is a legal name of a file except for NUL and "/".
NASTY = {
    "escape": "esc\x1b[31m\x1b]0;x\x07",
    "every C0": "".join(map(chr, range(1, 32))),
    "DEL": "del\x7f",
    "every C1": "".join(map(chr, range(0x80, 0xA0))),
    "CSI of one character": "\x9b31m red",
    "line ends": "a\nb\r\nc\x0bd\x0ce\x85f\u2028g\u2029h",
    "a line of ours": "x\nartifactfs: all is well",
    "bidirectional": "".join(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))),
    "zero width": "\u200b\u200c\u200d\u2060\u2064\ufeff\u00ad\u180e",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "fillers": "\u115f\u1160\u3164\uffa0\u034f\u2800\ufe0f\U000e0100",
    "blanks": "\u00a0\u2003\u3000",
    "of no meaning": "\ue000\ufdd0\U0010ffff",
}
# Bytes that are no UTF-8, as Python reads them from arguments and tables: of C1 to a terminal that is no UTF-8 itself.
NOT_UTF8 = "\udc9b31m\udc9d0;x\udc9c\udcff"
_UNSEEN = "\u115f\u1160\u3164\uffa0\u034f\u2800\u17b4\u17b5\u180b\u180c\u180d\u180f"


def obeyed(text: str) -> set[str]:
    """Return the characters of a text that no terminal should get, except for the newline."""
    bad = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    selectors = (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
    return {
        c
        for c in set(text) - {"\n"}
        if unicodedata.category(c) in bad or c in _UNSEEN or ord(c) in selectors or (c.isspace() and c != " ")
    }
