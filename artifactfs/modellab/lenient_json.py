"""The almost-JSON of some encoders, repaired: an odd value costs its own row, not the whole listing.

The faults are of numbers (`NaN`, `Infinity`, out of range) and of text (lone surrogates, broken UTF-8, control
characters that are not escaped). `loads` decodes a small answer; `Repair` makes strict JSON of an answer in pieces.
Anything else that is no JSON stays none.

What is hard: no repair may produce another file's *name*. yajl reads a lone surrogate as `?`, which may be such a
name. So an unreadable part of a text becomes a NUL, which no filesystem can hold (docs/semantics.md 1.3).
"""

import codecs
import json
import math
import re
from typing import Any

# Longer numbers are refused: Python's own limit for integers is 4,300 digits.
_MAX_DIGITS = 300
# Of a longer number the rest is dropped: its value does not matter. Arbitrary.
_MAX_WORD = 64 << 10
_MAX_INTEGER = 2**63 - 1

_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_TEXT = rf'(?:[^"\\\x00-\x1f\ud800-\udfff]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{{4}}|{_PAIR})*+'
_SOUND_TEXT = re.compile(_TEXT)
# Sound JSON between texts, and whole texts. A number of up to 15 digits is in range.
_SOUND = re.compile(rf'(?:[ \t\r\n\[\]{{}},:]++|"{_TEXT}"|(?:true|false|null|-?[0-9]{{1,15}})(?=[ \t\r\n\]}},]))*+')
_WORD = re.compile(r'[^ \t\r\n\[\]{},:"]+')
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(_INTEGER.pattern + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DIGITS = re.compile(r"[-+.0-9eE]*")
_CONSTANTS = frozenset({"NaN", "Infinity", "-Infinity"})
_LONE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
# An escape and the next one, which may be the other half of a pair.
_TWO_ESCAPES = 12


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_float, strict=False)


def loads(body: bytes) -> Any:
    """Decode an answer. Raises ValueError, RecursionError.

    Numbers that are too long or too large become their text, NaN and Infinity floats; lone surrogates, and bytes
    that are not UTF-8, become lone surrogates.
    """
    return _decoder.decode(body.decode("utf-8", "surrogateescape"))


class Repair:
    """Makes strict JSON, in ASCII or UTF-8, of an answer in pieces. Numbers out of range become null."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._in_text = False
        self._in_number = False
        # The end of the last piece, where that may be half of an escape, a number or a word.
        self._held = ""

    def feed(self, piece: bytes, *, final: bool = False) -> bytes:
        """Return the input so far that was not returned yet, repaired. `final`: nothing follows."""
        text = self._held + self._utf8.decode(piece, final)
        self._held = ""
        sound: list[str] = []
        at = _end(_DIGITS, text, 0) if self._in_number else 0
        self._in_number = self._in_number and at == len(text)
        while at < len(text):
            end = _end(_SOUND_TEXT if self._in_text else _SOUND, text, at)
            sound.append(text[at:end])
            if end == len(text):
                break
            repaired, at = self._text(text, end, final) if self._in_text else self._word(text, end, final)
            sound.append(repaired)
            if at == end:
                self._held = text[at:]
                break
        # A lone surrogate outside of a text is no JSON, and stays none.
        return "".join(sound).encode("utf-8", "surrogateescape")

    def _text(self, text: str, at: int, final: bool) -> tuple[str, int]:
        """Return the repair of the fault at `at` within a text, and its end; the end `at` means that more must come."""
        character = text[at]
        if character == '"':
            self._in_text = False
            return character, at + 1
        if character != "\\":
            return "\\u0000" if character >= "\ud800" else f"\\u{ord(character):04x}", at + 1
        if len(text) - at < _TWO_ESCAPES and not final:
            return "", at
        if _LONE.match(text, at):
            return "\\u0000", at + 6
        return text[at : at + 2], at + 2

    def _word(self, text: str, at: int, final: bool) -> tuple[str, int]:
        """Return the repair of the number or word at `at`, or the beginning of a text; as `_text`."""
        if text[at] == '"':
            self._in_text = True
            return '"', at + 1
        end = _end(_WORD, text, at)
        word = text[at:end]
        if end == len(text) and not final:
            if len(word) <= _MAX_WORD:
                return "", at
            self._in_number = _DIGITS.fullmatch(word) is not None
            return "null" if self._in_number else word, end
        return "null" if word in _CONSTANTS or _is_out_of_range(word) else word, end


def _is_out_of_range(word: str) -> bool:
    """Whether a word is a valid JSON number that int64 or a double cannot hold."""
    if _INTEGER.fullmatch(word):
        return len(word) > _MAX_DIGITS or abs(int(word)) > _MAX_INTEGER
    return _NUMBER.fullmatch(word) is not None and not math.isfinite(float(word))


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
