"""A script of faults: the requests that fail, how often, and how.

Owns the script's form and its bookkeeping. middleware.py carries a fault out.

The first rule that matches and is neither skipping nor used up decides; later rules do not see that request. A rule
that is skipping leaves the request to later rules.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar
from urllib.parse import unquote_plus

Kind: TypeAlias = Literal[
    "listing", "run", "runs", "project", "projects", "index", "content", "facets", "storage", "other", "any"
]
KINDS: tuple[str, ...] = typing.get_args(Kind)


class FaultError(ValueError):
    """The script is invalid: the message names the field."""


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """A 429's headers. `reset_s`: seconds to the reset; `limit` requests in `period` seconds, under `name`."""

    reset_s: int
    name: str = "model_lab_api"
    limit: int = 100
    period: int = 60


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which requests. `path_contains` looks at the decoded URL path, `query_contains` at the query, sent or decoded."""

    kind: str = "any"
    path_contains: str = ""
    query_contains: str = ""

    def fits(self, kind: str, path: str, query: str) -> bool:
        return (
            self.kind in ("any", kind)
            and self.path_contains in path
            and (self.query_contains in query or self.query_contains in unquote_plus(query))
        )


@dataclass(frozen=True, kw_only=True)
class Then:
    """The effect of a rule. Without `status`, `body`, `rate_limit` or `html` the ordinary answer follows."""

    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # added to the answer
    delay_s: float = 0.0  # before anything else
    stall: bool = False  # accept the request and never answer
    stall_after: int | None = None  # body bytes, then silence
    cut_after: int | None = None  # body bytes, then the connection closes in order; -1: before any answer
    reset_after: int | None = None  # body bytes, then RST; 0: before any answer
    rate_limit: RateLimit | None = None  # 429, unless `status` says otherwise
    html: bool = False  # a login page, 200 unless `status` says otherwise

    @property
    def answers(self) -> bool:
        """Whether the fault has an answer of its own."""
        return self.html or self.status is not None or self.body is not None or self.rate_limit is not None


@dataclass(kw_only=True)
class Rule:
    """One line of the script: after `skip` matches, the next `times` (None: all) go wrong."""

    match: Match
    then: Then
    times: int | None = None
    skip: int = 0

    def takes(self, kind: str, path: str, query: str) -> bool:
        """Return whether this request fails, and count it."""
        if self.times == 0 or not self.match.fits(kind, path, query):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Script:
    """The rules in force, in order."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = list(rules)

    def next(self, kind: str, path: str, query: str) -> Then | None:
        """Return the fault of a request, None for an ordinary answer. Counts the request."""
        return next((rule.then for rule in self._rules if rule.takes(kind, path, query)), None)

    @classmethod
    def parse(cls, script: object) -> "Script":
        """Return the script that a decoded JSON list holds. Raises FaultError for an unknown field or a wrong type."""
        if not isinstance(script, list):
            raise FaultError("a script is a list of rules")
        return cls([_rule(rule) for rule in script])


def _rule(rule: object) -> Rule:
    given = _fields(rule, Rule)
    made = {**given, "match": _struct(given.get("match", {}), Match), "then": _then(given.get("then"))}
    parsed = _struct(made, Rule)
    if parsed.match.kind not in KINDS:
        raise FaultError(f"match.kind is one of {', '.join(KINDS)}, not {parsed.match.kind!r}")
    return parsed


def _then(then: object) -> Then:
    given = dict(_fields(then, Then))
    if given.get("rate_limit") is not None:
        given["rate_limit"] = _struct(given["rate_limit"], RateLimit)
    headers = given.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise FaultError("then.headers is an object of strings")
    return _struct(given, Then)


T = TypeVar("T", Match, Then, Rule, RateLimit)


def _struct(given: object, into: type[T]) -> T:
    values = _fields(given, into)
    hints = typing.get_type_hints(into)
    for name, value in values.items():
        allowed = tuple(typing.get_origin(kind) or kind for kind in typing.get_args(hints[name]) or (hints[name],))
        if name != "headers" and not _is(value, allowed):
            raise FaultError(f"{into.__name__.lower()}.{name} cannot be {value!r}")
    try:
        return into(**values)
    except TypeError as problem:
        raise FaultError(f"{into.__name__.lower()}: {problem}") from problem


def _is(value: object, allowed: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, allowed) or (float in allowed and isinstance(value, int))


def _fields(given: object, into: type) -> dict[str, typing.Any]:
    if not isinstance(given, dict):
        raise FaultError(f"{into.__name__.lower()} is an object, not {given!r}")
    known = {each.name for each in dataclasses.fields(into)}
    if unknown := sorted(set(given) - known):
        raise FaultError(f"no field {unknown[0]!r} in {into.__name__.lower()}; there are: {', '.join(sorted(known))}")
    return given
