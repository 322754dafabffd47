"""What may be seen of the runs of one project by facets, searches, `latest` and tables, in obvious Python.

As model.py: every state of the server is a *moment*, and of a look the model says which moments may show. What is
trusted, and refreshed, and stale in a trouble, is each *listing*: the runs of one choice (however it is reached), the
keys of the project, and the values of one key. So a name may come of one listing and what is below it of another.

A choice shows the runs of one moment that have all of it, the last updated first, LISTED at most: never a run that does
not, never one twice, never a mixture of two moments. A service that refuses a filter changes nothing of that. Keys and
values are those of all runs; where facets failed, those of the runs that are listed, until they are asked for again.

Weak spots: where a listing of facets may have failed, what it shows says nothing of its moment. A link by its name in
the project itself is of what is known of the run, which other answers tell, too: the model permits any moment.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from artifactfs.tree.safe_names import facet_name
from tests.reference.trust import Trust, check, is_error

# How many runs a directory shows.
LISTED = 4
LATEST = {"latest": None, "latest-completed": "completed", "latest-failed": "failed"}
TABLES = ["runs.csv", "runs.jsonl"]
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda one, other: one >= other,
    ">": lambda one, other: one > other,
    "<": lambda one, other: one < other,
}


@dataclass(frozen=True)
class Row:
    """A run. Times are hours after an arbitrary moment; no two runs have one."""

    run_id: int
    name: str
    status: str
    created: int
    updated: int
    tags: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, str], ...]
    parent: int | None = None
    has_children: bool = False


@dataclass(frozen=True)
class Choice:
    """One thing that is chosen. `kind`: a directory of `by`, or "text"; `key`: of a tag or a parameter."""

    kind: str
    key: str
    value: str

    def holds(self, row: Row) -> bool:
        """Whether a run is one of the chosen."""
        if self.kind == "status":
            return row.status == self.value
        if self.kind == "text":
            return self.value in row.name
        if self.kind == "parent":
            return str(row.parent or "none") == self.value
        has = dict(row.tags if self.kind == "tag" else row.params)
        if self.key not in has:
            return False
        sign = next((sign for sign in _SIGNS if self.kind == "parameter" and self.value.startswith(sign)), None)
        if sign is None:
            return has[self.key] == self.value
        return _SIGNS[sign](float(has[self.key]), float(self.value.removeprefix(sign)))

    @property
    def is_listed(self) -> bool:
        """Whether its name may stand in a listing of values."""
        return not (self.kind == "parameter" and self.value.startswith(tuple(_SIGNS)))

    @property
    def path(self) -> list[str]:
        """Return where it is below `by`."""
        key = [facet_name(self.key).decode()] if self.kind in ("tag", "parameter") else []
        return [self.kind, *key, facet_name(self.value).decode() if self.is_listed else self.value]


class RunsModel(Trust[dict[int, Row]]):
    """One project. A moment: runs by id. An answer is a text: names in their order, the target of a link, a table, or
    the name of an error."""

    def __init__(self, *, believes: bool) -> None:
        super().__init__({}, believes=believes)
        self.rows_for: set[str] = set()  # listings of facets that may have failed: the rows of runs are in their place

    def minute_passed(self) -> None:
        super().minute_passed()
        self.rows_for.clear()

    def hour_passed(self) -> None:
        super().hour_passed()
        self.rows_for.clear()

    def refreshed(self) -> None:
        """Everything is asked for again, at the next look."""
        self.asked.clear()
        self.rows_for.clear()

    # --- what is there -------------------------------------------------------------------------------------

    def chosen(self, moment: int, choices: Sequence[Choice]) -> list[Row]:
        """Return the runs of a choice as they are listed."""
        rows = [row for row in self.moments[moment].values() if all(choice.holds(row) for choice in choices)]
        return sorted(rows, key=lambda row: -row.updated)[:LISTED]

    def entries(self, moment: int, choices: Sequence[Choice], above: str) -> dict[str, str]:
        """Return the target of each entry of a directory of runs, in order; "" for a table.

        `above`: "projects" where links are called by ids, "names" or "search" where they are called by names.
        """
        rows = self.chosen(moment, choices)
        names = [str(row.run_id) if above == "projects" and not choices else f"{row.name}~{row.run_id}" for row in rows]
        found = {name: f"runs/{row.run_id}" for name, row in zip(names, rows, strict=True)}
        for name, status in LATEST.items():
            if those := [row for row in rows if status in (None, row.status)]:
                found[name] = f"runs/{max(those, key=lambda row: row.created).run_id}"
        return found | dict.fromkeys(TABLES if above != "search" and not choices else [], "")

    def table(self, moment: int) -> str:
        """Return the project's runs as lines of JSON, as far as the story reads them (`told_of`)."""
        return "\n".join(
            told_of(row.run_id, row.name, row.status, row.params, row.tags) for row in self.chosen(moment, ())
        )

    # --- what may be shown ---------------------------------------------------------------------------------

    def _facets(
        self, above: Sequence[Choice], listing: str, pick: Callable[[Iterable[Row]], set[str]]
    ) -> list[set[str]]:
        """Return what a listing of keys or values may show: `pick` of all runs, or of those that are listed."""
        if above:
            return [pick(self.chosen(moment, above)) for moment in self.may_show(list_of(above))]
        named = [pick(self.moments[moment].values()) for moment in self.may_show(listing)]
        if self.troubles:
            self.rows_for.add(listing)
        if listing in self.rows_for or not all(named):
            named += [pick(self.chosen(moment, ())) for moment in self.may_show(list_of(()))]
        return named

    def keys(self, above: Sequence[Choice], kind: str) -> list[set[str]]:
        """Return the sets of keys that may be shown in a choice."""
        return self._facets(above, "keys", lambda rows: {key for row in rows for key, _ in pairs(row, kind)})

    def values(self, above: Sequence[Choice], kind: str, key: str) -> list[set[str]]:
        """Return the sets of values of a key that may be shown in a choice."""
        return self._facets(
            above,
            f"values of {kind} {key}",
            lambda rows: {it for row in rows for its, it in pairs(row, kind) if its == key},
        )

    def parents(self, above: Sequence[Choice]) -> list[set[str]]:
        """Return the sets of parents that may be shown in a choice."""
        moments = self.may_show(list_of(above))
        return [{"none", *(str(row.run_id) for row in self.chosen(it, above) if row.has_children)} for it in moments]

    def _found(self, choices: Sequence[Choice]) -> tuple[set[bool], set[str]]:
        """Return whether a choice may be found, and not be found; and the listings that tell."""
        outcomes, listings = {True}, {"project"}
        for place, choice in enumerate(choices):
            above, its = choices[:place], set[bool]()
            if choice.kind in ("tag", "parameter"):
                its |= {choice.key in keys for keys in self.keys(above, choice.kind)}
                listings |= {list_of(above)} if above else {"keys", list_of(())}
            if choice.kind in ("tag", "parameter") and choice.is_listed:
                named = [choice.value in values for values in self.values(above, choice.kind, choice.key)]
                listings |= {list_of(above)} if above else {f"values of {choice.kind} {choice.key}", list_of(())}
            elif choice.kind == "parent":
                named = [choice.value in parents for parents in self.parents(above)]
                listings.add(list_of(above))
            else:
                named = [True]
            if not all(named) and facet_name(choice.value).decode() == choice.value:
                # A value that is not listed is there if runs have it.
                narrower = choices[: place + 1]
                named = [
                    *filter(None, named),
                    *(bool(self.chosen(it, narrower)) for it in self.may_show(list_of(narrower))),
                ]
                listings.add(list_of(narrower))
            outcomes = {one and other and third for one in outcomes for other in its or {True} for third in named}
        return outcomes, listings

    # --- what is seen --------------------------------------------------------------------------------------

    def listed(self, choices: Sequence[Choice], above: str, answer: str) -> None:
        """Check an `ls` of a choice."""
        self._look(
            choices, above, {list_of(choices)}, answer,
            lambda moment: "|".join(self.entries(moment, choices, above)),
        )  # fmt: skip

    def linked(self, choices: Sequence[Choice], above: str, name: str, answer: str) -> None:
        """Check a `readlink` in a choice."""
        own = above in ("projects", "names") and not choices and name not in LATEST
        if own and answer in {self.entries(it, choices, above).get(name, "ENOENT") for it in range(len(self.moments))}:
            return
        self._look(
            choices, above, {list_of(choices), *(["known"] if own else [])}, answer,
            lambda moment: self.entries(moment, choices, above).get(name, "ENOENT"),
        )  # fmt: skip

    def read(self, above: str, answer: str) -> None:
        """Check a table of the project."""
        self._look((), above, {list_of(())}, answer, self.table)

    def _look(
        self, choices: Sequence[Choice], above: str, listings: set[str], answer: str, shown: Callable[[int], str]
    ) -> None:
        outcomes, others = self._found(choices) if above != "search" else ({True}, set[str]())
        permitted = self.errors(*listings, *others) | ({"ENOENT"} if False in outcomes else set())
        may_be = self.may_show(list_of(choices)) if True in outcomes else range(0)
        permitted |= {shown(moment) for moment in may_be}
        check(answer, permitted)
        moment = next((it for it in may_be if shown(it) == answer), None)
        if moment is not None and not (answer == "ENOENT" and False in outcomes):
            self.shown[list_of(choices)] = moment
            self.held(list_of(choices), *({"project"} & others))

    def named(self, above: Sequence[Choice], kind: str, key: str | None, answer: str) -> None:
        """Check an `ls` of keys, or of the values of a key."""
        outcomes, listings = self._found(above)
        its = f"values of {kind} {key}" if key is not None else "keys"
        if kind == "parent":
            sets, listings = self.parents(above), {*listings, list_of(above)}
        elif key is None:
            sets, listings = self.keys(above, kind), {*listings, its, list_of(above)}
        else:
            listings |= {its, list_of(above), "keys"}
            outcomes = {one and other for one in outcomes for other in {key in keys for keys in self.keys(above, kind)}}
            sets = self.values(above, kind, key)
        told = ["|".join(sorted(facet_name(text).decode() for text in texts)) for texts in sets]
        permitted = self.errors(*listings) | ({"ENOENT"} if False in outcomes else set())
        check(answer, permitted | set(told if True in outcomes else []))
        if not above and kind != "parent" and not is_error(answer) and its not in self.rows_for and all(sets):
            self.shown[its] = self.may_show(its)[told.index(answer)]
            self.held("project", its)


def list_of(choices: Sequence[Choice]) -> str:
    """Return what the list of a choice is called: the same, in whatever order one comes to it."""
    single = sorted(f"{it.kind} {it.value}" for it in choices if it.kind not in ("tag", "parameter"))
    return "; ".join(["runs", *single, *(f"{it.kind} {it.key}={it.value}" for it in choices if it.key)])


def pairs(row: Row, kind: str) -> tuple[tuple[str, str], ...]:
    """Return the tags or the parameters of a run."""
    return row.tags if kind == "tag" else row.params


def told_of(
    run_id: int, name: str, status: str, params: Iterable[tuple[str, object]], tags: Iterable[tuple[str, object]]
) -> str:
    """Return a run's line of a table."""
    return json.dumps([run_id, name, status, {key: str(of) for key, of in params}, {key: str(of) for key, of in tags}])
