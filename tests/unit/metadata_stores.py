"""Stores of metadata for tests, and what is in them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from artifactfs.metadata.metadata_store import Marking, MetadataStore, Record

SITE = "https://api.datadoghq.com"
NOW = 10_000.0
DATABASE = "metadata-1.sqlite"
LOCK = "metadata-1.lock"


def of_run(run_id: int, count: int = 20, *, at: float = 100.0, size: int = 500) -> list[Record]:
    """Return listings of a run, whose values say what they are of."""
    return [
        Record("listing", run_id, b"dir/%04d" % index, b"%d %d %d;" % (run_id, index, at) * (size // 10), at)
        for index in range(count)
    ]


@contextlib.contextmanager
def opened(
    path: Path,
    *,
    max_bytes: int = 64 << 20,
    is_pinned: Callable[[int], bool] = lambda _: False,
    clock: Callable[[], float] = lambda: NOW,
) -> Iterator[MetadataStore]:
    """Lend an open store, closed at the end."""
    store = MetadataStore(str(path), max_bytes=max_bytes, is_pinned=is_pinned, clock=clock)
    assert store.open(), store.failure
    try:
        yield store
    finally:
        store.close()


def filled(path: Path) -> int:
    """Make a database of 11 runs of two accounts, in which run 7 is stale for the first; returns the first's scope."""
    with opened(path) as store:
        other = store.scope("https://api.datadoghq.eu", "you")
        scope = store.scope(SITE, "me")
        for run_id in range(1, 12):
            assert store.write(scope, of_run(run_id))
            assert store.write(other, of_run(run_id, at=300.0))
        assert store.write(scope, [*of_run(0), Marking(7)])
    return scope
