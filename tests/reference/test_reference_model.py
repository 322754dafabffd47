"""The reference model: a real mount of a server that changes and fails, against a page of obvious Python (`model.py`).

Hypothesis makes up scripts: files come, grow, change, are cut, go and are renamed, a run finishes, time passes,
requests fail, and a process looks. Each answer must be one that the model permits. A script with one that it does not
is shrunk, and printed as what was done and seen.

`ARTIFACTFS_EXAMPLES`: how many scripts each test tries, other ones each time, in place of the same few of an ordinary
run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Lab
from tests.reference.driver import World, world
from tests.reference.steps import exploring, until_quick
from tests.reference.story import Story

# Scripts of each test in an ordinary run.
EXAMPLES = 100

# Three directories, one in the other; d and d/e are files at times.
PATHS = ["a", "b", "d/a", "d/e/a", "d/e/b"] * 3 + ["d", "d/e"]
DIRECTORIES = ["", "", "d", "d/e"]
# By how many bytes a file grows.
MORE = [1, 9, 5_000, 150_000, 600_000]
# Bytes: nothing, a page in part, more than a glance costs (128 KiB), more than a block (512 KiB).
SIZES = [0, 7, 5_000, 150_000, 600_000]
# And from the end on, as far as it was shown: -1.
STARTS = [-1, -1, 0, 1, 4_096, 100_000, 140_000, 524_288, 599_990, 1_000_000]
COUNTS = [1, 4_096, 200_000, 1_000_000]
# A stall costs seconds, so there are few.
TROUBLES = [*["500", "503", "429", "reset", "cut"] * 6, "stall"]
KINDS = ["any", "any", "listing", "run", "content"]
# How many requests: one is cured by the next try, more are not; None: all of them, an outage.
TIMES = [None, 5, 1]
HANDLES = [-1, 0, 1]

# How often a step comes, and what it may come with.
STEPS: dict[str, tuple[int, tuple[Sequence[object], ...]]] = {
    "put": (6, (PATHS, SIZES)),
    "append": (4, (PATHS, MORE)),
    "truncate": (2, (PATHS, SIZES[:-1])),
    "remove": (2, (PATHS,)),
    "rename": (2, (PATHS, PATHS)),
    "finish": (1, ()),
    "refresh": (3, ()),
    "minute": (2, ()),
    "hour": (1, ()),
    "fail": (2, (KINDS, TROUBLES, TIMES)),
    "heal": (3, ()),
    "ls": (3, (DIRECTORIES,)),
    "walk": (2, (DIRECTORIES,)),
    "stat": (4, (PATHS,)),
    "open": (3, (PATHS,)),
    "read": (5, (HANDLES, STARTS, COUNTS)),
    "cat": (3, (PATHS, COUNTS[2:])),
    "close": (1, (HANDLES,)),
}
Step = tuple[Any, ...]


def steps() -> st.SearchStrategy[Step]:
    """Make up a step: its name, and what it comes with."""
    names = [name for name, (weight, _) in STEPS.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), *(st.sampled_from(values) for values in STEPS[name][1]))
    )


# At first there is something. Then about 25 steps: a list of lists, since one list would mostly be short.
BEGINNINGS = st.lists(st.tuples(st.just("put"), st.sampled_from(PATHS), st.sampled_from(SIZES)), max_size=8)
SCRIPTS = st.builds(
    lambda first, rest: [*first, *(step for part in rest for step in part)],
    BEGINNINGS,
    st.lists(st.lists(steps(), max_size=10), max_size=10),
)


def play(there: World, script: Sequence[Step]) -> bool:
    """Do a script's steps; says whether a look was slow. Raises AssertionError for an answer that is not permitted."""
    story = Story(there)
    try:
        for name, *values in script:
            getattr(story, name)(*values)
    finally:
        story.end()
    return story.was_slow


@pytest.mark.parametrize("believes", [True, False], ids=["with times to live", "without"])
def test_a_mount_shows_what_the_model_permits(believes: bool, lab: Lab, tmp_path: Path) -> None:
    """2.4, 3.1 to 3.5, 4.1: whatever happens to server and mount, a look shows what the contract lets it show.

    With listings that stay fresh for their time, and with such as are asked for at each look.
    """

    @exploring(EXAMPLES)
    @given(script=SCRIPTS)
    def tried(script: list[Step]) -> None:
        play(there, script)

    with world(lab, tmp_path, believes=believes) as there:
        tried()


# Scripts that once failed: what they were shrunk to.
FIXED: dict[str, list[Step]] = {
    "a failed read is no replacement": [("finish",), ("put", "a", 7), ("stat", "a"), ("fail", "content", "500", None),
                                        ("open", "a"), ("read", 0, 0, 1), ("stat", "a")],
    "of the only known block more than the head is compared": [
        ("put", "a", 600_000), ("open", "a"), ("read", 0, 262_144, 4_096), ("truncate", "a", 150_000),
        ("append", "a", 600_000), ("refresh",), ("stat", "a"), ("read", 0, 700_000, 4_096)],
    "a read within the known size does not undo the listed one": [
        ("put", "a", 600_000), ("open", "a"), ("read", 0, 0, 16), ("append", "a", 9), ("refresh",), ("stat", "a"),
        ("read", 0, 300_000, 16), ("stat", "a"), ("read", 0, -1, 1), ("stat", "a")],
    "of an empty file nothing was read that a smaller listing could contradict": [
        ("put", "d/e/b", 0), ("open", "d/e/b"), ("put", "d/e/b", 7), ("refresh",), ("put", "d/e/b", 0), ("minute",),
        ("walk", "")],
    "a file that was closed a moment ago may be asked for at a refresh": [
        ("put", "b", 7), ("ls", ""), ("put", "b", 5_000), ("cat", "b", 200_000), ("refresh",), ("append", "b", 1),
        ("walk", "")],
    "an old handle's end says nothing of the version that came": [
        ("put", "a", 150_000), ("finish",), ("hour",), ("ls", ""), ("open", "a"), ("read", -1, 0, 200_000),
        ("put", "a", 7), ("hour",), ("stat", "a"), ("append", "a", 600_000), ("refresh",), ("stat", "a")],
    "a file that was gone is another one": [
        ("put", "a", 7), ("stat", "a"), ("append", "a", 9), ("refresh",), ("stat", "a"), ("remove", "a"), ("refresh",),
        ("stat", "a"), ("put", "a", 5_000), ("refresh",), ("stat", "a")],
    "a larger replacement shows as growth until it is opened": [
        ("put", "a", 5_000), ("cat", "a", 200_000), ("put", "a", 600_000), ("stat", "a"), ("cat", "a", 200_000),
        ("stat", "a")],
}  # fmt: skip


@pytest.mark.parametrize("believes", [True, False], ids=["with times to live", "without"])
@pytest.mark.parametrize("script", FIXED.values(), ids=FIXED)
def test_what_was_fixed_once(script: list[Step], believes: bool, lab: Lab, tmp_path: Path) -> None:
    """2.4, 4.1: inode numbers change for replacements alone, and no handle has bytes of two versions."""
    with world(lab, tmp_path, believes=believes) as there:
        play(there, script)


# What the bugs of launch.py were shrunk to when hypothesis looked for them.
FOUND: dict[str, list[Step]] = {
    "never_refreshed": [("ls", ""), ("put", "a", 0), ("refresh",), ("ls", "")],
    "shifted": [("put", "a", 600_000), ("cat", "a", 200_000)],
    "absent_after_failure": [("fail", "any", "500", 5), ("stat", "a"), ("ls", "")],
    "old_not_served": [("ls", ""), ("fail", "any", "429", 1), ("refresh",), ("ls", "")],
    "versions_mixed": [("put", "a", 5_000_000), ("open", "a"), ("read", 0, 0, 16), ("put", "a", 5_000_000),
                       ("read", 0, 4_999_900, 16)],
    "growth_unproven": [("put", "a", 7), ("open", "a"), ("read", 0, 0, 7), ("put", "a", 5_000), ("refresh",),
                        # Growth shows soon, and not at once: the kernel drops pages first.
                        *[("stat", "a"), ("read", 0, 7, 4_096)] * 20],
    "growth_is_replacement": [("put", "a", 7), ("stat", "a"), ("append", "a", 9), ("refresh",), ("stat", "a")],
}  # fmt: skip


@pytest.mark.parametrize("bug", FOUND)
def test_the_model_finds_a_bug(bug: str, lab: Lab, tmp_path: Path) -> None:
    """2.4, 3.2, 3.3, 3.5, 4.1: a mount with a bug in it is found out, and by nothing but that bug."""
    with world(lab, tmp_path, bug, believes=True) as there:
        with pytest.raises(AssertionError, match="not permitted by the model"):
            until_quick(lambda: play(there, FOUND[bug]))
        there.mount.log.announce("", optional=True)
