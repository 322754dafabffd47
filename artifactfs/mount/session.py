"""The life of a mount: the root nursery, signals, readiness and the unmount; components.py builds its components.

The end is hard. A signal ends the mount, or `umount`, or a lazy unmount that leaves the kernel's connection open for
files still in use. `terminate` lets the requests in flight end; after a grace period they are cancelled
(docs/dev/pitfalls.md); the mount is then detached, even with open files (docs/semantics.md 5.6).
"""

import faulthandler
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext

import pyfuse3
import trio

from artifactfs import errors, logs
from artifactfs.content.disk_cache import DiskCache
from artifactfs.content.open_files import OpenFileTable
from artifactfs.control.commands import Control
from artifactfs.control.recent_errors import RecentErrors
from artifactfs.control.snapshot import MountComponents
from artifactfs.errors import ExitCode, UserError
from artifactfs.fuse import interrupts
from artifactfs.fuse.kernel_dentries import KernelDentries
from artifactfs.fuse.operations import Operations
from artifactfs.fuse.request_loop import RequestLoop
from artifactfs.logs import LogDestination
from artifactfs.metadata.write_behind import WriteBehind
from artifactfs.modellab import liveness
from artifactfs.modellab.auth import KeyRing
from artifactfs.modellab.client import ModelLab
from artifactfs.mount import (
    components,
    kernel_mount,
    mount_table,
    offline,
    presence,
    registry,
    unmount,
)
from artifactfs.mount.mount_events import MountEvents
from artifactfs.mount.pinned_runs import PinnedRuns
from artifactfs.mount.sd_notify import Notifier
from artifactfs.pins import PinFile
from artifactfs.settings import Settings
from artifactfs.util import headroom
from artifactfs.util.clock import boottime

log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# By default these end the process, which would leave a dead mount (docs/semantics.md 5.5).
_IGNORED_SIGNALS = (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGPOLL)
# The grace period of requests in flight when the mount ends. Within the 3 s of docs/semantics.md 5.6.
_GRACE_S = 0.5
_FLUSH_S = 1.0
# pyfuse3's workers: more than the reads (12 in flight at most) and all the lookups that can wait on a busy machine, so
# that a slow request never keeps an unrelated one from a worker (pitfalls.md).
_MAX_WORKERS = 1000
# Workers that stay without requests. With pyfuse3's 1, each request starts a task and ends one.
_IDLE_WORKERS = 12


def run(settings: Settings, point: str, *, target: LogDestination, notify: Notifier) -> int:
    """Mount at `point` and serve until the mount ends; returns the exit code.

    `target`: the destination of the log. Without `notify.parent` the mount is in the foreground, where SIGHUP of a
    terminal ends it. Raises UserError before mounting.
    """
    _no_core_dumps()
    # Only its user may read the files of a mount (log, cache, registry), whatever the caller's mask.
    os.umask(0o077)
    headroom.refuse_threads()
    try:
        logs.configure(target, verbose=settings.verbose, secrets=settings.secrets())
        recent_errors = RecentErrors()
        logs.add_first(recent_errors)
    except OSError as error:
        fact = f"cannot write the log to {target.place}: {error.strerror}"
        raise UserError(ExitCode.NOT_WRITABLE, fact, "choose another with --log-file or --log-to") from None
    # `kill -USR1` makes even a wedged loop print its stack.
    trace = open(target.file, "a", encoding="utf-8", opener=logs.opener) if target.file else None  # noqa: SIM115
    with trace or nullcontext():
        faulthandler.register(signal.SIGUSR1, file=trace or 2)
        try:
            trio.run(_serve, settings, point, target.file, recent_errors, notify)
        except BaseException as error:
            cause = errors.single(error)
            if isinstance(cause, UserError):
                log.error("%s", cause)  # noqa: TRY400 - a sentence for the user; its cause is in it
                notify.failed(str(cause))
            elif not isinstance(cause, KeyboardInterrupt):
                log.exception("the mount at %s failed", point)
            raise cause from None
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    return ExitCode.OK


def _ends_with_its_terminal() -> bool:
    """Whether SIGHUP ends this process: it has a terminal, and its caller does not ignore the signal (nohup)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


async def _serve(
    settings: Settings,
    point: str,
    log_file: str | None,
    recent_errors: RecentErrors,
    notify: Notifier,
) -> None:
    credentials = components.credentials(settings)
    keys = KeyRing(credentials, source=settings.keys, clock=boottime)
    transports = components.Transports(settings, keys)
    # Less than the deadline of an operation: so an operation fails with the cause, and not with its own deadline.
    service = ModelLab(transports.listings, deadline_s=settings.deadline * 0.95)
    breaker = transports.breaker
    try:
        account = components.account_of(settings, credentials)
        stored = components.stored_account(settings, account)
        breaker.offline = await offline.begin(service, settings, notify, stored.account, stored.failure)
        # Without keys, and so offline, it is the one of the last mount (docs/semantics.md 8.3).
        account = account or stored.account or ""
        if breaker.offline is not None and stored.is_other:
            offline.warn_of_account(settings, notify)
        async with trio.open_nursery() as root:
            liveness.start(breaker, transports.probes, root, clock=boottime, limit_s=settings.deadline)
            owner = components.owner(settings, account)
            buffers = components.block_buffers()
            blocks = components.block_store(settings, buffers.take)
            pins = PinFile(blocks.directory) if blocks is not None else None
            disk_cache = DiskCache(blocks, root)
            store = components.metadata_store(settings, blocks, pins)
            is_offline = breaker.offline is not None
            metadata = WriteBehind(store, owner, root, is_offline=is_offline) if store is not None else None
            tree = components.tree(settings, service, metadata, root)
            if breaker.offline is not None:
                tree.go_offline()
            content = components.content_context(settings, transports.contents, disk_cache, root, buffers.take)
            files = OpenFileTable(content, owner=owner)
            mounted = MountComponents(
                settings, point, log_file, service, transports.usage, transports.request_stats, breaker,
                transports.limits, tree, files, content, recent_errors, root, keys, metadata, pins,
            )  # fmt: skip
            dentries = KernelDentries()
            control = Control(mounted, dentries)
            kernel_ready = trio.Event()
            operations = kernel_mount.handlers(settings, tree, files, control, kernel_ready.set)
            control.operations = operations
            tree.watch_times(control.show_new_times)
            tree.watch_descriptions(control.description)
            tree.watch_followed(operations.on_listed)
            tree.watch_contents(operations.asks_contents)
            operations.on_superseded(control.drop_name)
            operations.on_growth(dentries.drop_pages, dentries.drop_attributes)
            events = MountEvents(mounted, control, transports, notify)
            if pins is not None:
                pinned_runs = PinnedRuns(pins, tree, files, content.service.can_prefetch)
                control.pins.changed = pinned_runs.look_again
                root.start_soon(pinned_runs.run)
            keys.start(root, events.on_keys)
            disk_cache.sweep_soon()
            await _mount(settings, point, operations, control, kernel_ready, notify, events)
            sent = transports.usage().requests
            log.info("requests sent: %s", ", ".join(f"{kind} {count}" for kind, count in sent.items()) or "none")
            with trio.move_on_after(_FLUSH_S):
                if metadata is not None:
                    await metadata.close()
                await disk_cache.flush()
            root.cancel_scope.cancel()
    finally:
        await transports.aclose()


async def _mount(
    settings: Settings,
    point: str,
    operations: Operations,
    control: Control,
    kernel_ready: trio.Event,
    notify: Notifier,
    events: MountEvents,
) -> None:
    """Mount, serve until the end, unmount. `kernel_ready` is set at the first request of the kernel."""
    _register(point)

    async def announce() -> None:
        await kernel_ready.wait()
        notify.ready(events.status())
        await events.on_ready()

    async def refresh() -> None:
        notify.reloading()
        await control.refresh_all()
        log.info("SIGHUP: refreshed; all listings are stale")
        notify.ready(events.status())

    # The receiver below replaces the handler that this reads.
    on_hangup = None if notify.parent is None and _ends_with_its_terminal() else refresh
    # Signals first: a signal between the mount and its receiver would end the process and leave the mount.
    with trio.open_signal_receiver(*_END_SIGNALS, *_IGNORED_SIGNALS, signal.SIGHUP) as received:
        kernel_mount.mount(settings, point, operations)
        own: mount_table.Mount | None = None
        try:
            own = presence.find_own(point)
            log.info("mounted %s", events.status())
            async with trio.open_nursery() as nursery:
                main = trio.CancelScope()

                async def end() -> None:
                    """Give the requests in flight a grace period, then cancel them."""
                    pyfuse3.terminate()
                    await trio.sleep(_GRACE_S)
                    if control.is_invalidating:
                        # A thread waits in the kernel for a process that waits for this mount.
                        interrupts.end(operations.calls)
                        await trio.sleep(_GRACE_S)
                    main.cancel()

                nursery.start_soon(_handle_signals, received, on_hangup, end, nursery)
                nursery.start_soon(interrupts.watch, operations.calls, interrupts.signal_is_pending)
                nursery.start_soon(announce)
                if own is not None:
                    nursery.start_soon(presence.end_when_unmounted, own.device, end)
                with main:
                    await RequestLoop().main(_IDLE_WORKERS, _MAX_WORKERS)
                nursery.cancel_scope.cancel()
        finally:
            notify.stopping()
            control.end()
            pyfuse3.close(unmount=presence.detach_elsewhere(point, own))
            log.info("unmounted %s", point)


async def _handle_signals(
    received: AsyncIterator[int],
    on_hangup: Callable[[], Awaitable[None]] | None,
    end: Callable[[], Awaitable[None]],
    nursery: trio.Nursery,
) -> None:
    async for number in received:
        if number == signal.SIGHUP and on_hangup is not None:
            nursery.start_soon(on_hangup)
        elif number not in _IGNORED_SIGNALS:
            log.info("%s: ending", signal.Signals(number).name)
            await end()


def _register(point: str) -> None:
    try:
        registry.register(point)
    except BlockingIOError:
        raise unmount.still_served(point) from None
    except (OSError, UserError, registry.UntrustedEntry) as error:
        # Then `umount` cannot wait for this process; nothing else depends on the registry.
        log.warning("cannot register the mount: %s", error)


def _no_core_dumps() -> None:
    # A core dump would hold the keys (docs/semantics.md 6.1). 1, not 0: a limit of 1 also keeps the kernel from piping
    # the dump to a handler, which a limit of 0 does not (core(5)).
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY or hard >= 1 else 0
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
