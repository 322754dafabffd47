"""What a mount says of itself, as values: the schema of status.json, and how healthy the mount is.

Owns the schema: docs/status.md describes it, and scripts rely on it. Fields are only ever added; `schema` counts what
would break a reader. No keys in it, nor anything made of them. Knows neither files nor terminals: `control_dir.py`
writes it, `cli/` shows it.
"""

import msgspec

SCHEMA = 1

OK = "ok"
_TRY_AGAIN = "nothing now: it is tried again every few seconds"
_CHECK_KEYS = "check the keys, that they are of this site (--site), and that they may read Model Lab"
_IF_SLOW = "nothing now: new ones show when they have come; if it goes on, check the network and --proxy"


class Health(msgspec.Struct, frozen=True):
    """`state`: ok, or what is wrong; since when (RFC 3339), what that means, and what to do about it."""

    state: str
    since: str
    message: str
    what_to_do: str = ""


class Times(msgspec.Struct, frozen=True):
    """Seconds from requests to the heads of their answers: `within[i]` of them took at most `bounds_s[i]`."""

    count: int
    sum_s: float
    bounds_s: tuple[float, ...]
    within: tuple[int, ...]


class Requests(msgspec.Struct, frozen=True):
    """What was asked of the service: attempts by kind and outcome, and the times of those that were answered."""

    by_kind: dict[str, dict[str, int]] = {}
    times: dict[str, Times] = {}
    received_bytes: int = 0
    bodies_broken: int = 0
    paused_s: float = 0.0


class RateLimit(msgspec.Struct, frozen=True):
    """What is known of a rate limit; None where no answer that still holds has told."""

    name: str
    limit: float | None
    remaining: float | None
    reset_s: float | None
    paused_s: float


class Cache(msgspec.Struct, frozen=True):
    """The cache on disk; `directory` None: there is none. Sizes as last seen, None: nobody has looked yet."""

    directory: str | None
    size_bytes: int | None = None
    limit_bytes: int = 0
    disk_free_bytes: int | None = None
    evicted_files: int = 0
    evicted_bytes: int = 0
    waiting_bytes: int = 0
    keeps_up: bool = True


class Streaming(msgspec.Struct, frozen=True):
    """A body that is read whole, and how far it has come. `path`: from the project. `fits`: into cache or memory."""

    project_id: str
    path: str
    size_bytes: int | None
    came_to: int
    fits: bool


class Reading(msgspec.Struct, frozen=True):
    """Where the bytes that were read came from: memory, the disk, the service; and what is streamed just now.

    `streaming`: bodies that are read whole, since the service ignores ranges; those that do not fit start again at a
    step back (semantics 4.2).
    """

    memory_reads: int = 0
    memory_bytes: int = 0
    disk_blocks: int = 0
    disk_bytes: int = 0
    fetched_blocks: int = 0
    fetched_bytes: int = 0
    streamed: int = 0
    restarted: int = 0
    streaming: tuple[Streaming, ...] = ()


class IndexStatus(msgspec.Struct, frozen=True):
    """The index of a project: coming, believed, doubted, unchecked or failed; runs it is right and wrong about."""

    project_id: str
    state: str
    files: int
    age_s: float
    runs_right: int
    runs_wrong: int


class LastWalk(msgspec.Struct, frozen=True):
    """What the last walk looked at, and what the mount asked meanwhile."""

    run_id: int
    directories: int
    seconds: float
    requests: dict[str, int]
    received_bytes: int


class Listings(msgspec.Struct, frozen=True):
    """What is remembered of directories, and what was asked ahead of who walks."""

    remembered: int = 0
    entries: int = 0
    runs: int = 0
    projects: int = 0
    old_served: int = 0
    walking: int = 0
    walks: int = 0
    listed_ahead: int = 0
    last_walk: LastWalk | None = None
    indexes: tuple[IndexStatus, ...] = ()


class Open(msgspec.Struct, frozen=True):
    """What the kernel holds: inodes, open files and directories, and open files whose length no answer tells."""

    inodes: int = 0
    files: int = 0
    directories: int = 0
    files_without_size: int = 0


class Failed(msgspec.Struct, frozen=True):
    """A failure; times are RFC 3339."""

    message: str
    what_to_do: str
    count: int
    first: str
    last: str


class Status(msgspec.Struct, frozen=True):
    """A mount, at one moment. `origin`: the host that is asked; `site` None where an API URL was given instead."""

    schema: int
    version: str
    mountpoint: str
    pid: int
    user_id: int
    mounted_since: str
    at: str
    uptime_s: float
    health: Health
    origin: str
    site: str | None
    account: str | None
    profile: str | None
    ranges: bool | None
    requests: Requests
    rate_limits: tuple[RateLimit, ...]
    cache: Cache
    reading: Reading
    listings: Listings
    open: Open
    failures: int
    last_error: Failed | None
    log_file: str | None = None


class HealthInputs(msgspec.Struct, frozen=True):
    """What the parts of a mount know of their troubles: since when each is there (None: it is not), in seconds.

    `denied_last`: the last request was refused, too; nothing has failed in another way since. `paused_s`: for how long
    the rate limit that is away longest holds requests back, since `paused_since`. `old_since`: since a listing could
    not be had; `old_served`: there were old ones; `only_slow`: none failed. `recovered_at`: when the last trouble of
    all was over.
    """

    denied_since: float | None
    silent_since: float | None
    failing_since: float | None
    strange_since: float | None
    paused_s: float
    paused_since: float | None
    old_since: float | None
    recovered_at: float
    old_served: bool = False
    only_slow: bool = False
    denied_last: bool = False


def health_of(trouble: HealthInputs, origin: str) -> tuple[str, float, str, str]:
    """Return state, since when (seconds), what it means and what to do: of the worst that is wrong."""
    if trouble.denied_since is not None and trouble.denied_last:
        return "keys_rejected", trouble.denied_since, f"{origin} refused these keys when it was asked last", _CHECK_KEYS
    if trouble.silent_since is not None:
        said = f"{origin} does not answer; what is known is served"
        return "not_answering", trouble.silent_since, said, f"check the network and --proxy; {_TRY_AGAIN}"
    if trouble.failing_since is not None:
        said = f"{origin} cannot be reached, or fails whatever it is asked; what is known is served"
        return "failing", trouble.failing_since, said, f"see the last error; {_TRY_AGAIN}"
    if trouble.strange_since is not None:
        said = f"what answers at {origin} is not Model Lab (a proxy's page?); what is listed is served until it is old"
        return "failing", trouble.strange_since, said, "see the last error; check the network, --proxy and --api-url"
    if trouble.paused_since is not None:
        said = f"the rate limit of these keys is used up for {trouble.paused_s:.0f} s more"
        todo = "wait for the reset; other tools with these keys use up the same limit"
        return "rate_limited", trouble.paused_since, said, todo
    if trouble.old_since is not None:
        if trouble.only_slow:
            said = f"old listings are served: {origin} takes longer to list than anybody waits with those at hand"
            return "degraded", trouble.old_since, said, _IF_SLOW
        served = "old listings are served" if trouble.old_served else "there is no old one to serve"
        said = f"{origin} failed when it was asked for a listing; {served}"
        return "degraded", trouble.old_since, said, f"see the last error; {_TRY_AGAIN}"
    if trouble.denied_since is not None:
        # What failed since was no answer to the question whether it takes them.
        said = f"{origin} refused these keys, and has not taken them since"
        return "keys_rejected", trouble.denied_since, said, _CHECK_KEYS
    return OK, trouble.recovered_at, "the service answered when it was asked last", ""
