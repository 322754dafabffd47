"""A snapshot of the components of a mount, for the reports. All values are in memory: nothing here waits."""

import os
import time
from collections.abc import Callable

import msgspec
import trio

from artifactfs import __version__
from artifactfs.content.context import ContentContext
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control import status_schema
from artifactfs.control.counters import MAX_LISTED, Readings, sections
from artifactfs.control.health import HealthInputs, health_of
from artifactfs.control.recent_errors import RecentErrors
from artifactfs.control.status_schema import Health, Status
from artifactfs.domain import RequestUsage
from artifactfs.fuse.handles import KernelState
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.modellab.auth import KeyRing
from artifactfs.modellab.circuit_breaker import CircuitBreaker
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.rate_limits import LimitState, RateLimits
from artifactfs.modellab.request_stats import RequestStats, StatsSnapshot
from artifactfs.pins import PinFile
from artifactfs.settings import Settings
from artifactfs.tree.tree import Tree
from artifactfs.tree.tree_stats import TreeState
from artifactfs.util.clock import boottime, rfc3339


class MountComponents(msgspec.Struct, frozen=True):
    """The components of a mount that count something. `usage`: returns the requests so far."""

    settings: Settings
    point: str
    log_file: str | None
    service: ModelLab
    usage: Callable[[], RequestUsage]
    request_stats: RequestStats
    breaker: CircuitBreaker
    limits: RateLimits
    tree: Tree
    files: OpenFileTable
    content: ContentContext
    recent_errors: RecentErrors
    nursery: trio.Nursery
    keys: KeyRing
    metadata: WriteBehind | None
    pins: PinFile | None = None


def readings_of(components: MountComponents, kernel: KernelState | None, mounted_at: float) -> Readings:
    """Return the readings of a mount that began at `mounted_at` of the machine's clock."""
    settings, now = components.settings, boottime()
    tree, traffic = components.tree.state(), components.request_stats.traffic()
    limits = components.limits.states(now)
    inputs = _health_inputs(components, traffic, tree, limits, now)
    state, since, message, what_to_do = health_of(inputs, settings.origin)
    disk_cache = components.content.disk_cache
    # The next snapshot shows the sizes that this counts; counting takes a thread.
    disk_cache.look_soon()
    if (metadata := components.metadata) is not None:
        metadata.look_soon()
    return Readings(
        identity={
            "version": __version__,
            "mountpoint": components.point,
            "origin": settings.origin,
            "account": settings.account or "",
        },
        uptime_s=round(now - mounted_at, 3),
        health=Health(state, _when(now - max(since, mounted_at)), message, what_to_do),
        failures=components.recent_errors.total,
        traffic=traffic,
        usage=components.usage(),
        limits=tuple(limits[:MAX_LISTED]),
        cache=disk_cache.state(),
        metadata=metadata.state() if metadata is not None else None,
        reading=components.content.stats,
        tree=tree,
        kernel=kernel,
    )


def status_of(components: MountComponents, readings: Readings) -> Status:
    settings = components.settings
    failures = components.recent_errors.failures()
    return Status(
        schema=status_schema.SCHEMA,
        version=__version__,
        mountpoint=components.point,
        pid=os.getpid(),
        user_id=os.geteuid(),
        mounted_since=_when(readings.uptime_s),
        at=_when(0.0),
        uptime_s=readings.uptime_s,
        health=readings.health,
        origin=settings.origin,
        site=settings.site if settings.is_of_site else None,
        account=settings.account,
        profile=settings.profile,
        ranges=components.content.service.ranges,
        rate_limits=tuple(
            status_schema.RateLimit(
                each.name, _plain(each.limit), _plain(each.remaining), _plain(each.reset_s), each.paused_s
            )
            for each in readings.limits
        ),
        streaming=tuple(
            status_schema.Streaming(body.artifact.project_id, body.artifact.path, body.size, body.came_to, body.fits)
            for body in readings.reading.streams
        ),
        indexes=tuple(
            status_schema.IndexStatus(
                index.project_id, index.state, index.files, round(index.age_s, 3), index.runs_right, index.runs_wrong
            )
            for index in readings.tree.indexes[-MAX_LISTED:]
        ),
        last_traversal=_last_traversal(readings.tree),
        failures=readings.failures,
        last_error=failures[0] if failures else None,
        log_file=components.log_file,
        **sections(readings),
    )


def _health_inputs(
    components: MountComponents, traffic: StatsSnapshot, tree: TreeState, limits: list[LimitState], now: float
) -> HealthInputs:
    paused = max(limits, key=lambda limit: limit.paused_s, default=None)
    breaker = components.breaker
    return HealthInputs(
        denied_since=traffic.denied_since,
        denied_last=traffic.denied_last,
        silent_since=breaker.silent_since,
        failing_since=breaker.failing_since,
        strange_since=breaker.foreign_since,
        paused_s=paused.paused_s if paused is not None else 0.0,
        paused_since=paused.paused_since if paused is not None else None,
        stale_since=tree.degraded_since,
        stale_served=tree.degraded_with_stale,
        only_slow=not tree.degraded_with_errors,
        recovered_at=max(
            traffic.taken_at, breaker.recovered_at, tree.recovered_at, components.limits.recovered_at(now)
        ),
        offline=breaker.offline,
    )


def _last_traversal(tree: TreeState) -> status_schema.LastTraversal | None:
    if (last := tree.last_walk) is None:
        return None
    return status_schema.LastTraversal(
        last.run_id, last.directories, round(last.seconds, 3), last.cost.requests, last.cost.received_bytes
    )


def _plain(value: float | None) -> float | None:
    """Return a number as an integer if it is one, otherwise rounded."""
    return None if value is None else int(value) if value == int(value) else round(value, 3)


def _when(ago_s: float) -> str:
    return rfc3339(time.time() - ago_s)
