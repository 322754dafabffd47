"""What is done to the runs of a project and looked at in it, step by step, with the model asked about each answer."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.reference.driver import World
from tests.reference.runs_model import LATEST, Choice, Row, RunsModel, told_of
from tests.reference.steps import FAULTS, Steps
from tests.reference.story import EPOCH
from tests.reference.trust import is_error

# What the emulator calls the numbers of a row.
_TERMS = {"status": "status:", "parent": "parent:", "text": ""}


class RunsStory(Steps[RunsModel]):
    """One script: a project of its own. A step for which there is no run does nothing."""

    def __init__(self, world: World) -> None:
        super().__init__(world, RunsModel(believes=world.believes))
        self._project = world.lab.new_project()
        world.lab.change_project(self._project, set={"name": "p"})
        self._refused = False
        self._hours = 0

    def end(self) -> None:
        """Leave the server as it was found, and without the runs: each list is made of all that there are."""
        self.heal()
        for run_id in self._rows:
            self._world.lab.change_run(run_id, remove=True)

    # --- the server -----------------------------------------------------------------------------------------

    def new(self, status: str, tag: tuple[str, str] | None, rate: str | None, is_old: bool, is_child: bool) -> None:
        """A run comes: the newest by its creation, or the oldest; with a parent, the first that there is."""
        parent = min(self._rows, default=None) if is_child else None
        run_id = self._world.lab.new_run({}, project=self._project)
        hour = self._hour()
        tags = () if tag is None else (tag,)
        params = () if rate is None else (("lr", rate),)
        row = Row(run_id, "alpha", status, -hour if is_old else hour, hour, tags, params, parent)
        self._script.append(f"server: {row} comes")
        self._tell(row)
        self._change(row)
        if parent is not None:
            self._world.lab.change_run(run_id, parent=parent)
            self._update(replace(self._rows[parent], has_children=True))

    def update(self, which: int, what: str, value: Any) -> None:
        """Something of a run changes, and so it is the one that was updated last."""
        if self._rows:
            row = self._rows[sorted(self._rows)[which % len(self._rows)]]
            changes = {
                "status": {"status": value}, "name": {"name": value},
                "tag": {"tags": (value,)}, "rate": {"params": (("lr", value),)},
            }  # fmt: skip
            self._update(replace(row, **changes[what]))

    def remove(self, which: int) -> None:
        """A run is gone, as if it had never been."""
        if self._rows:
            run_id = sorted(self._rows)[which % len(self._rows)]
            self._script.append(f"server: run {run_id} goes")
            self._world.lab.change_run(run_id, remove=True)
            self._model.change({its: row for its, row in self._rows.items() if its != run_id})

    # --- time and trouble -----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """SIGHUP, taken in."""
        self._script.append("SIGHUP")
        self._world.refresh()
        self._model.refreshed()

    def refuse(self, name: str) -> None:
        """The service answers 400 to a filter from now on. That is no trouble: the rows tell."""
        if not self._model.troubles:
            self._script.append(f"server: 400 for {name}")
            self._world.lab.faults(
                {"match": {"kind": "runs", "query_contains": name}, "then": {"status": 400}, "times": None}
            )
            self._refused = True

    def break_off(self, how: str, times: int | None) -> None:
        """Lists fail from their second page on: none is shown in part."""
        self._script.append(f"server: {how} for the next {times or 'and all'} pages but the first")
        rule = {"match": {"kind": "runs"}, "then": FAULTS[how], "times": times, "skip": 1}
        self._world.lab.faults(rule)
        self._model.trouble(how)

    def heal(self) -> None:
        super().heal()
        if self._refused:
            self._script.append("server: all filters are taken")
            self._world.lab.faults()
            self._refused = False

    # --- looks ----------------------------------------------------------------------------------------------

    def ls(self, choices: Sequence[Choice], above: str) -> None:
        """List the runs of a choice, and follow each link."""
        there = self._there(choices, above)
        answer = self._world.names(*there)
        self._saw(f"ls {shown(there)}", answer, lambda: self._model.listed(choices, above, answer))
        if not is_error(answer):
            for name in answer.split("|"):
                if name and not name.startswith("runs."):
                    self._follow(choices, above, name)

    def latest(self, choices: Sequence[Choice], above: str, name: str) -> None:
        assert name in LATEST
        self._follow(choices, above, name)

    def keys(self, choices: Sequence[Choice], kind: str) -> None:
        """List the keys of tags or parameters, or the parents."""
        self._named(choices, kind, None)

    def values(self, choices: Sequence[Choice], kind: str, key: str) -> None:
        self._named(choices, kind, key)

    def table(self, above: str) -> None:
        """Read the project's runs as lines of JSON."""
        there = [*self._there((), above), "runs.jsonl"]
        answer = self._world.lines(*there)
        if not is_error(answer):
            found = [json.loads(line) for line in answer.splitlines()]
            answer = "\n".join(
                told_of(it["id"], it["name"], it["status"], it["params"].items(), it["tags"].items()) for it in found
            )
        self._saw(f"cat {shown(there)}", answer, lambda: self._model.read(above, answer))

    # --------------------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> dict[int, Row]:
        return self._model.moments[-1]

    def _hour(self) -> int:
        self._hours += 1
        return self._hours

    def _update(self, row: Row) -> None:
        row = replace(row, updated=self._hour())
        self._script.append(f"server: {row} is updated")
        self._tell(row)
        self._change(row)

    def _change(self, row: Row) -> None:
        self._model.change(self._rows | {row.run_id: row})

    def _tell(self, row: Row) -> None:
        """Make a row so at the server."""
        times = {"created_at": row.created, "updated_at": row.updated}
        self._world.lab.change_run(
            row.run_id,
            set={
                "name": row.name, "status": row.status, "has_children": row.has_children,
                "tags": [{"key": key, "value": value} for key, value in row.tags],
                "params": [{"key": key, "value": value} for key, value in row.params],
                **{name: f"{EPOCH + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ}" for name, hour in times.items()},
            },
        )  # fmt: skip

    def _there(self, choices: Sequence[Choice], above: str) -> list[object]:
        """Return the path of a choice: by `by`, or by words."""
        if above == "search":
            terms = [f"project:{self._project}", *map(term, choices)]
            return ["search", shlex.join(terms)]
        project = self._project if above == "projects" else f"p~{self._project}"
        return [above, project, *(part for choice in choices for part in ("by", *choice.path))]

    def _follow(self, choices: Sequence[Choice], above: str, name: str) -> None:
        there = [*self._there(choices, above), name]
        answer = self._world.link(*there)
        self._saw(f"readlink {shown(there)}", answer, lambda: self._model.linked(choices, above, name, answer))

    def _named(self, choices: Sequence[Choice], kind: str, key: str | None) -> None:
        key_names = [] if key is None else Choice(kind, key, "x").path[1:2]
        there = [*self._there(choices, "projects"), "by", kind, *key_names]
        found = self._world.names(*there)
        answer = found if is_error(found) else "|".join(sorted(found.split("|")))
        self._saw(f"ls {shown(there)}", answer, lambda: self._model.named(choices, kind, key, answer))


def term(choice: Choice) -> str:
    """Return what a choice is among the words of a search."""
    if choice.kind in ("tag", "parameter"):
        sign = "=" if choice.is_listed else ""
        return f"{'tag' if choice.kind == 'tag' else 'param'}:{choice.key}{sign}{choice.value}"
    return _TERMS[choice.kind] + choice.value


def shown(path: Sequence[object]) -> str:
    """Return a path for the script."""
    return "/".join(map(str, path))
