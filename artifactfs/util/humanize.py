"""Sizes and times as people write them, and back. Pure functions; ValueError says what was expected."""

import math
import re

# "G" alone is binary, as `ls -h`, `dd` and `du` read it; "GB" is decimal, as disks are sold.
_SIZE_UNITS = {"": 1, "B": 1} | {
    suffix: base**power
    for power, letter in enumerate("KMGTP", 1)
    for suffix, base in ((letter, 1024), (f"{letter}IB", 1024), (f"{letter}B", 1000))
}
_TIME_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
# Possessive, so that a long wrong text is refused in linear time.
_NUMBER = r"(\d++(?:\.\d++)?+)"
# What st_size and statvfs can hold.
_MAX_SIZE = 2**63
_MAX_DIGITS = 19
# About 30 years: past it a time-out overflows the kernel's and trio's arithmetic, and is a typing error anyway.
_MAX_DURATION_S = 1e9


def parse_size(text: str) -> int:
    """Return bytes for `64MiB`, `10G`, `1.5 GB`, `4096`."""
    match = re.fullmatch(_NUMBER + r"\s*([A-Za-z]*)", text.strip())
    unit = _SIZE_UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size: write it like 64MiB or 10G")
    whole, point, _ = match[1].partition(".")
    size = _MAX_SIZE if len(whole) > _MAX_DIGITS else int(float(match[1]) * unit) if point else int(whole) * unit
    if size >= _MAX_SIZE:
        raise ValueError(f"{text!r} is more than any disk holds")
    return size


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `1 file`, `2,000 files`; `plural` where that is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def parse_duration(text: str) -> float:
    """Return seconds for `90`, `90s`, `5m`, `1h`, `1h30m`, `500ms`."""
    parts = re.findall(_NUMBER + r"\s*([A-Za-z]*)\s*", text.strip())
    if not parts or re.fullmatch(rf"(?:{_NUMBER}\s*+[A-Za-z]*+\s*+)++", text.strip()) is None:
        raise ValueError(f"{text!r} is not a time: write it in seconds, or like 90s, 5m, 1h")
    seconds = 0.0
    for number, unit in parts:
        if unit.lower() not in _TIME_UNITS:
            raise ValueError(f"{text!r} is not a time: {unit!r} is no unit; use ms, s, m, h or d")
        seconds += float(number) * _TIME_UNITS[unit.lower()]
    if not math.isfinite(seconds) or seconds > _MAX_DURATION_S:
        raise ValueError(f"{text!r} is longer than a mount will live")
    return seconds


def format_size(size_bytes: int) -> str:
    """Return `512 B`, `1.5 MiB`, `10 GiB`: three digits at most, binary units."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Return `500ms`, `90s`, `5m`, `1h30m`, in a form that `parse_duration` reads."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    if seconds != int(seconds) or seconds < 120:
        return f"{seconds:g}s"
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return "".join(f"{count}{unit}" for count, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if count)


def format_span(seconds: float) -> str:
    """Return `12 s`, `5 min`, `3 h 20 min`, `2 d 4 h`, for readers."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
