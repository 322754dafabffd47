"""The words of a search, as a filter of runs (docs/semantics.md 1.8): `lora status:failed param:lr>0.001`, say.

A word with a term in front is a term, any other one is text. Quotes keep blanks together, as in a shell. Pure.
"""

import contextlib
import re
import shlex
import uuid
from collections.abc import Iterable, Sequence

import msgspec

from artifactfs.domain import STATUSES, ParamTest, RunFilter
from artifactfs.tree.safe_names import parse_id

_TERM = re.compile(r"([A-Za-z_]+):(.*)", re.DOTALL)
# The longer signs first.
_COMPARISON = re.compile(r"(.+?)(>=|<=|>|<|=)(.*)", re.DOTALL)
# As JSON writes numbers, with a sign or a bare point as people do.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


class BadTerm(ValueError):
    """A term that means nothing; the message says why."""


def parse(words: str) -> RunFilter:
    """Return the filter that words stand for. Raises BadTerm."""
    try:
        parts = shlex.split(words)
    except ValueError:
        raise BadTerm("a quotation mark is not closed") from None
    return parse_parts(parts)


def parse_parts(parts: Sequence[str]) -> RunFilter:
    """Return the filter that words stand for, which were split already. Raises BadTerm."""
    wanted, texts = RunFilter(), []
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        raise BadTerm("the words are not valid UTF-8") from None
    for part in parts:
        match = _TERM.fullmatch(part)
        if match is None:
            texts.append(part)
        elif (term := _TERMS.get(match[1].lower())) is None:
            raise BadTerm(f"{match[1]}: is no term; there are {', '.join(f'{each}:' for each in _TERMS)}")
        else:
            wanted = term(wanted, match[2])
    if not any(parts):
        raise BadTerm("there are no words")
    return msgspec.structs.replace(wanted, text=" ".join(filter(None, texts)))


def words_of(wanted: RunFilter) -> str:
    """Return words that stand for a filter; "all" for none."""
    terms = {"project": wanted.project_id, "status": wanted.status, "owner": wanted.owner}
    words = [f"{name}:{value}" for name, value in terms.items() if value is not None]
    words += [] if wanted.parent is None else [f"parent:{wanted.parent or 'none'}"]
    words += [f"tag:{key}={value}" for key, value in wanted.tags]
    words += [f"param:{test.key}{test.sign or '='}{test.value}" for test in wanted.params]
    return shlex.join([*words, *([wanted.text] if wanted.text else [])]) or "all"


def comparison(text: str) -> tuple[str, str] | None:
    """Return sign and number of a comparison such as `>=1e-3`; None for any other text."""
    match = re.match(r"(>=|<=|>|<)", text)
    if match is None or _NUMBER.fullmatch(number := text[match.end() :].strip()) is None:
        return None
    return match[1], number


def owner_of(text: str) -> str:
    """Return the owner that a text names, as the service writes it. Raises BadTerm."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise BadTerm(f"an owner is a UUID, and not {text!r}") from None


def owners_of(texts: Iterable[str | None]) -> list[str]:
    """Return the owners among texts, each once, as the service takes them; what is no owner is left out."""
    found = set()
    for text in texts:
        with contextlib.suppress(BadTerm):
            found.add(owner_of(text or ""))
    return sorted(found)


def _once(wanted: RunFilter, name: str, value: object) -> RunFilter:
    if getattr(wanted, name) not in (None, value):
        raise BadTerm(f"{name} is given twice")
    return msgspec.structs.replace(wanted, **{name: value})


def _status(wanted: RunFilter, text: str) -> RunFilter:
    if text.lower() not in STATUSES:
        raise BadTerm(f"a status is one of {', '.join(STATUSES)}, and not {text!r}")
    return _once(wanted, "status", text.lower())


def _project(wanted: RunFilter, text: str) -> RunFilter:
    return _once(wanted, "project_id", _id("a project", text))


def _owner(wanted: RunFilter, text: str) -> RunFilter:
    return _once(wanted, "owner", owner_of(text))


def _parent(wanted: RunFilter, text: str) -> RunFilter:
    return _once(wanted, "parent", 0 if text.lower() == "none" else _id("a parent", text))


def _tag(wanted: RunFilter, text: str) -> RunFilter:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise BadTerm(f"a tag is given as tag:KEY=VALUE, and not {text!r}")
    return msgspec.structs.replace(wanted, tags=(*wanted.tags, (key, value)))


def _param(wanted: RunFilter, text: str) -> RunFilter:
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise BadTerm(f"a parameter is given as param:KEY=VALUE, or with >, >=, < or <= a number, and not {text!r}")
    key, sign, value = match.groups()
    if sign != "=" and _NUMBER.fullmatch(value) is None:
        raise BadTerm(f"{key} is compared with {value!r}, which is no number")
    return msgspec.structs.replace(wanted, params=(*wanted.params, ParamTest(key, value, "" if sign == "=" else sign)))


def _id(what: str, text: str) -> int:
    if (number := parse_id(text.encode())) is None:
        raise BadTerm(f"{what} is given by its number, and not by {text!r}")
    return number


_TERMS = {"status": _status, "tag": _tag, "param": _param, "project": _project, "owner": _owner, "parent": _parent}
# The beginnings of words that a shell completes.
COMPLETIONS = [*(f"status:{status}" for status in STATUSES), *(f"{term}:" for term in _TERMS), "parent:none"]
