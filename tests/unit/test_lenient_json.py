"""artifactfs.modellab.lenient_json: what some encoders write in place of JSON, made JSON, in pieces and at once."""

import itertools
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.modellab.lenient_json import Repair, loads


def repaired(whole: bytes, *cuts: int) -> bytes:
    """Repair a body that comes in pieces, cut at these places."""
    repair = Repair()
    pieces = [repair.feed(whole[start:end]) for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)])]
    return b"".join(pieces) + repair.feed(b"", final=True)


def strict(value: Any) -> Any:
    """Return a value as strict JSON has it: what has no number is null, what is no text has NULs."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    if isinstance(value, str):
        joined = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return re.sub("[\ud800-\udfff]", "\0", joined)
    if isinstance(value, list):
        return [strict(each) for each in value]
    return {strict(key): strict(each) for key, each in value.items()} if isinstance(value, dict) else value


_TEXTS = st.text(st.characters(categories=None) | st.sampled_from('"\\\ud83d\ude00\ud800\x01u/'), max_size=6)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=15,
)


@given(_VALUES, st.data(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]))
def test_any_value_however_it_is_cut(value: object, data: st.DataObject, separators: tuple[str, str]) -> None:
    """Whatever Python writes as JSON comes out as strict JSON of the same value, in pieces of any length."""
    whole = json.dumps(value, separators=separators).encode()
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
    found = json.loads(repaired(whole, *cuts), parse_constant=lambda name: pytest.fail(name))
    assert found == strict(json.loads(whole))


@given(_VALUES)
def test_what_is_sound_stays_as_it_is(value: object) -> None:
    """Strict JSON in UTF-8 comes out byte for byte."""
    whole = json.dumps(strict(value), ensure_ascii=False).encode()
    assert repaired(whole) == whole
    assert b"".join(map(repaired, [whole[:0], whole])) == whole


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_no_bytes_become_json_that_were_none(body: bytes, cuts: list[int]) -> None:
    """Anything at all goes through; what comes out is JSON only where `loads` takes it, too; cuts change nothing."""
    found = repaired(body, *(min(cut, len(body)) for cut in cuts))
    assert found == repaired(body)
    try:
        json.loads(found)
    except ValueError:
        return
    loads(body)


@pytest.mark.parametrize(
    ("odd", "sound"),
    [
        (b"NaN", b"null"), (b"-Infinity", b"null"), (b"1e400", b"null"), (b"9" * 5000, b"null"),
        (b"9223372036854775807", b"9223372036854775807"), (b"9223372036854775808", b"null"),
        (b"-1.5e-400", b"-1.5e-400"),
        (b'"\xff"', b'"\\u0000"'), (b'"\xed\xa0\x80"', b'"' + b"\\u0000" * 3 + b'"'), (b'"\\ud800x"', b'"\\u0000x"'),
        (b'"\\ude00\\ud83d"', b'"\\u0000\\u0000"'), (b'"\\ud83d\\ude00"', b'"\\ud83d\\ude00"'),
        (b'"\\ud83d\\ud83d\\ude00"', b'"\\u0000\\ud83d\\ude00"'), (b'"a\tb\x1f"', b'"a\\u0009b\\u001f"'),
        (b'"NaN 1e400"', b'"NaN 1e400"'), (b'"\\\\"', b'"\\\\"'), (b'"\\\\ud800"', b'"\\\\ud800"'),
        (b"[NaN,-Infinity]", b"[null,null]"), (b'{"a":NaN}', b'{"a":null}'),
        # No JSON of any kind: left to the decoder, which refuses it.
        (b"nan", b"nan"), (b"01", b"01"), (b"+1", b"+1"), (b"NaNx", b"NaNx"), (b'"\\x"', b'"\\x"'), (b"<p>", b"<p>"),
    ],
)  # fmt: skip
def test_repairs(odd: bytes, sound: bytes) -> None:
    """Numbers that no decoder takes are null, text that is none has a NUL; nothing else is touched."""
    assert repaired(odd) == sound
    assert repaired(odd, *range(len(odd))) == sound


@pytest.mark.parametrize("digits", [60_000, 70_000, 1_000_000])
@pytest.mark.parametrize("size", [1_000, 30_000, 256 << 10])
def test_a_number_almost_without_end(digits: int, size: int) -> None:
    """6.4: a number of a million digits is null, and is not kept until it ends; what follows it stays."""
    whole = b'{"a":-%b.5e7,"b":[1,"%b"]}' % (b"9" * digits, b"9" * 100)
    assert repaired(whole, *range(0, len(whole), size)) == b'{"a":null,"b":[1,"%b"]}' % (b"9" * 100)
    word = b"[%b]" % (b"a" * digits)
    assert repaired(word, *range(0, len(word), size)) == word


def test_a_small_answer_at_once() -> None:
    """What is odd stays to be seen: numbers that are too large as their text, NaN as such, surrogates as they are."""
    digits = b"9" * 5000
    found = loads(b'[1,1.5,NaN,-Infinity,1e400,%b,"\\ud800","\xff","\x01"]' % digits)
    assert repr(found[2]) == "nan"
    assert found[:2] + found[3:] == [1, 1.5, -math.inf, "1e400", digits.decode(), "\ud800", "\udcff", "\x01"]
    for body in (b"", b"[", b"<p>", b"01", b"\xff\xfe[\x00"):
        with pytest.raises(ValueError, match=r".*"):
            loads(body)
