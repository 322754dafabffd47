"""A look at the parts of a mount: what each knows, as one Status. All of it is at hand: nothing here waits."""

import datetime
import math
import os
import time
from collections.abc import Callable

import msgspec
import trio

from artifactfs import __version__
from artifactfs.content import read_stats as content_tally
from artifactfs.content.context import ContentContext
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control import status_schema
from artifactfs.control.recent_errors import Failure, RecentErrors
from artifactfs.control.status_schema import Failed, HealthInputs, Status
from artifactfs.domain import RequestUsage
from artifactfs.fuse.operations import KernelState
from artifactfs.modellab.auth import KeyRing
from artifactfs.modellab.circuit_breaker import CircuitBreaker
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.request_stats import HEAD_BOUNDS_S, RequestStats, StatsSnapshot
from artifactfs.settings import Settings
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_stats import TreeState
from artifactfs.util.clock import boottime

# A server can name as many rate limits and projects as it likes; so many are shown.
_MAX_SHOWN = 50
# 400 years, after which the calendar repeats itself.
_GREGORIAN_S = 146_097 * 86_400


class MountComponents(msgspec.Struct, frozen=True):
    """The parts of a mount that know something. `cost`: what was asked so far."""

    settings: Settings
    point: str
    log_file: str | None
    service: ModelLab
    cost: Callable[[], RequestUsage]
    tally: RequestStats
    breaker: CircuitBreaker
    limits: RateLimits
    tree: Tree
    files: OpenFileTable
    shop: ContentContext
    journal: RecentErrors
    nursery: trio.Nursery
    keys: KeyRing


def look(parts: MountComponents, kernel: KernelState | None, began: float) -> Status:
    """Return how a mount is that `began` at that moment of the machine's clock."""
    settings, tree, now = parts.settings, parts.tree.state(), boottime()
    cost, traffic = parts.cost(), parts.tally.traffic()
    state, since, said, todo = status_schema.health_of(_trouble(parts, traffic, tree, now), settings.origin)
    last = failures(parts)
    return Status(
        schema=status_schema.SCHEMA,
        version=__version__,
        mountpoint=parts.point,
        pid=os.getpid(),
        user_id=os.geteuid(),
        mounted_since=_when(now - began),
        at=_when(0.0),
        uptime_s=round(now - began, 3),
        health=status_schema.Health(state, _when(now - max(since, began)), said, todo),
        origin=settings.origin,
        site=settings.site if settings.api_url == f"https://api.{settings.site}" else None,
        account=settings.account,
        profile=settings.profile,
        ranges=parts.shop.service.ranges,
        requests=_requests(traffic, cost),
        rate_limits=tuple(
            status_schema.RateLimit(
                limit.name, _plain(limit.limit), _plain(limit.remaining), _plain(limit.reset_s), limit.paused_s
            )
            for limit in parts.limits.states(now)[:_MAX_SHOWN]
        ),
        cache=_cache(parts),
        reading=_reading(parts),
        listings=_listings(tree),
        open=status_schema.Open()
        if kernel is None
        else status_schema.Open(kernel.inodes, kernel.open_files, kernel.open_directories, kernel.open_without_size),
        failures=parts.journal.total,
        last_error=last[0] if last else None,
        log_file=parts.log_file,
    )


def failures(parts: MountComponents) -> list[Failed]:
    """Return the failures of a mount, the last first."""
    return [_failed(failure) for failure in parts.journal.failures()]


def rfc3339(seconds: float) -> str:
    """Return a moment (seconds since the epoch) as RFC 3339, in UTC, to the second that it is in: as `stat` shows it.

    Any moment: the years 0 and 10000, which offsets can lead to, have the form of the others.
    """
    # datetime ends at the years 1 and 9999, and strftime writes the year 1 as `1`.
    cycles, within_s = divmod(math.floor(seconds), _GREGORIAN_S)
    when = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=within_s)
    return f"{when.year + 400 * cycles:04}-{when:%m-%dT%H:%M:%SZ}"


def _trouble(parts: MountComponents, traffic: StatsSnapshot, tree: TreeState, now: float) -> HealthInputs:
    paused = max(parts.limits.states(now), key=lambda limit: limit.paused_s, default=None)
    breaker = parts.breaker
    return HealthInputs(
        denied_since=traffic.denied_since,
        denied_last=traffic.denied_last,
        silent_since=breaker.silent_since,
        failing_since=breaker.failing_since,
        strange_since=breaker.strange_since,
        paused_s=paused.paused_s if paused is not None else 0.0,
        paused_since=paused.paused_since if paused is not None else None,
        old_since=tree.trouble_since,
        old_served=tree.trouble_old,
        only_slow=not tree.trouble_errors,
        recovered_at=max(traffic.taken_at, breaker.recovered_at, tree.recovered_at, parts.limits.recovered_at(now)),
    )


def _requests(traffic: StatsSnapshot, cost: RequestUsage) -> status_schema.Requests:
    times = {}
    for kind, heads in traffic.heads.items():
        within, so_far = [], 0
        for count in heads.counts[:-1]:
            so_far += count
            within.append(so_far)
        times[kind] = status_schema.Times(heads.count, round(heads.sum_s, 6), HEAD_BOUNDS_S, tuple(within))
    paused_s = round(cost.paused_s, 3)
    return status_schema.Requests(traffic.outcomes, times, cost.received_bytes, traffic.bodies_broken, paused_s)


def _cache(parts: MountComponents) -> status_schema.Cache:
    keeper = parts.shop.disk_cache
    # For the next one who asks: this one gets what was seen last.
    keeper.look_soon()
    if (cache := keeper.state()) is None:
        return status_schema.Cache(None)
    return status_schema.Cache(
        cache.directory,
        cache.size_bytes,
        cache.limit_bytes,
        cache.free_bytes,
        cache.evicted_files,
        cache.evicted_bytes,
        cache.waiting_bytes,
        cache.keeps_up,
    )


def _reading(parts: MountComponents) -> status_schema.Reading:
    sources = content_tally.sources(parts.shop.stats)
    return status_schema.Reading(
        memory_reads=sources.memory_reads,
        memory_bytes=sources.memory_bytes,
        disk_blocks=sources.disk_blocks,
        disk_bytes=sources.disk_bytes,
        fetched_blocks=sources.fetched_blocks,
        fetched_bytes=sources.fetched_bytes,
        streamed=sources.streamed,
        restarted=sources.restarted,
        streaming=tuple(
            status_schema.Streaming(each.project_id, each.path, each.size_bytes, each.came_to, each.fits)
            for each in sources.streaming
        ),
    )


def _listings(tree: TreeState) -> status_schema.Listings:
    last = tree.last_walk
    return status_schema.Listings(
        remembered=tree.listings,
        entries=tree.entries,
        runs=tree.runs,
        projects=tree.projects,
        old_served=tree.old_served,
        walking=tree.walking,
        walks=tree.walks,
        listed_ahead=tree.listed_ahead,
        last_walk=None
        if last is None
        else status_schema.LastWalk(
            last.run_id, last.directories, round(last.seconds, 3), last.cost.requests, last.cost.received_bytes
        ),
        indexes=tuple(
            status_schema.IndexStatus(
                index.project_id, index.state, index.files, round(index.age_s, 3), index.runs_right, index.runs_wrong
            )
            for index in tree.indexes[-_MAX_SHOWN:]
        ),
    )


def _failed(failure: Failure) -> Failed:
    first, last = rfc3339(failure.first_at), rfc3339(failure.last_at)
    return Failed(failure.message, failure.what_to_do, failure.count, first, last)


def _plain(value: float | None) -> float | None:
    """Return a number without a fraction that says nothing."""
    return None if value is None else int(value) if value == int(value) else round(value, 3)


def _when(ago_s: float) -> str:
    return rfc3339(time.time() - ago_s)
