"""A mount that works without the service: whether it begins so, and its way back (docs/semantics.md 8.3 to 8.5).

What is asked of the tree, of the contents and of the transports meanwhile is theirs: `Tree.go_offline`, and the gate in
modellab/circuit_breaker.py.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab.circuit_breaker import CircuitBreaker, OfflineState
from artifactfs.modellab.client import ModelLab
from artifactfs.mount import preflight
from artifactfs.mount.sd_notify import Notifier
from artifactfs.settings import Settings
from artifactfs.util.clock import boottime

log = logging.getLogger(__name__)

# Between two attempts to reach the service, from start to start; and how long one may take.
PROBE_INTERVAL_S = 30.0
PROBE_S = 10.0
_TRIED = f"the service is tried every {PROBE_INTERVAL_S:g} s"


async def begin(
    service: ModelLab, settings: Settings, notify: Notifier, stored_account: str | None, failure: str = ""
) -> OfflineState | None:
    """Return why a mount begins offline; None where the service has accepted the keys (docs/semantics.md 5.8, 8.4).

    `stored_account`: the account that this site was mounted with last; None where nothing of the site is stored,
    or where that cannot be read, which `failure` tells.
    Raises UserError where nothing can be mounted.
    """
    if settings.offline == "always":
        if not settings.metadata_size:
            fact = "nothing is stored with metadata_size 0, so there is nothing to mount offline"
            raise UserError(ExitCode.MOUNT_REFUSED, fact, "mount it with the size that it had before")
        if stored_account is None and failure:
            fact = f"what is stored in {settings.cache_dir} cannot be used: {failure}"
            fix = "see that its directory and its files belong to you and can be written"
            raise UserError(ExitCode.MOUNT_REFUSED, fact, fix)
        if stored_account is None:
            where = settings.cache_dir
            fact = f"nothing of {settings.origin} is stored in {where}, so there is nothing to mount offline"
            raise UserError(ExitCode.MOUNT_REFUSED, fact, "mount it without --offline once, and look at what you need")
        fix = "mount it without --offline to ask the service"
        return OfflineState(boottime(), "it was mounted with --offline", fix)
    away = await preflight.reach(
        service, settings, notify, may_go_offline=settings.offline == "auto" and stored_account is not None
    )
    if away is None:
        return None
    log.warning("the mount works offline: %s", away)
    notify.warn(f"{away.fact}; mounted offline: what was stored is shown, and {_TRIED}")
    return OfflineState(boottime(), away.fact, _fix(away))


def warn_of_account(settings: Settings, notify: Notifier) -> None:
    """Say that nothing is shown, although something of the site is stored."""
    asked = "of the account of these keys" if settings.account is None else f"of the account {settings.account}"
    text = f"nothing of {settings.origin} is stored {asked}; it was mounted last with another account: see --account"
    log.warning("%s", text)
    notify.warn(text)


async def reconnect(service: ModelLab, breaker: CircuitBreaker, go_online: Callable[[], Awaitable[None]]) -> None:
    """Ask the service until it accepts the keys, then call `go_online`. One request at a time; nothing else counts it.

    `service` has a transport of its own, since those of the mount send nothing.
    """
    at, state, last = trio.current_time(), breaker.offline, ""
    while state is not None:
        at += PROBE_INTERVAL_S
        await trio.sleep_until(at)
        try:
            await service.check_keys()
        except errors.ServiceError as error:
            breaker.offline = OfflineState(state.since, error.fact, _fix(error))
            if type(error).__name__ != last:
                # Only what another network does not mend is a failure.
                level = logging.INFO if isinstance(error, preflight.AWAY) else logging.WARNING
                log.log(level, "the mount still works offline: %s; %s", error, errors.what_to_do(error))
            last = type(error).__name__
        except Exception:
            # The mount's nursery: this would end the mount.
            log.exception("asking whether the service is back failed: %s", errors.unexpected())
        else:
            log.info("%s answers: the mount is no longer offline", breaker.name)
            await go_online()
            return


def _fix(error: errors.ArtifactfsError) -> str:
    fix = errors.what_to_do(error)
    return (
        f"{fix}; {_TRIED}" if isinstance(error, errors.AccessDenied) else f"nothing now: {_TRIED}; if it goes on, {fix}"
    )
