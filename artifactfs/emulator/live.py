"""A live script: files that are appended to, replaced and truncated while they are served.

Owns the script's form and its timetable. What is due is done before a request is answered, in the order of its times,
and counts from those times: so the lab is the same at each moment of its clock, whenever a request comes, and a test
can turn the clock. Each rule draws its numbers from a random generator of its own: the same script makes the same lab.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from artifactfs.emulator.artifact_tree import LabError, MemoryTree
from artifactfs.emulator.model import Lab

Span: TypeAlias = tuple[float, float]  # a number is drawn from it: of two magnitudes, each as often as the other

ACTIONS = ("append", "replace", "truncate")
_FIELDS = ("run", "path", "at_s", "every_s", "times", "seed", *ACTIONS)
SHORTEST_S = 0.001  # of `every_s`: a script that never lets time pass would never end


class LiveError(ValueError):
    """The script is invalid: the message names the field."""


@dataclass(kw_only=True)
class Rule:
    """One line of the script: what happens to one file, when first, how often, and how many times (None: for ever)."""

    run: int
    path: str
    action: str
    amount: Span | bytes  # bytes appended, of the new content, or kept: how many, or which
    every_s: Span | None
    times: int | None
    due_s: float  # by the lab's clock
    random: Random

    def happen(self, lab: Lab) -> None:
        """Do what is due, and note when it is due again."""
        run = lab.run(self.run) or lab.create(self.run, status="running")
        tree = run.tree
        if not isinstance(tree, MemoryTree):
            raise LabError(f"run {self.run} is a directory on the disk: change it there")
        given = self.amount
        count, text = (len(given), given) if isinstance(given, bytes) else (round(self._drawn(given)), None)
        file = tree.find(self.path)
        if self.action == "truncate":
            if file is not None:
                tree.truncate(self.path, min(count, file.size), self.due_s)
        elif file is None or self.action == "replace":
            created = {} if file is None else {"created_at": file.created_at}
            tree.add(self.path, count, text=text, at_s=self.due_s, **created)
        else:
            tree.append(self.path, count if text is None else text, self.due_s)
        self.times = None if self.times is None else self.times - 1
        self.due_s += self._drawn(self.every_s) if self.every_s else 0.0

    def _drawn(self, span: Span) -> float:
        low, high = span
        if low <= 0:
            return self.random.uniform(low, high)
        return float(low * (high / low) ** self.random.random())


class Live:
    """The rules in force. Their times count from `start_s` of the lab's clock."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = list(rules)

    def advance(self, lab: Lab, now_s: float) -> None:
        """Do all that is due by now. Raises LabError for a run or file that cannot be changed."""
        while due := [rule for rule in self._rules if rule.due_s <= now_s and rule.times != 0]:
            min(due, key=lambda rule: rule.due_s).happen(lab)

    @classmethod
    def parse(cls, script: object, start_s: float) -> "Live":
        """Return the script that a decoded JSON list holds. Raises LiveError for an unknown field or a wrong value."""
        if not isinstance(script, list):
            raise LiveError("a live script is a list of rules")
        return cls([_rule(number, rule, start_s) for number, rule in enumerate(script)])


def _rule(number: int, given: object, start_s: float) -> Rule:
    if not isinstance(given, dict):
        raise LiveError(f"a rule is an object, not {given!r}")
    if unknown := sorted(set(given) - set(_FIELDS)):
        raise LiveError(f"no field {unknown[0]!r} in a rule; there are: {', '.join(sorted(_FIELDS))}")
    actions = [name for name in ACTIONS if name in given]
    if len(actions) != 1:
        raise LiveError(f"a rule has one of {', '.join(ACTIONS)}")
    (action,) = actions
    amount = given[action]
    run, path, times = given.get("run"), given.get("path"), given.get("times")
    if isinstance(run, bool) or not isinstance(run, int):
        raise LiveError(f"run is the number of a run, not {run!r}")
    if not isinstance(path, str) or not path:
        raise LiveError(f"path is the path of a file below the run, not {path!r}")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 0):
        raise LiveError(f"times is a number from 0, not {times!r}")
    every = _span(given, "every_s", SHORTEST_S) if "every_s" in given else None
    if every is None and times is not None:
        raise LiveError("times needs every_s: without it a rule happens once")
    generator = Random(f"{number} {run} {path} {given.get('seed', 0)}")  # noqa: S311 - nothing secret
    first, _ = _span(given, "at_s") if "at_s" in given else (0.0, 0.0)
    return Rule(
        run=run,
        path=path,
        action=action,
        amount=amount.encode() if isinstance(amount, str) and action != "truncate" else _span(given, action),
        every_s=every,
        times=times if every else 1,
        due_s=start_s + first,
        random=generator,
    )


def _span(given: Mapping[str, object], name: str, least: float = 0.0) -> Span:
    """Return the lowest and the highest value of a field that is a number, or a list of two."""
    value = given[name]
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise LiveError(f"{name} is a number, or a list of the lowest and the highest, not {value!r}")
    low, high = map(float, ends)
    if not least <= low <= high < float("inf"):
        raise LiveError(f"{name} is {least:g} or more, the lowest first, not {value!r}")
    return low, high
