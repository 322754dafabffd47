"""One mount, from its parts to its end: builds them from Settings, owns the root nursery, the signals, readiness
and the unmount.

What is hard is the end. It comes by a signal, by somebody's `umount`, or by a lazy one that leaves the kernel's
connection open for files still in use. `terminate` lets the requests in flight end; after a grace they are
cancelled (pitfalls.md); whatever is still mounted is then detached, open files or not (semantics 5.6).
"""

import faulthandler
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import pyfuse3
import trio

from artifactfs import logs
from artifactfs.content.block_store import BlockStore
from artifactfs.content.context import ContentContext
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.memory_cache import BlockPool, ReadaheadBudget
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control.commands import Control
from artifactfs.control.recent_errors import RecentErrors
from artifactfs.control.snapshot import MountComponents
from artifactfs.domain import RequestUsage
from artifactfs.errors import ExitCode, UserError
from artifactfs.fuse.control_files import ControlFiles
from artifactfs.fuse.kernel_dentries import KernelDentries
from artifactfs.fuse.operations import Operations, Ownership
from artifactfs.fuse.request_loop import RequestLoop
from artifactfs.fuse.trace import trace
from artifactfs.fuse.xattrs import OperationsWithXattrs
from artifactfs.logs import LogDestination
from artifactfs.modellab.auth import Credentials, KeyRing
from artifactfs.modellab.circuit_breaker import PROBE_INTERVAL_S, CircuitBreaker
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.content_endpoint import ContentEndpoint
from artifactfs.modellab.liveness import Liveness
from artifactfs.modellab.rate_limits import RateLimits
from artifactfs.modellab.request_stats import RequestStats
from artifactfs.modellab.transport import CONCURRENCY, RESERVED, Transport
from artifactfs.mount import account_switch, mount_owner, mount_table, preflight, presence, registry, unmount
from artifactfs.mount.daemon import Parent
from artifactfs.mount.sd_notify import Notifier
from artifactfs.settings import Settings
from artifactfs.tree.control_dir import Reports
from artifactfs.tree.listing import TreeTimes
from artifactfs.tree.nodes import InodeNumbers
from artifactfs.tree.tree import Tree
from artifactfs.tree.tuning import TreeTuning
from artifactfs.util import headroom
from artifactfs.util.clock import boottime

log = logging.getLogger(__name__)

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# Sent by mistake these would end the process and leave a dead mount (semantics 5.5).
_IGNORED_SIGNALS = (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGPOLL)
# For requests in flight when the mount ends; then they are cancelled. Within the 3 s of semantics 5.6.
_GRACE_S = 0.5
_CLOSE_S = 1.0
_FLUSH_S = 1.0
# Memory for contents: blocks that readers are at, and bytes asked for ahead of them. With the interpreter's own 60 MiB
# it stays below 200 MiB whatever is open.
_POOL_BYTES = 48 << 20
_AHEAD_BYTES = 40 << 20
# What the kernel reads ahead, where we may say so (as root): in pieces of 128 KiB the same bytes cost twice the time
# (measured 2026-11-23: 512 MiB in 1.1 s, against 0.55 s).
_KERNEL_READ_AHEAD_KIB = 512
# pyfuse3's workers: above the reads (12 in flight at most) and all the lookups that a busy machine can have
# waiting, so that a slow one never keeps an unrelated one from a worker (pitfalls.md).
_MAX_WORKERS = 1000
# Workers that stay when there is nothing to do. With pyfuse3's 1, each request starts a task and ends one.
_IDLE_WORKERS = 12


def run(
    settings: Settings,
    point: str,
    *,
    target: LogDestination,
    parent: Parent | None,
    notify: Notifier | None = None,
) -> int:
    """Mount at `point` and serve until the mount ends; returns the exit code.

    `target`: where the log goes. `parent`: is told when the kernel has begun to talk to us, as is `notify`; None for a
    mount in front: on a terminal SIGHUP ends it, as it does any program there. Raises UserError before anything is
    mounted.
    """
    _no_core_dumps()
    # What a mount writes (log, cache, register) is its user's alone, whatever the caller's mask.
    os.umask(0o077)
    headroom.refuse_threads()
    notify = notify or Notifier()
    try:
        logs.configure(target, verbose=settings.verbose, secrets=settings.secrets())
        journal = RecentErrors()
        logs.hear(journal)
    except OSError as error:
        raise UserError(
            ExitCode.NOT_WRITABLE,
            f"cannot write the log to {target.place}: {error.strerror}; choose another with --log-file or --log-to",
        ) from None
    # A wedged loop can be asked where it stands: kill -USR1.
    trace = open(target.file, "a", encoding="utf-8", opener=logs.opener) if target.file else None  # noqa: SIM115
    with trace or nullcontext():
        faulthandler.register(signal.SIGUSR1, file=trace or 2)
        try:
            hangup_ends = parent is None and _ends_with_its_terminal()
            trio.run(_serve, settings, point, target.file, journal, hangup_ends, parent, notify)
        except BaseException as error:
            cause = _single(error)
            if isinstance(cause, UserError):
                log.error("%s", cause)  # noqa: TRY400 - a sentence for the user; its cause is in it
                notify.failed(str(cause))
                raise cause from None
            if not isinstance(cause, KeyboardInterrupt):
                log.exception("the mount at %s failed", point)
            raise cause from None
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    return ExitCode.OK


def _ends_with_its_terminal() -> bool:
    """Tell whether SIGHUP says that our terminal is gone: not without one, nor to who has us ignore it (nohup)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


async def _serve(
    settings: Settings,
    point: str,
    log_file: str | None,
    journal: RecentErrors,
    hangup_ends: bool,
    parent: Parent | None,
    notify: Notifier,
) -> None:
    limits, breaker, tally = RateLimits(), CircuitBreaker(settings.origin), RequestStats(boottime)
    credentials = Credentials(settings.api_key, settings.app_key, settings.access_token)
    keys = KeyRing(credentials, source=settings.keys, clock=boottime)
    # Pools of their own: a dozen bodies that come slowly must not keep a listing from a connection, and what is stuck
    # must not keep the question from one whether the service lives.
    listings, contents, questions = (
        Transport(
            settings.api_url,
            keys,
            proxy=settings.proxy,
            ca_file=settings.ca_file,
            clock=boottime,
            limits=limits,
            breaker=breaker,
            tally=tally,
        )
        for _ in range(3)
    )
    # A little less than an operation's own: so that it ends with what went wrong, not with its time.
    service = ModelLab(listings, deadline_s=settings.deadline * 0.95)

    def cost() -> RequestUsage:
        return listings.cost() + contents.cost() + questions.cost()

    try:
        await preflight.reach(service, settings, notify, parent)
        async with trio.open_nursery() as root:
            Liveness(breaker, questions, root, clock=boottime, limit_s=settings.deadline)
            tree = Tree(
                service,
                site=settings.api_url,
                nursery=root,
                clock=boottime,
                times=TreeTimes(settings.listing_ttl, settings.finished_ttl, settings.negative_ttl, settings.stale_max),
                tuning=TreeTuning(probe_interval_s=PROBE_INTERVAL_S, max_prefetches=CONCURRENCY - RESERVED),
                runs_listed=settings.runs_listed,
                prefetch=settings.prefetch,
            )
            keeper = DiskCache(_block_store(settings), root)
            shop = _shop(settings, contents, keeper, root)
            files = OpenFileTable(shop, owner=account_switch.owner(settings, credentials))
            begun = trio.Event()

            def on_begun() -> None:
                begun.set()
                if parent is not None:
                    parent.ready()
                notify.ready(_status(settings, point))

            parts = MountComponents(
                settings, point, log_file, service, cost, tally, breaker, limits, tree, files, shop, journal, root,
                keys,
            )  # fmt: skip
            control = Control(parts, KernelDentries())
            operations = _operations(settings, tree, files, control, on_begun)
            control.operations = operations
            follow = account_switch.follower(settings, tree, files, operations)

            async def refresh() -> None:
                notify.reloading()
                await control.refresh_all()
                log.info("SIGHUP: the next look at anything is fresh")
                notify.ready(_status(settings, point))

            def on_keys(changed: Credentials) -> None:
                follow(changed)
                control.forget()

            keys.start(root, on_keys)
            keeper.sweep_soon()
            await _mounted(settings, point, operations, control, refresh, hangup_ends, begun, notify)
            log.info("requests sent: %s", cost().requests)
            with trio.move_on_after(_FLUSH_S):
                await keeper.flush()
            root.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
            for transport in (listings, contents, questions):
                await transport.aclose()


def _block_store(settings: Settings) -> BlockStore | None:
    if settings.cache_size == 0:
        return None
    store = BlockStore(settings.cache_dir, max_bytes=settings.cache_size, min_free_bytes=settings.cache_min_free)
    return store if store.claim() else None


def _shop(settings: Settings, contents: Transport, keeper: DiskCache, nursery: trio.Nursery) -> ContentContext:
    return ContentContext(
        service=ContentEndpoint(contents, deadline_s=settings.deadline, name_versions=settings.version_header),
        keeper=keeper,
        pool=BlockPool(_POOL_BYTES),
        budget=ReadaheadBudget(_AHEAD_BYTES),
        nursery=nursery,
        wall_clock=time.time,
        deadline_s=settings.deadline,
        listing_ttl_s=settings.listing_ttl,
    )


def _status(settings: Settings, point: str) -> str:
    return f"{settings.origin} at {point}"


def _operations(
    settings: Settings, tree: Tree, files: OpenFileTable, control: Control, on_ready: Callable[[], None]
) -> Operations:
    make = partial(OperationsWithXattrs, xattrs=control.xattrs) if settings.xattrs else Operations
    makers, orders = control.makers(), control.orders()
    operations = make(
        tree,
        files,
        Ownership(settings.uid, settings.gid, settings.umask, settings.allow_other),
        deadline_s=settings.deadline,
        on_ready=on_ready,
        desk=ControlFiles(Reports(InodeNumbers(settings.api_url), time.time_ns(), makers, orders), makers, orders),
    )
    trace(operations)
    return operations


async def _mounted(
    settings: Settings,
    point: str,
    operations: Operations,
    control: Control,
    refresh: Callable[[], Awaitable[None]],
    hangup_ends: bool,
    begun: trio.Event,
    notify: Notifier,
) -> None:
    """Mount, serve until the end, unmount. `begun` is set when the kernel has begun to talk to us."""
    _register(point)
    # Signals first: one that comes between the mount and its receiver would end the process and leave the mount.
    with trio.open_signal_receiver(*_ENDING, *_IGNORED_SIGNALS, signal.SIGHUP) as received:
        _mount(settings, point, operations)
        mount: mount_table.Mount | None = None
        try:
            mount = presence.own_row(point)
            log.info("mounted %s", _status(settings, point))
            # What exists now stays: no collection needs to look at it again, and each would stop the loop.
            gc.collect()
            gc.freeze()
            async with trio.open_nursery() as nursery:
                main = trio.CancelScope()
                end = GracefulShutdown(main, operations, control)
                nursery.start_soon(_signals, received, refresh, end, nursery, hangup_ends)
                nursery.start_soon(operations.callers.watch)
                if mount is not None:
                    nursery.start_soon(presence.end_when_unmounted, mount.device, end)
                    nursery.start_soon(_read_ahead, mount.device, begun)
                with main:
                    await RequestLoop().main(_IDLE_WORKERS, _MAX_WORKERS)
                nursery.cancel_scope.cancel()
        finally:
            notify.stopping()
            control.end()
            pyfuse3.close(unmount=presence.take_away(point, mount))
            log.info("unmounted %s", point)


def _mount(settings: Settings, point: str, operations: Operations) -> None:
    options = {*pyfuse3.default_options, "ro", "nosuid", "nodev", "subtype=artifactfs"}
    options |= settings.kernel_options | {_Option(f"fsname={settings.fsname}")}
    if settings.allow_other:
        options.add("allow_other")
    with _captured_stderr() as said:
        try:
            pyfuse3.init(operations, point, options)
        except RuntimeError as error:
            cause = said() or f"{error}; is it yours, and not busy?"
            if "Operation not permitted" in cause:
                if os.geteuid() == 0 and mount_owner.in_user_namespace():
                    cause += "; root of a user namespace mounts in a mount namespace of its own (`unshare -Urm`)"
                cause += "; in a container, start it with --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
            raise UserError(ExitCode.MOUNT_REFUSED, f"cannot mount at {point}: {cause}") from error


class _Option(str):
    """A mount option in the bytes that it was typed in: pyfuse3 encodes options as ASCII, and fails for any other."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:  # noqa: ARG002 - the signature is str's
        # Not os.fsencode, which would come back here.
        return super().encode("utf-8", "surrogateescape")


async def _read_ahead(device: str, begun: trio.Event) -> None:
    # Set earlier, it is lost: with our answer to INIT the kernel sets it to what INIT had offered.
    await begun.wait()
    _set_read_ahead(device)


def _set_read_ahead(device: str) -> None:
    """Have the kernel read in larger pieces, where that is ours to say."""
    try:
        with open(f"/sys/class/bdi/{device}/read_ahead_kb", "w", encoding="ascii") as file:
            file.write(str(_KERNEL_READ_AHEAD_KIB))
    except OSError as error:
        log.debug("the kernel's read-ahead stays as it is: %s", error)


async def _signals(
    received: AsyncIterator[int],
    refresh: Callable[[], Awaitable[None]],
    end: "GracefulShutdown",
    nursery: trio.Nursery,
    hangup_ends: bool,
) -> None:
    async for number in received:
        if number in _IGNORED_SIGNALS:
            continue
        if number == signal.SIGHUP and not hangup_ends:
            nursery.start_soon(refresh)
            continue
        log.info("%s: ending", signal.Signals(number).name)
        await end()


class GracefulShutdown:
    """Ends a mount: what is in flight has a moment, then it is cancelled."""

    def __init__(self, main: trio.CancelScope, operations: Operations, control: Control) -> None:
        self._main = main
        self._operations = operations
        self._control = control

    async def __call__(self) -> None:
        pyfuse3.terminate()
        await trio.sleep(_GRACE_S)
        if self._control.names_are_stuck:
            # A thread of ours waits in the kernel for who waits for us, and would keep the connection open.
            self._operations.callers.end()
            await trio.sleep(_GRACE_S)
        self._main.cancel()


def _register(point: str) -> None:
    try:
        registry.enter(point)
    except BlockingIOError:
        raise unmount.still_served(point) from None
    except (OSError, UserError, registry.Refused) as error:
        # `umount` then cannot wait for this process; nothing else depends on it.
        log.warning("cannot register the mount: %s", error)


def _single(error: BaseException) -> BaseException:
    """Return the one exception that a nursery wrapped in groups, or the group if there were several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what libfuse and fusermount3 write to descriptor 2: the only place where they tell the cause."""
    kept = os.dup(2)
    catcher = os.memfd_create("stderr")
    os.dup2(catcher, 2)
    try:
        yield lambda: " ".join(os.pread(catcher, 4096, 0).decode(errors="replace").split())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(catcher)


def _no_core_dumps() -> None:
    # A core dump would hold the keys (semantics 6.1). 1, not 0: a limit of 1 also keeps the kernel from piping the
    # dump to a handler, which a limit of 0 does not (core(5)).
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY or hard >= 1 else 0
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
