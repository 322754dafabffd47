"""The values that the rooms hand each other: runs, projects, listings, references to file contents. No I/O.

modellab makes them from the service's answers; tree and content work with them and know nothing of the service.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Literal

import msgspec

# NAME_MAX of every filesystem of Linux, in bytes.
NAME_MAX_BYTES = 255

# What a run's status may be, as the service documents it.
STATUSES = ("pending", "running", "completed", "failed", "killed", "unresponsive", "paused")
FINISHED = frozenset({"completed", "failed", "killed"})
# A loss that has diverged: JSON has no number for it.
NotFinite = Literal["NaN", "Infinity", "-Infinity"]
Value = float | NotFinite


class Run(msgspec.Struct, frozen=True, gc=False):
    """A run. Times are nanoseconds since the epoch, None where the server gave none that can be read."""

    run_id: int
    project_id: str
    name: str = ""
    status: str = ""
    created_ns: int | None = None
    completed_ns: int | None = None
    updated_ns: int | None = None
    deleted: bool = False


def is_finished(run: Run) -> bool:
    """Whether a run has ended, by its status."""
    return run.status.lower() in FINISHED


class Project(msgspec.Struct, frozen=True, gc=False):
    """A project. Times are nanoseconds since the epoch, None where the server gave none that can be read."""

    project_id: int
    name: str = ""
    updated_ns: int | None = None
    deleted: bool = False


class Pair(msgspec.Struct, frozen=True):
    """A parameter or a tag. A value that is neither text, number nor truth is its JSON."""

    key: str
    value: str


def by_key(pairs: Iterable[Pair]) -> dict[str, str | list[str]]:
    """Return pairs by their keys; of one with several values all of them, each once, in order."""
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        found.setdefault(pair.key, {})[pair.value] = None
    return {key: list(values) if len(values) > 1 else next(iter(values)) for key, values in found.items()}


class Metric(msgspec.Struct, frozen=True):
    """A metric in summary. None: the service did not say, or said no number."""

    key: str
    latest: Value | None = None
    min: Value | None = None
    max: Value | None = None
    mean: Value | None = None
    count: int | None = None
    first_step: int | None = None
    last_step: int | None = None


class RunDetails(msgspec.Struct, frozen=True):
    """A run, as the service describes it. Times are RFC 3339 text, `duration_s` seconds."""

    run_id: int
    project_id: str
    name: str
    status: str
    description: str | None
    created_at: str | None
    started_at: str | None
    updated_at: str | None
    completed_at: str | None
    duration_s: float | None
    owner_id: str | None
    external_url: str | None
    params: tuple[Pair, ...]
    tags: tuple[Pair, ...]
    metrics: tuple[Metric, ...]
    has_children: bool = False


class ProjectDetails(msgspec.Struct, frozen=True):
    """A project, as the service describes it."""

    project_id: int
    name: str
    description: str | None
    created_at: str | None
    updated_at: str | None
    owner_id: str | None
    external_url: str | None
    tags: tuple[Pair, ...]


class RunRecord(msgspec.Struct, frozen=True, gc=False):
    """A run of a list, with its RunDetails as JSON: thousands of them are cached, and few are looked into."""

    run: Run
    details: bytes


class ParamTest(msgspec.Struct, frozen=True):
    """What a parameter must be: `value` as text, or a number for a `sign` of >, >=, < or <=."""

    key: str
    value: str
    sign: str = ""


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs are meant: those for which all of this holds. None, and nothing, hold for all.

    `text`: in the name or the description. `owner`: a UUID. `parent`: a run's id; 0 for runs without a parent.
    """

    project_id: int | None = None
    text: str = ""
    status: str | None = None
    owner: str | None = None
    parent: int | None = None
    tags: tuple[tuple[str, str], ...] = ()
    params: tuple[ParamTest, ...] = ()


class FacetKeys(msgspec.Struct, frozen=True):
    """The keys that occur in a project's runs."""

    params: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


_LEAD = re.compile(r"\A(?:\.?/)+")


class ListedChild(msgspec.Struct, frozen=True, gc=False):
    """An entry of a directory. `size_bytes` None: unknown. `created_ns`: a file's own time, since the epoch."""

    name: bytes
    is_dir: bool
    size_bytes: int | None = None
    created_ns: int | None = None


class Children(msgspec.Struct):
    """The children of one directory, by name, in the server's order, and the rows that were left out.

    `bad_names`: rows that no filesystem can hold (1.3). `shadowed`: files hidden by a directory of the same
    name (1.5).
    """

    by_name: dict[bytes, ListedChild]
    bad_names: int = 0
    shadowed: list[bytes] = []


def without_lead(path: str) -> str:
    """Return a path without the `/` and `./` that it begins with; "" for one that is nothing else."""
    return _LEAD.sub("", path) if path.startswith(("/", "./")) else path


def below_prefix(prefix: str, path: str) -> str:
    """Return the path in the project of `path` in a run, which the content endpoint takes (model-lab-api.md).

    `prefix`: the run's `path_in_project`, opaque. Where it is empty, or slashes alone, the path stands alone.
    """
    root = prefix.rstrip("/")
    return f"{root}/{path}" if root and path else root or path


def encode_name(name: str) -> bytes | None:
    """Return the bytes of a name, or None for one that no filesystem can hold (docs/semantics.md 1.3)."""
    if name in ("", ".", "..") or "\0" in name or "/" in name:
        return None
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return encoded if len(encoded) <= NAME_MAX_BYTES else None


class DirectoryListing(msgspec.Struct, frozen=True):
    """One directory of a run: its children, and the run's opaque `path_in_project`."""

    children: Children
    path_in_project: str


class IndexedFile(msgspec.Struct, frozen=True, gc=False):
    """A file as a project's listing names it. `path`: what the content endpoint takes as `artifact_path`.

    `size_bytes` and `created_ns` (since the epoch) are None where the listing has none that can be read.
    """

    path: str
    size_bytes: int | None = None
    created_ns: int | None = None


class ArtifactRef(msgspec.Struct, frozen=True):
    """The place of an artifact's contents: `path` is the endpoint's artifact_path, relative to the project.

    `version`: a stamp in hex that changes with the contents; empty if none is known. Where requests name the
    version, a cache on the way may answer with its copy of that version (4.3).
    """

    project_id: str
    path: str
    version: str = ""


class ContentVersion(msgspec.Struct, frozen=True):
    """One version of a file's contents: its place, its size in bytes (None: unknown), and its identity over remounts.

    `content_stamp`: a digest of the times of a settled run, and of `variant`; or else of the file's own time; None
    where neither is known (docs/semantics.md 4.3). `variant` tells versions of one size apart; 0 is the first that was
    seen. `settled`: the run is over, so that the file is as it was listed. `lineage`: the inode number, which a version
    keeps while it grows (2.4); None: it cannot grow. `is_listed`: the size comes from a listing, not from the contents.
    `place`: "<run id>/<path in the run>".
    """

    artifact: ArtifactRef
    size_bytes: int | None
    content_stamp: bytes | None = None
    variant: int = 0
    settled: bool = True
    lineage: int | None = None
    is_listed: bool = True
    place: str = ""

    @property
    def named_artifact(self) -> ArtifactRef:
        """The artifact, with the name of the version for a cache on the way (docs/fleets.md)."""
        stamp, size = self.content_stamp, self.size_bytes
        if stamp is None:
            return self.artifact
        # With the size, since a cache on the way would also answer with a file of another size.
        version = stamp.hex() + (f"{size:x}" if size is not None else "")
        return msgspec.structs.replace(self.artifact, version=version)


# Returns pieces of memory for the next bytes of a body, in order; none if there is none for them now.
Room = Callable[[], Sequence[memoryview]]
Chunk = bytes | memoryview


def _nowhere(_room: Room) -> None:
    """Pieces of a body come as they are."""


class ContentBody(msgspec.Struct):
    """An answer's body: bytes [start, end) of the artifact as they come.

    `end` and `total` (the artifact's size in bytes) are None where the answer does not say. `whole`: the server
    ignored the range and sends everything. `validator`: a digest of what names this version of the artifact.
    `is_framed`: its end is marked, by a length or a last chunk; otherwise it ends as the connection does.
    `receive_into`: called before the first chunk, lets chunks be received right into memory, whose parts they then are.
    """

    start: int
    end: int | None
    total: int | None
    whole: bool
    validator: bytes | None
    chunks: AsyncIterator[Chunk]
    is_framed: bool = True
    receive_into: Callable[[Room], None] = _nowhere


class RequestUsage(msgspec.Struct, frozen=True):
    """The cost of requests: their number by kind, bytes of bodies received, seconds that a rate limit cost."""

    requests: dict[str, int]
    received_bytes: int = 0
    paused_s: float = 0.0

    def __sub__(self, earlier: "RequestUsage") -> "RequestUsage":
        return RequestUsage(
            {kind: n for kind, count in self.requests.items() if (n := count - earlier.requests.get(kind, 0))},
            self.received_bytes - earlier.received_bytes,
            self.paused_s - earlier.paused_s,
        )

    def __add__(self, other: "RequestUsage") -> "RequestUsage":
        return RequestUsage(
            dict(Counter(self.requests) + Counter(other.requests)),
            self.received_bytes + other.received_bytes,
            self.paused_s + other.paused_s,
        )
