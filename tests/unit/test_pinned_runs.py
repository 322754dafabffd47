"""artifactfs.mount.pinned_runs: what is deleted of a pinned run that has changed."""

from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
from trio.testing import MockClock

from artifactfs.mount.pinned_runs import PinnedRuns
from artifactfs.pins import Pin
from tests.content_harness import inline

SITE = "https://api.test"


def pin(account: str, run_id: int = 7) -> Pin:
    return Pin(SITE, account, run_id, "", 0.0)


class Deletions:
    """The files of an account's mount."""

    owner = f"{SITE}\0one"

    def __init__(self) -> None:
        self.count = 0

    async def delete_others(self, _is_meant: Callable[[bytes], bool], _keys: Collection[bytes]) -> None:
        self.count += 1


@pytest.mark.parametrize(("others", "is_deleted"), [([], True), ([pin("two", 8)], True), ([pin("two")], False)])
async def test_what_another_account_pinned_a_moment_ago_stays(
    others: list[Pin], is_deleted: bool, autojump_clock: MockClock
) -> None:
    """8.6: older versions of a run are deleted, unless another account has pinned something of it."""
    pins, files = [pin("one")], Deletions()

    async def walk(*_: object) -> AsyncIterator[object]:
        for each in list[object]():
            yield each

    async def found(*_: object) -> object:
        # The list was read before this.
        pins.extend(others)
        return object()

    stub = SimpleNamespace(find=found, walk=walk, is_settled=lambda _: True, is_about_to_settle=lambda _: False)
    tree = SimpleNamespace(watch_runs=lambda *_: None)
    list_of_pins = SimpleNamespace(load=lambda: tuple(pins), update=lambda *_, **__: None)
    renewing = PinnedRuns(cast(Any, list_of_pins), cast(Any, tree), cast(Any, files), lambda: True, inline)
    renewing._pinned = cast(Any, stub)
    await renewing._look()
    await renewing._renew_run(7)
    assert files.count == is_deleted
