"""artifactfs.download.source_files: how often a download tries again."""

import itertools
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.download.source_files import patiently


@pytest.mark.parametrize(
    ("came_to", "attempts"),
    [(itertools.cycle([3000, 3500]), 7), (itertools.chain(range(0, 4000, 500), itertools.repeat(3500)), 13)],
    ids=["up and down", "further, then no more"],
)
async def test_what_begins_again_gets_nowhere(came_to: Iterator[int], attempts: int, autojump_clock: MockClock) -> None:
    """5.1: only more bytes than ever before are progress: a file that breaks off here and there is given up."""
    at = made = 0

    async def attempt() -> None:
        nonlocal at, made
        at, made = next(came_to), made + 1
        raise errors.ConnectionLost("the body broke off")

    with trio.fail_after(24 * 3600), pytest.raises(errors.ConnectionLost):
        await patiently(attempt, lambda: at)
    assert made == attempts
