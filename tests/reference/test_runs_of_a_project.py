"""The reference model of facets, searches, `latest` and tables: a real mount against a page of obvious Python.

As test_reference_model.py, for the runs of a project (`runs_model.py`): runs come, change and go, filters are refused,
facets and lists fail, time passes, and a process looks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Lab
from tests.reference.driver import World, world
from tests.reference.runs_model import LATEST, LISTED, Choice
from tests.reference.runs_story import RunsStory
from tests.reference.steps import exploring, until_quick
from tests.reference.test_reference_model import Step

# Scripts of each test in an ordinary run.
EXAMPLES = 40

STATUSES = ["completed", "failed", "running"]
# Keys and values that are names, that are none, and that no filter can hold.
TAGS = [("k", "1"), ("k", "b c"), ("k", "x/y"), ("k", ""), ("k", "p,q"), ("a/b", "1"), ("a:b", "1")]
RATES = ["0.1", "0.5", "0.001"]
DONE, ROOTS = Choice("status", "", "completed"), Choice("parent", "", "none")
FAST, SMALL = Choice("parameter", "lr", ">0.01"), Choice("parameter", "lr", "0.1")
ONE, SLASH, OTHER, COLON = (Choice("tag", *tag) for tag in [("k", "1"), ("k", "x/y"), ("a/b", "1"), ("a:b", "1")])
CHOICES: list[tuple[Choice, ...]] = [
    (), (), (DONE,), (ONE,), (SLASH,), (OTHER,), (Choice("tag", "k", ""),), (Choice("tag", "k", "p,q"),), (SMALL,),
    (FAST,), (DONE, FAST), (FAST, DONE), (ONE, SMALL), (SMALL, SLASH, DONE), (COLON, DONE), (ROOTS,), (ROOTS, ONE),
]  # fmt: skip
# What words can say: no name of a file holds "/".
WORDS = [
    *(each for each in CHOICES if not {SLASH, OTHER} & {*each}),
    (Choice("text", "", "alpha"),), (Choice("text", "", "be"), DONE),
]  # fmt: skip
ABOVE = ["projects", "projects", "names"]
WHAT = [
    *(("status", it) for it in STATUSES), *(("tag", it) for it in TAGS), *(("rate", it) for it in RATES),
    ("name", "alpha"), ("name", "beta"),
]  # fmt: skip
TROUBLES = [*["500", "503", "429", "reset", "cut"] * 6, "stall"]
FILTERS = ["filter[tags]", "filter[params]", "filter[status]"]
# What the log may say of it.
SAID = ("does not choose runs by", "names none of the keys or values", "the (keys|values) of .* project")

# How often a step comes, and what it may come with.
STEPS: dict[str, tuple[int, tuple[Sequence[object], ...]]] = {
    "new": (6, (STATUSES, [None, *TAGS], [None, *RATES], [False, True], [False, False, True])),
    "update": (4, (range(5), WHAT)),
    "remove": (1, (range(5),)),
    "refresh": (4, ()),
    "minute": (2, ()),
    "hour": (1, ()),
    "fail": (2, (["any", "runs", "facets", "project"], TROUBLES, [None, 5, 1])),
    "break_off": (1, (TROUBLES[:-1], [None, 5])),
    "refuse": (2, (FILTERS,)),
    "heal": (3, ()),
    "ls": (6, (CHOICES, ABOVE)),
    "search": (2, (WORDS,)),
    "latest": (2, (CHOICES, ABOVE, list(LATEST))),
    "keys": (2, (CHOICES[:10], ["tag", "parameter", "parent"])),
    "values": (2, (CHOICES[:10], [("tag", "k"), ("tag", "a/b"), ("parameter", "lr")])),
    "table": (2, (ABOVE,)),
}


def steps() -> st.SearchStrategy[Step]:
    """Make up a step: its name, and what it comes with."""
    names = [name for name, (weight, _) in STEPS.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), *(st.sampled_from(values) for values in STEPS[name][1]))
    )


# At first there are runs.
BEGINNINGS = st.lists(
    st.tuples(st.just("new"), *(st.sampled_from(values) for values in STEPS["new"][1])), min_size=1, max_size=7
)
SCRIPTS = st.builds(
    lambda first, rest: [*first, *(step for part in rest for step in part)],
    BEGINNINGS,
    st.lists(st.lists(steps(), max_size=8), max_size=8),
)


def play(there: World, script: Sequence[Step]) -> bool:
    """Do a script's steps; says whether a look was slow. Raises AssertionError for an answer that is not permitted."""
    story = RunsStory(there)
    try:
        for name, *values in script:
            if name == "search":
                story.ls(values[0], "search")
            elif name in ("update", "values"):
                getattr(story, name)(values[0], *values[1])
            elif not (name == "keys" and values[1] == "parent" and any(it.kind == "parent" for it in values[0])):
                getattr(story, name)(*values)
    finally:
        story.end()
    return story.was_slow


@contextmanager
def mounted(lab: Lab, directory: Path, *bugs: str, believes: bool) -> Iterator[World]:
    """Mount a lab that gives its rows in pages of two, with a process that looks at it."""
    lab.switch(page_cap=2)
    with world(lab, directory, *bugs, believes=believes, options=("--runs-listed", str(LISTED)), said=SAID) as there:
        yield there


@pytest.mark.parametrize("believes", [True, False], ids=["with times to live", "without"])
def test_a_mount_shows_the_runs_that_the_model_permits(believes: bool, lab: Lab, tmp_path: Path) -> None:
    """1.7 to 1.9, 3.1 to 3.3: whatever happens to runs and requests, a choice shows what the contract lets it show."""

    @exploring(EXAMPLES)
    @given(script=SCRIPTS)
    def tried(script: list[Step]) -> None:
        play(there, script)

    with mounted(lab, tmp_path, believes=believes) as there:
        tried()


# What the bugs of launch.py were shrunk to when hypothesis looked for them.
NEW = ("completed", ("k", "1"), "0.1", False, False)
FOUND: dict[str, list[Step]] = {
    "rows_untested": [("new", *NEW), ("new", "failed", ("k", "x/y"), None, False, False), ("refuse", "filter[tags]"),
                      ("ls", (ONE,), "projects")],
    "latest_by_update": [("new", *NEW), ("new", "completed", None, None, True, False), ("ls", (), "projects")],
    "facets_kept": [("new", *NEW), ("keys", (), "tag"), ("update", 0, ("tag", ("a/b", "1"))), ("refresh",),
                    ("keys", (), "tag")],
}  # fmt: skip


@pytest.mark.parametrize("bug", FOUND)
def test_the_model_finds_a_bug(bug: str, lab: Lab, tmp_path: Path) -> None:
    """1.7, 1.9, 3.3: a mount with a bug in it is found out, and by nothing but that bug."""
    with mounted(lab, tmp_path, bug, believes=True) as there:
        with pytest.raises(AssertionError, match="not permitted by the model"):
            until_quick(lambda: play(there, FOUND[bug]))
        there.mount.log.announce("", optional=True)


@pytest.mark.parametrize("bug", FOUND)
def test_the_model_permits_the_same_without_the_bug(bug: str, lab: Lab, tmp_path: Path) -> None:
    """What finds a bug is permitted where there is none."""
    with mounted(lab, tmp_path, believes=True) as there:
        play(there, FOUND[bug])
