"""The reference model over remounts: scripts also unmount, kill, damage the database, and mount again, offline, too.

As test_reference_model.py, with more steps (`kept_story.py`), of which each that mounts takes a second.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Lab
from tests.reference import test_reference_model as within
from tests.reference.kept_story import KeptStory
from tests.reference.kept_world import KeptWorld, kept_world
from tests.reference.steps import exploring, until_quick
from tests.reference.test_reference_model import (
    COUNTS,
    DIRECTORIES,
    HANDLES,
    KINDS,
    MORE,
    SIZES,
    STARTS,
    TIMES,
    TROUBLES,
    Step,
)

# Scripts in an ordinary run.
EXAMPLES = 8

# Two directories, one in the other; d is a file at times.
PATHS = ["a", "b", "d/a", "d/e/a"] * 3 + ["d"]
NAMES = ["p", "q"]
# Less within a mount, and more that matters to what is stored: whole listings, files read to their ends.
STEPS: dict[str, tuple[int, tuple[Sequence[object], ...]]] = within.STEPS | {
    "put": (5, (PATHS, SIZES)),
    "append": (2, (PATHS, MORE)),
    "truncate": (1, (PATHS, SIZES[:-1])),
    "remove": (1, (PATHS,)),
    "rename": (1, (PATHS, PATHS)),
    "finish": (2, ()),
    "refresh": (2, ()),
    "fail": (1, (KINDS, TROUBLES, TIMES)),
    "ls": (2, (DIRECTORIES,)),
    "walk": (8, ([""],)),
    "stat": (1, (PATHS,)),
    "open": (1, (PATHS,)),
    "read": (2, (HANDLES, STARTS, COUNTS)),
    "rework": (4, (PATHS, SIZES)),
    "touch": (1, (["updated_at", "completed_at"],)),
    "umount": (5, ()),
    "kill": (4, ([True, True, False],)),
    "mount": (4, (["offline", "offline", "offline", "other account"],)),
    "damage": (1, (["flip", "cut", "garbage", "names"], [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])),
    "vanish": (1, ()),
    "enter": (2, ()),
    "pin": (1, ()),
    "rename_project": (1, (NAMES,)),
    "names": (2, ()),
    "find_by_name": (1, (NAMES,)),
}


def steps() -> st.SearchStrategy[Step]:
    """Make up a step: its name, and what it comes with."""
    names = [name for name, (weight, _) in STEPS.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), *(st.sampled_from(values) for values in STEPS[name][1]))
    )


# At first there is something, and every other run has ended.
BEGINNINGS = st.lists(st.tuples(st.just("put"), st.sampled_from(PATHS), st.sampled_from(SIZES)), max_size=4)
SCRIPTS = st.builds(
    lambda first, ended, rest: [*first, *ended, *(step for part in rest for step in part)],
    BEGINNINGS,
    st.sampled_from([[], [("finish",), ("walk", "")]]),
    st.lists(st.lists(steps(), max_size=10), max_size=10),
)


def play(there: KeptWorld, script: Sequence[Step]) -> bool:
    """Do a script's steps; says whether a look was slow. Raises AssertionError for an answer that is not permitted."""
    story = KeptStory(there)
    try:
        for name, *values in script:
            getattr(story, name)(*values)
    finally:
        story.end()
    return story.was_slow


def test_mounts_show_what_the_model_permits(lab: Lab, tmp_path: Path) -> None:
    """2.4, 3.2, 3.3, 4.3, 6.3, 8.1 to 8.3, 8.6: what was seen stays over remounts, and nothing wrong is shown of it."""

    @exploring(EXAMPLES)
    @given(script=SCRIPTS)
    def tried(script: list[Step]) -> None:
        play(there, script)

    with kept_world(lab, tmp_path) as there:
        tried()


# What the bugs of store_plants.py were shrunk to when hypothesis looked for them.
SETTLED: list[Step] = [("finish",), ("put", "a", 7), ("ls", "")]
FOUND: dict[str, list[Step]] = {
    "row_ignored": [*SETTLED, ("umount",), ("put", "b", 0), ("touch", "updated_at"), ("ls", "")],
    "unsettled_trusted": [("put", "a", 0), ("ls", ""), ("umount",), ("put", "b", 0), ("ls", "")],
    "account_ignored": [*SETTLED, ("put", "b", 0), ("mount", "other account"), ("ls", "")],
    "removal_lost": [*SETTLED, ("vanish",), ("put", "b", 0), ("ls", "")],
    "marks_lost": [*SETTLED, ("put", "b", 0), ("refresh",), ("umount",), ("ls", "")],
    "never_written": [("ls", ""), ("mount", "offline"), ("ls", "")],
    "numbers_forgotten": [("put", "a", 7), ("stat", "a"), ("mount", "offline"), ("stat", "a")],
    "checksum_ignored": [*SETTLED, ("damage", "names", 0.0), ("ls", "")],
    "first_kept": [("ls", ""), ("put", "a", 7), ("minute",), ("ls", ""), ("mount", "offline"), ("ls", "")],
}  # fmt: skip


@pytest.mark.parametrize("bug", FOUND)
def test_the_model_finds_a_bug(bug: str, lab: Lab, tmp_path: Path) -> None:
    """8.1 to 8.3: a mount with a bug in it is found out."""
    with kept_world(lab, tmp_path, bug) as there:
        with pytest.raises(AssertionError, match="not permitted by the model"):
            until_quick(lambda: play(there, FOUND[bug]))
        there.mount.log.announce("", optional=True)


# Scripts that once failed.
FIXED: dict[str, list[Step]] = {
    "what was stored beside a listing goes on": [
        ("put", "d/a", 7), *SETTLED, ("walk", ""), ("umount",), ("walk", ""), ("append", "d/a", 9), ("refresh",),
        ("stat", "d/a")],
    "a pin in a damaged database": [("walk", ""), ("damage", "garbage", 0.7), ("put", "a", 0), ("pin",)],
}  # fmt: skip


def test_the_same_without_the_bugs(lab: Lab, tmp_path: Path) -> None:
    """2.4, 8.1 to 8.3: what finds a bug is permitted where there is none, and so is what was fixed once."""
    with kept_world(lab, tmp_path) as there:
        for script in (*FOUND.values(), *FIXED.values()):
            play(there, script)
