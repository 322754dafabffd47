"""Builds the components of a mount from its settings, but those of FUSE; session.py connects them."""

import time
from typing import Any, NamedTuple

import trio

from artifactfs.content import cache_dir
from artifactfs.content.block_buffers import BlockBuffers, NewBuffer
from artifactfs.content.block_store import BlockStore
from artifactfs.content.content_tuning import BLOCK_BYTES
from artifactfs.content.context import ContentContext
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.domain import RequestUsage
from artifactfs.metadata.metadata_store import MetadataStore
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.modellab.auth import Credentials, KeyRing
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.places import CONCURRENCY, RESERVED
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.request_stats import RequestStats
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.transport import Transport
from artifactfs.pins import PinFile
from artifactfs.settings import Settings
from artifactfs.tree.listing import TreeTimes
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_tuning import TreeTuning
from artifactfs.util.backoff import backoff_s
from artifactfs.util.clock import boottime

# Memory for file contents: blocks of the readers, and read-ahead. With the 60 MiB of the interpreter a mount stays
# below 200 MiB, with any number of open files.
_POOL_BYTES = 48 << 20
_AHEAD_BYTES = 40 << 20
# Buffers that are used again: the pool, what waits for the disk, and what is being loaded or received.
_BUFFER_BYTES = 96 << 20
_CLOSE_S = 1.0


def credentials(settings: Settings) -> Credentials:
    return Credentials(settings.api_key, settings.app_key, settings.access_token)


def account_of(settings: Settings, credentials: Credentials) -> str:
    """Return the account that owns what is cached: its name, or else a digest of its key; "" without keys.

    So without the setting `account`, new keys may be those of another account (docs/semantics.md 6.3).
    """
    # No digest begins with "=", so no name equals one.
    return f"={settings.account}" if settings.account is not None else credentials.account()


def owner(settings: Settings, account: str) -> str:
    """Return the owner of cached contents: the site and the account."""
    return f"{settings.api_url}\0{account}"


class Transports:
    """Transports with places of their own, and common limits, breaker and counts.

    Slow bodies must not keep a listing from a place, and stuck requests must not keep a probe from one. Contents use
    the connections of listings: a new one costs two round trips or three. A probe must not meet one that is dead.
    """

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self.limits = RateLimits()
        self.breaker = CircuitBreaker(settings.origin)
        self.request_stats = RequestStats(boottime)
        self._settings, self._keys = settings, keys
        self._all: list[Transport] = []
        common: dict[str, Any] = {"breaker": self.breaker, "tally": self.request_stats}
        self.listings = self._new(**common)
        self.contents = self._new(**common, shares=self.listings)
        self.probes = self._new(**common)

    def for_reconnecting(self) -> Transport:
        """Return one that asks while the breaker lets nothing through: one attempt, and its failures count nowhere."""
        return self._new(retry_policy=RetryPolicy(max_attempts=1))

    def usage(self) -> RequestUsage:
        return sum((transport.cost() for transport in self._all), RequestUsage({}, 0, 0.0))

    async def aclose(self) -> None:
        """Close all connections, also after a cancellation, within a second."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
            for transport in self._all:
                await transport.aclose()

    def _new(self, **more: Any) -> Transport:
        settings = self._settings
        transport = Transport(
            settings.api_url, self._keys, proxy=settings.proxy, ca_file=settings.ca_file, clock=boottime,
            limits=self.limits, **more,
        )  # fmt: skip
        self._all.append(transport)
        return transport


def tree(settings: Settings, service: ModelLab, store: WriteBehind | None, nursery: trio.Nursery) -> Tree:
    return Tree(
        service,
        site=settings.api_url,
        nursery=nursery,
        clock=boottime,
        times=TreeTimes(
            listing_ttl=settings.listing_ttl,
            finished_ttl=settings.finished_ttl,
            negative_ttl=settings.negative_ttl,
            stale_max=settings.stale_max,
            live_ttl=settings.live_ttl,
        ),
        tuning=TreeTuning(probe_interval_s=PROBE_INTERVAL_S, max_prefetches=CONCURRENCY - RESERVED),
        runs_listed=settings.runs_listed,
        prefetch=settings.prefetch,
        store=store,
    )


def metadata_store(settings: Settings, blocks: BlockStore | None, pins: PinFile | None) -> MetadataStore | None:
    """Return the store of metadata, beside the cache of contents; None where either is off, or cannot be used."""
    if blocks is None or not settings.metadata_size:
        return None
    is_pinned = pins.has_run if pins is not None else lambda _run_id: False
    store = MetadataStore(blocks.directory, max_bytes=settings.metadata_size, is_pinned=is_pinned)
    return store if store.open() else None


class StoredAccount(NamedTuple):
    """The account that the site was mounted with last, for a mount without keys or network; None where none is known.

    `failure`: why what is stored cannot be read. `is_other`: nothing is stored of the account that was asked for.
    """

    account: str | None
    failure: str = ""
    is_other: bool = False


def stored_account(settings: Settings, wanted: str) -> StoredAccount:
    """Return what is stored of the site, as a mount of an account without the service needs it; "": of any account."""
    if settings.offline == "never" or not settings.metadata_size or not settings.cache_size:
        return StoredAccount(None)
    try:
        store = MetadataStore(cache_dir.find(settings.cache_dir).path, max_bytes=settings.metadata_size)
    except FileNotFoundError:
        return StoredAccount(None)  # no mount has made it yet
    except OSError as error:
        return StoredAccount(None, error.strerror or str(error))
    try:
        if store.exists() and store.open():
            site = settings.api_url
            last = store.last_account(site)
            is_other = last is not None and bool(wanted) and last != wanted and not store.has_account(site, wanted)
            return StoredAccount(last, is_other=is_other)
        return StoredAccount(None, store.failure)
    finally:
        store.close()


def block_buffers() -> BlockBuffers:
    return BlockBuffers(BLOCK_BYTES, _BUFFER_BYTES)


def block_store(settings: Settings, new_buffer: NewBuffer) -> BlockStore | None:
    if settings.cache_size == 0:
        return None
    store = BlockStore(
        settings.cache_dir,
        max_bytes=settings.cache_size,
        min_free_bytes=settings.cache_min_free,
        new_buffer=new_buffer,
        pins=PinFile,
    )
    return store if store.claim() else None


def content_context(
    settings: Settings, contents: Transport, disk_cache: DiskCache, nursery: trio.Nursery, new_buffer: NewBuffer
) -> ContentContext:
    return ContentContext(
        service=ContentEndpoint(contents, deadline_s=settings.deadline, name_versions=settings.version_header),
        disk_cache=disk_cache,
        pool=BlockPool(_POOL_BYTES),
        budget=ReadaheadBudget(_AHEAD_BYTES),
        nursery=nursery,
        wall_clock=time.time,
        deadline_s=settings.deadline,
        listing_ttl_s=settings.listing_ttl,
        backoff_s=backoff_s,
        new_buffer=new_buffer,
    )
