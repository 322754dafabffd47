"""artifactfs.modellab.auth: refused keys are read again: when, by how many, and what comes of it (6.1, 6.3)."""

import threading
from collections.abc import Callable

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab import auth
from artifactfs.modellab.auth import Credentials, KeyRing
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Keys, KeySource, Secret
from tests.fakes import TurnedClock

in_a_thread = auth._in_a_thread
OLD = Credentials(Secret("old-api"), Secret("old-app"))


class Source(KeySource):
    """Where keys come from: `app_keys` one after the other, the last one for ever; or an error."""

    def __init__(self, *app_keys: str | UserError, files: bool = True, commands: bool = False) -> None:
        self.app_keys = list(app_keys)
        self.files, self.commands = files, commands
        self.latency_s = 0.0
        # Whether commands were to be run, of each reading.
        self.readings: list[bool] = []

    __setattr__ = object.__setattr__  # frozen otherwise

    @property
    def has_files(self) -> bool:
        return self.files

    @property
    def has_commands(self) -> bool:
        return self.commands

    def read_again(self, known: Keys, *, commands: bool, stop: threading.Event) -> Keys:
        self.readings.append(commands)
        key = self.app_keys.pop(0) if len(self.app_keys) > 1 else self.app_keys[0]
        if isinstance(key, UserError):
            raise key
        return Keys(known.api_key, Secret(key))


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No threads: under a clock that jumps, one at work would look like an idle program."""

    async def read_here(read: Callable[..., Keys]) -> Keys:
        await trio.sleep(read.func.__self__.latency_s)  # type: ignore[attr-defined]  # a partial of the fake's method
        return read(stop=threading.Event())

    monkeypatch.setattr(auth, "_in_a_thread", read_here)


class Server:
    """Lets in one application key; keeps which came, and what was asked at which moment."""

    def __init__(self, right: str, status: int = 401) -> None:
        self.right, self.status = right, status
        self.came: list[str] = []
        self.latency_s = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("dd-application-key", "")
        self.came.append(key)
        await trio.sleep(self.latency_s)
        if key == self.right:
            return httpx.Response(200, content=b"body")
        return httpx.Response(self.status, json={"errors": [f"no {key}, but {self.right}"]})


class Made:
    """Two transports of one ring, as a mount has them. `changes`: the credentials that the mount got."""

    def __init__(self, server: Server, source: Source, nursery: trio.Nursery | None) -> None:
        self.clock = TurnedClock()
        self.ring = KeyRing(OLD, source=source, clock=self.clock)
        self.changes: list[Credentials] = []
        if nursery is not None:
            self.ring.start(nursery, self.changes.append)
        self.one, self.two = (
            Transport("https://api.test", self.ring, clock=self.clock, transport=httpx.MockTransport(server))
            for _ in range(2)
        )

    async def get(self, sender: Transport | None = None, deadline_s: float = 30) -> bytes:
        return await (sender or self.one).get("run", "/x", deadline_s=deadline_s)

    async def denied(self, sender: Transport | None = None) -> None:
        with pytest.raises(errors.AccessDenied):
            await self.get(sender)


# --- when -----------------------------------------------------------------------------------------------------


async def test_a_401_is_asked_again_with_new_keys(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The request that met it succeeds; the other transport has the new keys, too."""
    server, source = Server("new"), Source("new")
    made = Made(server, source, nursery)
    assert await made.get() == b"body"
    assert await made.get(made.two) == b"body"
    assert server.came == ["old-app", "new", "new"]
    assert source.readings == [False]
    assert made.changes == [Credentials(Secret("old-api"), Secret("new"))]
    assert trio.current_time() == 0


async def test_keys_that_are_the_same_are_denied(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After a 401 files are read each time: the new keys may come the next moment."""
    server, source = Server("new"), Source("old-app", "old-app", "new")
    made = Made(server, source, nursery)
    await made.denied()
    await made.denied()
    assert server.came == ["old-app", "old-app"]
    assert await made.get() == b"body"
    assert source.readings == [False] * 3
    assert len(made.changes) == 1


async def test_after_a_403_once_in_ten_minutes(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It may only mean that these keys may not see that. SIGHUP (`expire`) forgets when that was."""
    server, source = Server("new", status=403), Source("old-app", "old-app", "old-app", "new")
    made = Made(server, source, nursery)
    await made.denied()
    await made.denied()
    assert source.readings == [False]
    made.clock.sleep_machine(auth.READ_AGAIN_S - 1)
    await made.denied()
    assert source.readings == [False]
    made.clock.sleep_machine(1)
    await made.denied()
    await made.denied()
    assert source.readings == [False] * 2
    made.ring.expire()
    await made.denied()
    made.ring.expire()
    assert await made.get() == b"body"
    assert source.readings == [False] * 4


async def test_commands_once_in_ten_minutes(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After a 401, too; files beside them are read at once, and without files nothing is read meanwhile."""
    server, source = Server("new"), Source("old-app", commands=True)
    made = Made(server, source, nursery)
    for _ in range(3):
        await made.denied()
    assert source.readings == [True, False, False]
    made.clock.sleep_machine(auth.READ_AGAIN_S)
    await made.denied()
    assert source.readings[3:] == [True]
    source.files = False
    await made.denied()
    assert source.readings[4:] == []
    made.ring.expire()
    await made.denied()
    assert source.readings[4:] == [True]


@pytest.mark.parametrize("status", [401, 403])
async def test_what_cannot_change_is_not_read(status: int, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Keys of the environment are what they were; and before the mount is up all keys have only just been read."""
    source = Source("new", files=False)
    await Made(Server("new", status), source, nursery).denied()
    assert source.readings == []
    source.files = True
    await Made(Server("new", status), source, None).denied()
    assert source.readings == []


async def test_another_status_reads_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A 404 says nothing of the keys."""
    source = Source("new")
    made = Made(Server("new", 404), source, nursery)
    with pytest.raises(errors.NotFound):
        await made.get()
    assert source.readings == []


async def test_a_refusal_elsewhere_says_nothing_of_our_keys(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """An expired link to object storage is a 403, too, and never got our keys."""
    source = Source("new")
    made = Made(Server("new", 403), source, nursery)
    with pytest.raises(errors.AccessDenied):
        await made.one.open("content", "https://storage.test/x", headers={}, deadline_s=30)
    assert source.readings == []
    stream = await made.one.open("content", "/x", headers={}, deadline_s=30)
    assert stream.status == 200
    await stream.aclose()
    assert source.readings == [False]


# --- by how many ----------------------------------------------------------------------------------------------


async def test_many_at_once_read_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """However many are refused, and on whichever transport; who was refused late, with old keys, reads nothing."""
    server, source = Server("new"), Source("new")
    server.latency_s = source.latency_s = 1.0
    made = Made(server, source, nursery)
    found: list[bytes] = []

    async def ask(after_s: float, sender: Transport) -> None:
        await trio.sleep(after_s)
        found.append(await made.get(sender))

    async with trio.open_nursery() as askers:
        for number in range(10):
            askers.start_soon(ask, number / 5, made.two if number % 2 else made.one)
    assert found == [b"body"] * 10
    assert source.readings == [False]
    assert server.came.count("new") == 10


async def test_a_reading_that_hangs(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A waiting caller gets the refusal before its deadline, not a time-out; the reading goes on for the next one."""
    server, source = Server("new"), Source("new")
    source.latency_s = 40.0
    made = Made(server, source, nursery)
    with trio.fail_after(30):
        await made.denied()
    with trio.fail_after(30):
        assert await made.get() == b"body"
    assert source.readings == [False]
    assert 40 <= trio.current_time() < 41


async def test_a_reading_that_never_ends(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead network share: it is given up, said, and tried again."""
    source = Source("new")
    source.latency_s = 1e6
    made = Made(Server("new"), source, nursery)
    await made.denied()
    await trio.sleep(100)
    assert "reading them again takes more than 70 s" in caplog.text
    source.latency_s = 0
    assert await made.get() == b"body"


async def test_a_reading_that_fails(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is in the log, access is denied, and the next one tries again."""
    source = Source(UserError(ExitCode.KEYS_MISSING, "--app-key-file: gone"), "new")
    made = Made(Server("new"), source, nursery)
    await made.denied()
    assert "cannot be read again: --app-key-file: gone" in caplog.text
    assert await made.get() == b"body"


async def test_keys_that_change_at_every_look(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A request is not sent for ever."""
    server, source = Server("right"), Source(*(str(number) for number in range(50)))
    await Made(server, source, nursery).denied()
    assert server.came == ["old-app", "0", "1", "2"]


async def test_a_change_does_not_count_as_an_attempt(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What is asked once is still asked once with keys that are right (a project's listing is)."""
    server = Server("new")
    made = Made(server, Source("new"), nursery)
    stream = await made.one.open("index", "/x", headers={}, deadline_s=30, max_attempts=1)
    await stream.aclose()
    assert server.came == ["old-app", "new"]


# --- what comes of it -----------------------------------------------------------------------------------------


async def test_refused_before_anything_is_sent(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """6.3: what belongs to the account before is dropped before the first answer with new keys can come."""
    server = Server("new")
    made = Made(server, Source("new"), None)
    seen: list[list[str]] = []
    made.ring.start(nursery, lambda _: seen.append(list(server.came)))
    await made.get()
    assert seen == [["old-app"]]


async def test_new_keys_are_blotted_out(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """6.1: old ones and new ones, where the server repeats them; and the log learns them first."""
    server, source = Server("other"), Source("new")
    made = Made(server, source, nursery)
    with pytest.raises(errors.AccessDenied, match=r"\(no \*{8}, but other\)"):
        await made.get()
    assert set(made.ring.secrets()) == {"old-api", "old-app", "new"}
    assert len(made.ring.secrets()[-1]) == 3  # the longest first


def test_accounts() -> None:
    """6.3: distinguished by the token, or else the application key; the API key is the organisation's."""
    one = Credentials(Secret("a"), Secret("b"))
    assert one.account() == Credentials(Secret("x"), Secret("b")).account()
    assert one.account() != Credentials(Secret("a"), Secret("x")).account()
    assert (
        Credentials(access_token=Secret("b")).account() == Credentials(Secret("a"), Secret("c"), Secret("b")).account()
    )
    assert one.account() != "b"
    assert len(one.account()) == 32


# --- the thread -----------------------------------------------------------------------------------------------


async def test_a_cancelled_reading_is_stopped() -> None:
    """5.6: at the end of the mount the thread gets a stop, and is waited for: its command is killed by then."""
    began, ended = threading.Event(), threading.Event()

    def read(stop: threading.Event) -> Keys:
        began.set()
        stop.wait(30)
        ended.set()
        return Keys()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_a_thread, read)
        await trio.to_thread.run_sync(began.wait, 30)
        nursery.cancel_scope.cancel()
    assert ended.is_set()


async def test_what_a_thread_returns_and_raises() -> None:
    """Keys, or the reason why there are none."""
    keys = Keys(Secret("a"))

    def read(stop: threading.Event) -> Keys:
        assert not stop.is_set()
        return keys

    def fail(stop: threading.Event) -> Keys:
        assert not stop.is_set()
        raise UserError(ExitCode.KEYS_MISSING, "no")

    assert await in_a_thread(read) == keys

    with pytest.raises(UserError, match="no"):
        await in_a_thread(fail)
