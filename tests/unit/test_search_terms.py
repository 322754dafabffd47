"""artifactfs.tree.search_terms: the words of a search (docs/semantics.md 1.8)."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.domain import ParamTest, RunFilter
from artifactfs.tree.safe_names import facet_name, text_of
from artifactfs.tree.search_terms import BadTerm, parse, parse_parts, words_of

OWNER = "1d45ac49-1e4e-11f1-8c3a-42221ed6388d"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("lora", RunFilter(text="lora")),
        ("lora  rank", RunFilter(text="lora rank")),
        ("'status:failed it said'", None),
        ("STATUS:Failed", RunFilter(status="failed")),
        ("tag:team=vision tag:a=", RunFilter(tags=(("team", "vision"), ("a", "")))),
        ("tag:'a b'='c d'", RunFilter(tags=(("a b", "c d"),))),
        ("param:lr>0.001", RunFilter(params=(ParamTest("lr", "0.001", ">"),))),
        ("param:lr>=1e-3 param:lr<=.5", RunFilter(params=(ParamTest("lr", "1e-3", ">="), ParamTest("lr", ".5", "<=")))),
        ("param:model=a:b=c", RunFilter(params=(ParamTest("model", "a:b=c"),))),
        (f"owner:{OWNER.upper()}", RunFilter(owner=OWNER)),
        ("project:2387 parent:none x", RunFilter(project_id=2387, parent=0, text="x")),
        ("parent:7", RunFilter(parent=7)),
        ("http://x", None),
    ],
)
def test_terms(words: str, wanted: RunFilter | None) -> None:
    """1.8: terms, text, and both."""
    if wanted is None:
        with pytest.raises(BadTerm):
            parse(words)
    else:
        assert parse(words) == wanted
        assert parse(words_of(wanted)) == wanted


@pytest.mark.parametrize(
    "words",
    [
        "", " ", "''", "'a", "status:done", "status:failed status:killed", "colour:red", "tag:x", "tag:=x", "param:lr",
        "param:lr>", "param:lr>x", "param:>1", "owner:me", "project:vision", "project:0", "parent:x", "parent:-1",
        "project:1 project:2",
    ],
)  # fmt: skip
def test_what_means_nothing(words: str) -> None:
    """1.8: a term that is unknown, or that cannot be, is refused with the reason."""
    with pytest.raises(BadTerm, match=r"[a-z]"):
        parse(words)


def test_words_that_a_shell_has_split() -> None:
    """1.8: `artifactfs search` takes each argument as it is: what quotes hold together stays so."""
    assert parse_parts(["tag:team=a b", "it's"]) == RunFilter(text="it's", tags=(("team", "a b"),))


@pytest.mark.parametrize("word", [b"\xff", b"tag:x=\xff", b"param:\xff=1", b"status:\xff"])
def test_words_that_are_no_text(word: bytes) -> None:
    """1.8: bytes that are not UTF-8 cannot be looked for, wherever they stand."""
    with pytest.raises(BadTerm, match="UTF-8"):
        parse_parts(["lora", os.fsdecode(word)])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), unique=True))
def test_names_of_values(texts: list[str]) -> None:
    """1.7: each text has a name of its own in at most 255 bytes; a name that is a text stands for that text alone."""
    names = [facet_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name, text in zip(names, texts, strict=True):
        assert 0 < len(name) <= 255
        assert b"/" not in name
        assert b"\0" not in name
        assert text_of(name) in (None, text)
        assert (text_of(name) == text) == (name == text.encode())
