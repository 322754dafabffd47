"""8.3 to 8.5, simulated: a mount without its service, and its way back, with the real client on a virtual clock.

Tree, contents, client and emulator in one process: a week offline is over at once. The tree has seen a run before, as
one that is filled from the store has.
"""

import errno
import logging

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.circuit_breaker import OfflineState
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.transport import Transport
from artifactfs.mount import offline
from artifactfs.tree.nodes import ArtifactFile
from tests.content_harness import Server, bench
from tests.simulated.siblings import CONTEXT, world
from tests.simulated.test_client_forms import KEYS
from tests.simulated.test_outages import DEADLINE_S, RUN, TROUBLES, WHOLE, World

WEEK_S = 7 * 86400.0
# Listings are stale by then, and still in memory: what is older comes from the store.
OLD_S = 3000.0
# A new file shows within that, once the service is back (issue 18).
BACK_S = 35.0
UNSEEN = RUN + 1
SIZE = 3 << 10


class Mount(World):
    """A mount that is offline from `begin` on, and asks for its way back where it is to."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.online_at: list[float] = []
        self.is_online = trio.Event()
        self._nursery = nursery

    @property
    def state(self) -> OfflineState | None:
        return self.sender.breaker.offline

    def begin(self, *, with_way_back: bool = True) -> None:
        self.sender.breaker.offline = OfflineState(trio.current_time(), "away", "wait")
        self.tree.go_offline()
        self.emulator.stats.reset()
        if with_way_back:
            asking = Transport(
                "http://127.0.0.1",
                KEYS,
                clock=trio.current_time,
                transport=self.wire,
                retry_policy=RetryPolicy(max_attempts=1),
            )
            service = ModelLab(asking, deadline_s=offline.PROBE_S)
            self._nursery.start_soon(offline.reconnect, service, self.sender.breaker, self.go_online)

    async def go_online(self) -> None:
        self.online_at.append(trio.current_time())
        self.sender.breaker.go_online(trio.current_time())
        self.tree.go_online()
        self.is_online.set()

    async def back(self) -> None:
        """Wait until the mount is online again, which must be soon."""
        with trio.fail_after(BACK_S):
            await self.is_online.wait()


async def test_a_tree_without_its_service(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """8.3: all that was seen is there, however old, and what was not is ENETDOWN; no request, and no wait."""
    mount = Mount(nursery)
    assert await mount.find() == WHOLE
    await trio.sleep(OLD_S)
    mount.trouble({"stall": True})
    mount.begin(with_way_back=False)
    began = trio.current_time()
    for _ in range(3):
        assert await mount.find() == WHOLE
        with pytest.raises(errors.Offline):
            await mount.look(str(UNSEEN))
        with pytest.raises(errors.NoSuchEntry):
            await mount.look(str(RUN), "d0", "none")
    mount.tree.mark_all_stale()
    assert await mount.find() == WHOLE
    assert not mount.sender.can_prefetch("listing")
    assert trio.current_time() == began
    await trio.sleep(WEEK_S)
    assert mount.requests() == 0
    assert mount.sender.breaker.failing_since is None


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_way_back(trouble: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """8.5: one request each 30 s; a new file shows within 35 s of the service's return, and retries are as ever."""
    mount = Mount(nursery)
    assert await mount.find() == WHOLE
    mount.trouble(TROUBLES[trouble])
    mount.begin()
    await trio.sleep(10 * offline.PROBE_INTERVAL_S + 1)
    # What loses connections counts none of them; a rate limit may hold one of them back.
    assert mount.requests() <= 10
    assert mount.requests() >= (0 if trouble == "loses connections" else 5)
    assert await mount.find() == WHOLE
    mount.heal()
    mount.files.add("new", 1)
    assert await mount.find() == WHOLE
    await mount.back()
    assert await mount.find() == WHOLE | {b"new"}
    assert len(mount.online_at) == 1
    assert mount.state is None
    asked = mount.requests()
    await trio.sleep(10 * offline.PROBE_INTERVAL_S)
    assert mount.requests() == asked
    assert not mount.sender.breaker.is_failing


async def test_a_request_that_hangs_delays_the_way_back_by_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """8.5: the service comes back while a request for it still hangs: the next one is on time."""
    mount = Mount(nursery)
    mount.trouble({"stall": True})
    mount.begin()
    await trio.sleep(offline.PROBE_INTERVAL_S + 1)
    mount.heal()
    healed = trio.current_time()
    await mount.back()
    assert mount.online_at == [2 * offline.PROBE_INTERVAL_S]
    assert mount.online_at[0] - healed < offline.PROBE_INTERVAL_S


@pytest.mark.parametrize(
    ("then", "fact"),
    [
        ({"status": 403}, "answered 403"),
        ({"html": True}, ""),
        ({"status": 302, "headers": {"location": "https://portal.test/"}}, "redirect"),
    ],
)
async def test_not_yet_the_service(
    then: dict[str, object],
    fact: str,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """8.5: keys that are refused by then, and a network's own page, leave the mount offline; it says so, once."""
    caplog.set_level(logging.INFO)
    mount = Mount(nursery)
    assert await mount.find() == WHOLE
    mount.trouble(then)
    mount.begin()
    began = trio.current_time()
    await trio.sleep(10 * offline.PROBE_INTERVAL_S + 1)
    state = mount.state
    assert state is not None
    assert state.since == began
    assert fact in state.fact
    assert "every 30 s" in state.fix
    assert ("keys" in state.fix) == (fact == "answered 403")
    said = [record for record in caplog.records if record.name == offline.__name__]
    assert [record.levelno for record in said] == [logging.WARNING if fact == "answered 403" else logging.INFO]
    assert await mount.find() == WHOLE
    mount.heal()
    await mount.back()
    assert mount.state is None


async def test_a_reader_goes_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """8.5: a file that was opened offline, and is not kept, is ENETDOWN, and is read once the service is back."""
    mount = Mount(nursery)
    mount.files.add("long", SIZE)
    assert b"long" in await mount.find()
    found = await mount.look(str(RUN), "long")
    assert isinstance(found, ArtifactFile)
    mount.wire.lost = True
    mount.begin()
    async with bench(Server(b"")) as made:
        made.shop.service = ContentEndpoint(mount.sender, deadline_s=DEADLINE_S)
        handle = await made.files.open(await mount.tree.locate_content(found))
        began = trio.current_time()
        for _ in range(3):
            with pytest.raises(errors.Offline):
                await handle.read(0, 100)
        assert trio.current_time() == began
        mount.wire.lost = False
        await mount.back()
        file = mount.files.find("long")
        assert file is not None
        assert await made.read_whole(handle) == b"".join(mount.files.read("long", file, 0, SIZE))
        handle.close()


async def test_a_size_that_nothing_tells(autojump_clock: MockClock) -> None:
    """8.3, 2.2: offline, a file whose size was never learned is listed and looked up as one that cannot be read now."""
    async with world({"unsized": None, "sized": SIZE}) as mount:
        mount.shelf.refusals["unsized"] = [errors.Offline("offline") for _ in range(10)]
        assert (await mount.look("sized")).st_size == SIZE
        attributes = await mount.look("unsized")
        # The kernel asks again each time, and tar does not take the file for an empty one.
        assert (attributes.st_size, attributes.entry_timeout, attributes.st_mode & 0o004) == (0, 0.0, 0)
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await mount.operations.open(attributes.st_ino, 0, CONTEXT)
        assert caught.value.errno == errno.ENETDOWN
        mount.shelf.refusals.clear()
        assert (await mount.look("unsized")).st_size == len(mount.shelf.files["unsized"])
