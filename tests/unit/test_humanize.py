"""artifactfs.util.humanize: sizes and times as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.util.humanize import counted, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("4096B", 4096), ("1K", 1024), ("1k", 1024), ("1KiB", 1024), ("1KB", 1000),
        ("64MiB", 64 << 20), ("10G", 10 << 30), ("10gib", 10 << 30), ("1.5 GB", 1_500_000_000), ("1.5G", 3 << 29),
        ("2T", 2 << 40), ("1P", 1 << 50), (" 7 ", 7), ("1.5", 1),
    ],
)  # fmt: skip
def test_size_units(text: str, size: int) -> None:
    """A letter alone and `iB` are binary, `B` behind a letter is decimal, case does not matter."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", " ", "x", "-1", "1X", "1.", ".5", "1 2", "1e3", "0x10", "1GiBs", "1,5G", "inf"])
def test_what_is_no_size(text: str) -> None:
    """Anything else is refused with a sentence that repeats what was written."""
    with pytest.raises(ValueError, match="is not a size") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["9" * 20, "9" * 5000, "1" * 400 + ".5", "9000P", "9223372036854775808"])
def test_a_size_past_what_a_disk_can_hold(text: str) -> None:
    """A size of 2^63 bytes or more is a ValueError, not an overflow somewhere else."""
    with pytest.raises(ValueError, match="more than any disk"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("5min", 300.0), ("1h", 3600.0), ("2d", 172800.0),
        ("1h30m", 5400.0), ("1h 30m", 5400.0), ("500ms", 0.5), ("1.5h", 5400.0), ("1H", 3600.0), (" 3 s ", 3.0),
    ],
)  # fmt: skip
def test_duration_units(text: str, seconds: float) -> None:
    """Times are seconds without a unit; units may follow each other."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-1", "inf", "nan", "1y", "1h!", "!1h", "h", "1.", "1..5", "1e5"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused with a sentence that repeats what was written."""
    with pytest.raises(ValueError, match="is not a time") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["100000d", "1000000001", "9" * 400])
def test_a_duration_past_the_kernels_arithmetic(text: str) -> None:
    """A time that would overflow a kernel's time-out is refused."""
    with pytest.raises(ValueError, match="longer than a mount will live"):
        parse_duration(text)


@pytest.mark.parametrize("parse", [parse_size, parse_duration])
def test_a_long_wrong_text_is_refused_in_linear_time(parse: object) -> None:
    """40 digits and a typing error do not backtrack for ever (2^40 steps would outlast any test run)."""
    assert callable(parse)
    with pytest.raises(ValueError, match="is not a"):
        parse("1" * 40 + "!")


@given(st.integers(0, 2**63 - 1))
def test_plain_bytes_are_exact(size: int) -> None:
    """A number without unit is itself, however large."""
    assert parse_size(str(size)) == size


@given(st.integers(0, 4000), st.sampled_from("KMGT"))
def test_a_unit_is_a_factor(number: int, letter: str) -> None:
    """`5G`, `5g`, `5GiB` are the same; `5GB` is decimal."""
    power = "KMGT".index(letter) + 1
    assert parse_size(f"{number}{letter}") == parse_size(f"{number} {letter.lower()}iB") == number * 1024**power
    assert parse_size(f"{number}{letter}B") == number * 1000**power


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    """`1h2m3s` is the sum of its parts."""
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.text(max_size=30))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    """No text makes either parser raise anything but ValueError, or return something negative or infinite."""
    for parse, top in ((parse_size, 2**63), (parse_duration, 1e9 + 1)):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert 0 <= value < top


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (512, "512 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (3 << 19, "1.5 MiB"),
        (10 << 30, "10 GiB"), (123 << 20, "123 MiB"), (5000 << 40, "5000 TiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    """Sizes are shown in binary units with the fewest digits."""
    assert format_size(size) == text


@given(st.integers(0, 2**50))
def test_a_shown_size_reads_back_within_five_percent(size: int) -> None:
    """What is shown can be typed back, near enough."""
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.5, "500ms"), (1, "1s"), (1.5, "1.5s"), (60, "60s"), (90, "90s"), (120, "2m"), (150, "2m30s"),
        (3600, "1h"), (5400, "1h30m"), (86400, "24h"), (3601, "1h1s"), (1000.25, "1000.25s"),
    ],
)  # fmt: skip
def test_durations_to_read(seconds: float, text: str) -> None:
    """As people write them, and as they are read again."""
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (2_000, "2,000 files")])
def test_counts(count: int, text: str) -> None:
    assert counted(count, "file") == text
