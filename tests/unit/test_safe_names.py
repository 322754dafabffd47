"""artifactfs.tree.safe_names: names of runs and projects as names of files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.tree.safe_names import named, number_of, parse_id

IDS = st.integers(1, 2**63 - 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("baseline", b"baseline~7"),
        ("", b"~7"),
        ("llm-benchmark/Qwen3-8B", b"llm-benchmark_Qwen3-8B~7"),
        ("a\0b\nc\x1b[31md\x7f\x85", b"a_b_c_[31md__~7"),
        ("\u202egpj.exe", b"_gpj.exe~7"),
        ("line\u2028end\ud800", b"line_end_~7"),
        (".", b".~7"),
        ("..", b"..~7"),
        ("v2~8", b"v2~8~7"),
        ("modèle 한국 🤗", "modèle 한국 🤗~7".encode()),
        ("nai\u0308ve", "nai\u0308ve~7".encode()),
        ("100%#?&+ *", b"100%#?&+ *~7"),
    ],
)
def test_a_name_made_safe(name: str, shown: bytes) -> None:
    """1: `/`, NUL and controls are replaced, all else is the server's, unchanged."""
    assert named(name, 7) == shown
    assert number_of(shown) == 7


@pytest.mark.parametrize("character", ["x", "é", "한", "🤗"])
def test_a_long_name_is_cut_at_a_character(character: str) -> None:
    """1: 255 bytes at most with the id, and no half of a character."""
    found = named(character * 300, 2**63 - 1)
    assert 255 - len(character.encode()) < len(found) <= 255
    assert set(found.decode()[:-20]) == {character}
    assert found.endswith(b"~9223372036854775807")


@given(st.text(max_size=400) | st.text(st.characters(codec=None, categories=["Cs", "Cc", "Lo"]), max_size=400), IDS)
def test_any_name_can_be_a_file_and_leads_back(name: str, number: int) -> None:
    """1, 1.3: whatever a server calls it, it is one name in valid UTF-8, and its id is found again."""
    found = named(name, number)
    assert 2 <= len(found) <= 255
    assert b"/" not in found
    assert b"\0" not in found
    assert found not in (b".", b"..")
    assert not any(ord(character) < 32 for character in found.decode())
    assert number_of(found) == number


@given(IDS, IDS, st.text(max_size=300), st.text(max_size=300))
def test_two_ids_never_have_one_name(one: int, other: int, its: str, others: str) -> None:
    """1: the id makes it unique, whatever the names are."""
    assert (named(its, one) == named(others, other)) <= (one == other)


@pytest.mark.parametrize(
    "name", [b"", b"7", b"x", b"x~", b"x~0", b"x~07", b"x~+7", b"x~7 ", b"x~7~", b"x~9223372036854775808", b".hidden"]
)
def test_what_is_no_such_name(name: bytes) -> None:
    """1: what desktops probe, and typing errors, are known by their look."""
    assert number_of(name) is None


def test_ids() -> None:
    """1.2: decimal, without sign or leading zero, up to 2^63-1."""
    assert [parse_id(name) for name in (b"1", b"9223372036854775807")] == [1, 2**63 - 1]
    assert {parse_id(name) for name in (b"", b"0", b"01", b"-1", b"1.0", b"9223372036854775808")} == {None}
