"""artifactfs.util.threads and its users: where no thread can be had, a read does without the disk (5.5)."""

import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from artifactfs import errors
from artifactfs.content.block_format import Provenance
from artifactfs.content.block_store import BlockStore
from artifactfs.content.disk_cache import DiskCache
from artifactfs.errors import NoThread
from artifactfs.fuse import kernel_dentries as kernel_names
from artifactfs.modellab import auth, resolver
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.connections import Connections, tls_context
from artifactfs.modellab.error_mapping import error_from_exception
from artifactfs.settings import Keys, Secret
from artifactfs.util import threads
from tests.content_harness import BLOCK, Server, bench

KEY = b"k" * 16
LACK = "no thread can be had"


class Threads:
    """Threads that are plain calls, or cannot be had: `error` is what starting one raises then."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0

    async def run_sync(self, call: Callable[..., object], *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.error is not None:
            raise self.error
        return call(*args)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Threads:
    made = Threads()
    monkeypatch.setattr(trio.to_thread, "run_sync", made.run_sync)
    return made


LACKS = [RuntimeError("can't start new thread"), MemoryError()]


async def test_a_call_in_a_thread() -> None:
    """A call runs in another thread, with its arguments; its own failures are its own."""
    assert await threads.run(threading.get_ident) != threading.get_ident()
    assert await threads.run(divmod, 7, 2) == (3, 1)
    for failure in (RuntimeError("a bug"), MemoryError(), OSError(5, "broken")):

        def fail(failure: Exception = failure) -> None:
            raise failure

        with pytest.raises(type(failure)):
            await threads.run(fail)


@pytest.mark.parametrize("lack", LACKS, ids=repr)
async def test_no_thread_is_distinguished_from_a_failure(machine: Threads, lack: Exception) -> None:
    """5.5: what starting a thread raises becomes NoThread, and nothing of the call has happened."""
    machine.error = lack
    with pytest.raises(NoThread, match=LACK):
        await threads.run(sys.exit)


def limited(store: BlockStore, block: bytes = b"0123456789") -> tuple[bytearray, int, Provenance]:
    return bytearray(block), len(block), Provenance(0.0, store.session)


@pytest.mark.parametrize("lack", LACKS, ids=repr)
async def test_the_cache_is_done_without(
    tmp_path: Path, machine: Threads, lack: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5: nothing is found and nothing kept while no thread can be had; the log says so once; then all works again."""
    caplog.set_level("INFO")
    store = BlockStore(str(tmp_path), max_bytes=1 << 20, min_free_bytes=0)
    async with trio.open_nursery() as nursery:
        keeper = DiskCache(store, nursery)
        keeper.queue(KEY, 0, *limited(store))
        await keeper.flush()
        machine.error = lack
        for index in range(1, 20):
            assert await keeper.load(KEY, [0, index], lambda _stamp: True) == [None, None]
            keeper.queue(KEY, index, *limited(store))
            keeper.look_soon()
            keeper.sweep_soon()
            await keeper.flush()
        assert await keeper.held_bytes(KEY) == 0
        assert keeper.room_bytes == 0
        assert [record.levelname for record in caplog.records if LACK in record.message] == ["WARNING"]
        assert "Traceback" not in caplog.text
        assert keeper._threads.borrowed_tokens == 0

        machine.error = None
        (found,) = await keeper.load(KEY, [0], lambda _stamp: True)
        assert found is not None
        assert "threads can be had again" in caplog.text
        keeper.queue(KEY, 20, *limited(store))
        await keeper.flush()
        assert keeper.room_bytes == store.max_bytes
        assert await keeper.held_bytes(KEY) == 20
        machine.error = lack
        assert await keeper.load(KEY, [0], lambda _stamp: True) == [None]
        assert sum(LACK in record.message for record in caplog.records) == 2


async def test_a_version_that_is_gone_is_not_served_later(
    tmp_path: Path, machine: Threads, autojump_clock: MockClock
) -> None:
    """4.1, 5.5: blocks that could not be deleted for lack of a thread are deleted before any of them is served."""
    store = BlockStore(str(tmp_path), max_bytes=1 << 20, min_free_bytes=0)
    async with trio.open_nursery() as nursery:
        keeper = DiskCache(store, nursery)
        keeper.queue(KEY, 0, *limited(store))
        await keeper.flush()
        machine.error = RuntimeError("can't start new thread")
        await keeper.discard(KEY)
        assert await keeper.load(KEY, [0], lambda _stamp: True) == [None]
        machine.error = None
        assert await keeper.load(KEY, [0], lambda _stamp: True) == [None]
        keeper.queue(KEY, 0, *limited(store, b"the new one"))
        await keeper.flush()
        (found,) = await keeper.load(KEY, [0], lambda _stamp: True)
        assert found is not None
        assert bytes(found.data) == b"the new one"


@pytest.mark.parametrize("from_block", [0, 5, 17])
async def test_reading_goes_on(tmp_path: Path, machine: Threads, autojump_clock: MockClock, from_block: int) -> None:
    """5.5: a reader from whose middle on no thread can be had gets every byte, of a file that is cached in part."""
    data = bytes(index % 251 for index in range(24 * BLOCK + 7))
    server = Server(data)
    async with bench(server, directory=str(tmp_path), pool=4 * BLOCK, run_in_thread=threads.run) as made:
        handle = await made.open(len(data))
        assert await made.read_whole(handle) == data
        await made.keeper.flush()
        for start in range(0, len(data), BLOCK):
            if start == from_block * BLOCK:
                machine.error = RuntimeError("can't start new thread")
            assert bytes(await handle.read(start, BLOCK)) == data[start : start + BLOCK]
        handle.close()


# --- names ----------------------------------------------------------------------------------------------------


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every name resolve to one address, the first of the list."""
    found = ["192.0.2.7"]

    def resolve(host: object, port: int, *_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return found


async def test_a_name_is_remembered_for_want_of_a_thread(machine: Threads, addresses: list[str]) -> None:
    """5.5: without a thread a name is what it was; with one it is asked for each time."""
    names = resolver.Resolver()
    ask = partial(names.getaddrinfo, b"api.test", 443, 0, socket.SOCK_STREAM)
    first = await ask()
    addresses[0] = "192.0.2.8"
    machine.error = RuntimeError("can't start new thread")
    assert await ask() == first
    with pytest.raises(OSError, match=LACK):
        await names.getaddrinfo(b"other.test", 443, 0, socket.SOCK_STREAM)
    machine.error = None
    assert (await ask())[0][4][0] == "192.0.2.8"


async def test_a_name_without_a_thread_fails_its_request_only(machine: Threads) -> None:
    """5.3, 5.5: a request to a name that is not known yet fails as a passing error that says why."""
    connections = Connections(tls_context(None), None, trio.current_time)
    machine.error = RuntimeError("can't start new thread")
    with pytest.raises(httpx.HTTPError) as failed:
        await connections.send(httpx.URL("http://api.test/x"), {}, 5.0)
    error = error_from_exception("api.test", failed.value)
    assert isinstance(error, errors.ConnectionLost)
    assert LACK in str(error)
    await connections.aclose()


async def test_another_resolver_stays() -> None:
    """What resolves names otherwise is not replaced."""
    mine = resolver.Resolver()
    trio.socket.set_custom_hostname_resolver(mine)
    resolver.install()
    assert trio.socket.set_custom_hostname_resolver(None) is mine
    resolver.install()
    assert isinstance(trio.socket.set_custom_hostname_resolver(None), resolver.Resolver)


# --- the rest -------------------------------------------------------------------------------------------------


async def test_keys_are_read_again_later(
    machine: Threads, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5, 6.1: keys that cannot be read again for lack of a thread are said to be so, at once, and are no bug."""
    machine.error = RuntimeError("can't start new thread")

    class Source:
        has_files, has_commands = True, False

        def read_again(self, known: Keys, *, commands: bool, stop: threading.Event) -> Keys:
            raise AssertionError

    async with trio.open_nursery() as nursery:
        ring = auth.KeyRing(Credentials(Secret("a"), Secret("b")), source=Source())  # type: ignore[arg-type]
        ring.start(nursery, lambda _: None)
        before = trio.current_time()
        assert not await ring.renewed(ring.generation, 401)
        await wait_all_tasks_blocked()
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()
    assert LACK in caplog.text
    assert "bug" not in caplog.text


async def test_the_kernels_names_stay(
    machine: Threads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """5.5, 3.4: before Linux 6.16 a refresh needs a thread for the kernel's names; without one they run out."""
    monkeypatch.setattr(kernel_names, "_new_epoch", lambda: False)
    machine.error = RuntimeError("can't start new thread")
    dropped: list[bytes] = []
    names = kernel_names.KernelDentries(lambda _parent, name: dropped.append(name))
    assert not await names.drop([(1, b"runs"), (1, b"names")])
    assert LACK in caplog.text
    machine.error = None
    assert await names.drop([(1, b"runs")])
    assert dropped == [b"runs"]
