"""The schema of what a mount answers about pins (pin_commands.py). Fields are only ever added. No account is in it."""

import msgspec

from artifactfs.pins import Pin
from artifactfs.util.clock import rfc3339


class Kept(msgspec.Struct, frozen=True):
    """How much of a place is on disk: bytes and files, of those that are listed.

    `unsized`: files whose size nothing tells until they are read; they are not in `size_bytes` and `kept_files`.
    `is_listed`: nothing is left out. `failure`: why something is, and `what_to_do`.
    """

    size_bytes: int = 0
    files: int = 0
    kept_bytes: int = 0
    kept_files: int = 0
    unsized: int = 0
    is_listed: bool = True
    failure: str | None = None
    what_to_do: str | None = None


class PinReport(msgspec.Struct, frozen=True):
    """A pin: `path` from the mount point, its size and files when it was last listed; `since`: RFC 3339.

    `is_own`: of the mount's site and account.
    """

    path: str
    site: str
    since: str
    pinned_at: float
    size_bytes: int
    files: int
    is_own: bool


class PinAnswer(msgspec.Struct, frozen=True):
    """What a command answers. `path`: from the mount point; of a run or what is in one, otherwise None.

    `needs_bytes`: on disk, of all pins of the cache, as far as they were listed; `limit_bytes`: of the cache;
    `disk_room_bytes`: how large its disk lets it become, None where nothing tells.

    `is_new`: it was not pinned before. `removed`: pins that were. `is_offline`: the mount asks the service for nothing.
    `is_stored`: whether the listings of what is kept are there for the next mount; None: that has no store of them.

    `error`, `what_to_do`: why nothing was done.
    """

    schema: int
    path: str | None = None
    cache_dir: str | None = None
    limit_bytes: int = 0
    disk_room_bytes: int | None = None
    needs_bytes: int = 0
    pins: tuple[PinReport, ...] = ()
    kept: Kept | None = None
    is_new: bool = False
    removed: int = 0
    is_offline: bool = False
    is_stored: bool | None = None
    error: str | None = None
    what_to_do: str = ""


def report(pin: Pin, *, is_own: bool = False) -> PinReport:
    """Return the report of a pin."""
    since = rfc3339(pin.pinned_at)
    return PinReport(f"runs/{pin.place}", pin.site, since, pin.pinned_at, pin.size_bytes, pin.files, is_own)
