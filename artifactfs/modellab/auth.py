"""Credentials, the one origin that they may go to (docs/semantics.md 6.1), and their renewal after a refusal.

Keys are rotated while a mount lives. The transports of one mount share a `KeyRing`. When the service refuses the keys,
it reads them again, in a thread, once for all pending requests. What is hard: a key command may hang or prompt, so it
runs rarely; a 403 may only mean that these keys lack a permission; and a request's deadline does not bound the command.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from artifactfs import errors, logs
from artifactfs.errors import NoThread, UserError
from artifactfs.settings import Keys, KeySource, Secret
from artifactfs.util import threads

log = logging.getLogger(__name__)

# After a 403, and for those that a command prints, keys are read again at most this often.
READ_AGAIN_S = 600.0
# A thread that reads a file on a dead network share never ends; it is abandoned after this. Above the 30 s that each
# of two commands may take.
_GIVE_UP_S = 70.0
# How long the end of a mount waits for a command to be killed: it is looked at every 0.1 s.
_STOP_S = 1.0


@dataclass(frozen=True)
class Credentials:
    """Either a pair of keys or an access token. Which reaches Model Lab is for the server to say."""

    api_key: Secret | None = None
    app_key: Secret | None = None
    access_token: Secret | None = None

    def secrets(self) -> list[str]:
        """Return every secret in the clear, the longest first: to redact them where a server repeats them."""
        found = [s.reveal() for s in (self.api_key, self.app_key, self.access_token) if s is not None]
        return sorted(found, key=len, reverse=True)

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request to the configured API origin, and to no other."""
        if self.access_token is not None:
            return {"Authorization": f"Bearer {self.access_token.reveal()}"}
        found = {"DD-API-KEY": self.api_key, "DD-APPLICATION-KEY": self.app_key}
        return {name: key.reveal() for name, key in found.items() if key is not None}

    def account(self) -> str:
        """Return a digest of the token or application key: it identifies an account without a name (6.3)."""
        key = self.access_token or self.app_key
        return hashlib.blake2b(key.reveal().encode(), digest_size=16).hexdigest() if key is not None else ""


class KeyRing:
    """The credentials of one mount, as they are now. `source`: where to read them again; None: nowhere.

    `clock` gives seconds. Before `start` nothing is read: the keys have only just been.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        source: KeySource | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.credentials = credentials
        # Counts the changes: a refused request may have been sent with keys that are old by now.
        self.generation = 0
        # They authenticate a request to the API's origin.
        self.headers = credentials.headers()
        # Every secret that there was, in the clear, the longest first.
        self.secrets = credentials.secrets()
        self._source = source or KeySource()
        self._clock = clock
        self._nursery: trio.Nursery | None = None
        self._on_change: Callable[[Credentials], None] = lambda _: None
        self._reading: trio.Event | None = None
        self._next_forbidden = self._next_command = float("-inf")

    def start(self, nursery: trio.Nursery, on_change: Callable[[Credentials], None]) -> None:
        """From now on, read keys again that are refused, in tasks of `nursery`.

        `on_change` is called with other ones before the first request goes out with them. It must not raise.
        """
        self._nursery, self._on_change = nursery, on_change

    def expire(self) -> None:
        """Forget when the keys were read: the next refusal reads them, whatever it is (docs/semantics.md 3.3)."""
        self._next_forbidden = self._next_command = float("-inf")

    async def renewed(self, generation: int, status: int | None) -> bool:
        """Whether there are other keys than those of `generation`, which the service refused with this status.

        Reads them if it is time to: at once after a 401, otherwise, and through a command, every ten minutes at most.
        Takes as long as that takes: bound it. What is being read goes on when the caller gives up.
        """
        if generation == self.generation and self._reading is None:
            self._read_if_due(status)
        if generation == self.generation and self._reading is not None:
            await self._reading.wait()
        return generation != self.generation

    def _read_if_due(self, status: int | None) -> None:
        now = self._clock()
        commands = self._source.has_commands and now >= self._next_command
        if self._nursery is None or not (commands or self._source.has_files):
            return
        if status != 401:
            if now < self._next_forbidden:
                return
            self._next_forbidden = now + READ_AGAIN_S
        if commands:
            self._next_command = now + READ_AGAIN_S
        self._reading = trio.Event()
        self._nursery.start_soon(self._read, self._reading, commands)

    async def _read(self, reading: trio.Event, commands: bool) -> None:
        known = Keys(self.credentials.api_key, self.credentials.app_key, self.credentials.access_token)
        try:
            with trio.fail_after(_GIVE_UP_S):
                found = await _in_a_thread(partial(self._source.read_again, known, commands=commands))
        except (UserError, NoThread) as error:
            log.warning("the keys were refused, and cannot be read again: %s", error)
        except trio.TooSlowError:
            log.warning("the keys were refused, and reading them again takes more than %g s", _GIVE_UP_S)
        except Exception:
            log.exception("reading the keys again failed: %s", errors.unexpected())
        else:
            if found != known:
                self._adopt(Credentials(found.api_key, found.app_key, found.access_token))
            else:
                log.info("the keys were refused, and are the same where they come from")
        finally:
            self._reading = None
            reading.set()

    def _adopt(self, credentials: Credentials) -> None:
        # Before anything can speak of them.
        logs.redact(credentials.secrets())
        self.secrets = sorted({*self.secrets, *credentials.secrets()}, key=len, reverse=True)
        self.credentials, self.headers = credentials, credentials.headers()
        self.generation += 1
        log.info("the keys have changed where they come from; the new ones are used from now on")
        self._on_change(credentials)


async def _in_a_thread(read: Callable[..., Keys]) -> Keys:
    """Call `read(stop=…)` in a thread; cancelled, it sets `stop` and waits a moment for the thread to end.

    So that no command outlives the mount (docs/semantics.md 5.6); but no dead file keeps the mount from its end.
    """
    stop, token, ended = threading.Event(), trio.lowlevel.current_trio_token(), trio.Event()

    def reading() -> Keys:
        try:
            return read(stop=stop)
        finally:
            _tell(token, ended)

    try:
        return await threads.run(reading, abandon_on_cancel=True)
    except NoThread:
        ended.set()
        raise
    finally:
        if not ended.is_set():
            stop.set()
            with trio.move_on_after(_STOP_S, shield=True):
                await ended.wait()


def _tell(token: trio.lowlevel.TrioToken, ended: trio.Event) -> None:
    try:
        token.run_sync_soon(ended.set)
    except trio.RunFinishedError:
        return  # the mount has ended without us
