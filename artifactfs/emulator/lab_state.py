"""The state of one emulator: its lab, switches, faults and keys, and the record of its requests.

Owns the record of requests. control_route.py reads and changes it over HTTP.
"""

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from artifactfs.emulator.artifact_tree import Past, Tree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.live import Live
from artifactfs.emulator.model import Lab
from artifactfs.emulator.switches import Switches

LOG_LENGTH = 4096  # requests remembered; arbitrary, more than any test looks at


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The accepted credentials: both keys, or the token as `Authorization: Bearer`. The defaults are public."""

    api_key: str = "demo-api-key"
    app_key: str = "demo-app-key"
    access_token: str = "demo-access-token"  # noqa: S105 - a public constant


@dataclass(slots=True)
class Entry:
    """One request. `query` as sent, `args` decoded; `status` None: no answer began; `keys`: it carried credentials."""

    kind: str
    method: str
    host: str
    path: str
    query: str
    args: dict[str, str]
    range: str | None
    keys: bool
    status: int | None = None
    sent: int = 0  # body bytes


class Stats:
    """Requests by kind, how many were in flight at most, and the last ones one by one."""

    def __init__(self) -> None:
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget all requests that are not in flight."""
        self._counts: Counter[str] = Counter()
        self._content_bytes = 0
        self._peak = self._in_flight
        self._log: deque[Entry] = deque(maxlen=LOG_LENGTH)

    @contextmanager
    def request(self, entry: Entry) -> Iterator[None]:
        """Count a request, which is in flight as long as the context lasts."""
        self._counts[entry.kind] += 1
        self._log.append(entry)
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1

    def sent(self, entry: Entry, count: int) -> None:
        """Note `count` bytes of body."""
        entry.sent += count
        if entry.kind in ("content", "storage"):
            self._content_bytes += count

    def told(self) -> dict[str, object]:
        """Return all counts and entries as the control plane sends them."""
        return {
            "requests": dict(self._counts),
            "total": self._counts.total(),
            "in_flight": self._in_flight,
            "peak": self._peak,
            "content_bytes": self._content_bytes,
            "log": [dataclasses.asdict(entry) for entry in self._log],
        }


@dataclass
class Emulator:
    """All the state behind one app. `clock`: seconds since the epoch, for the rate limit's window and live files."""

    lab: Lab
    switches: Switches = field(default_factory=Switches)
    keys: Keys = field(default_factory=Keys)
    script: Script = field(default_factory=Script)
    live: Live = field(default_factory=Live)
    clock: Callable[[], float] = time.time
    stats: Stats = field(default_factory=Stats)
    answers: int = 0  # content answers so far; part of a changing ETag
    window: tuple[int, int] = (0, 0)  # the rate limit's minute, and the requests in it

    def catch_up(self) -> None:
        """Let happen what the live script has for the time until now. Raises LabError where it cannot."""
        self.live.advance(self.lab, self.clock())

    def lagging(self, tree: Tree, lag_s: float) -> Tree:
        """Return a run's tree as it was so many seconds ago."""
        return Past(tree, self.clock() - lag_s) if lag_s else tree
