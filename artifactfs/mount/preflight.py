"""The request before a mount: are the keys right, and does a Model Lab answer (docs/semantics.md 5.8)?"""

import dataclasses
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab.auth import KeyRing
from artifactfs.modellab.client import ModelLab
from artifactfs.mount.components import Transports, credentials
from artifactfs.mount.sd_notify import Notifier
from artifactfs.settings import Settings, Unread, unread_ca_files, unread_proxies
from artifactfs.util.clock import boottime

log = logging.getLogger(__name__)

# Between two attempts to reach the service with `--wait`; each pause is twice the one before. Arbitrary.
_FIRST_PAUSE_S = 1.0
_LAST_PAUSE_S = 16.0
# How long the service may take where the mount may go on without it. Arbitrary.
_OFFLINE_S = 10.0
# What comes where no way leads to the service: nothing, a failure, a certificate of another's, a page to log in to a
# network. Refused keys are an answer of the service's, and so is 404: they are no reason to show what is stored.
AWAY = (errors.PassingError, errors.UnexpectedAnswer)


@asynccontextmanager
async def reached(settings: Settings) -> AsyncIterator[tuple[ModelLab, Transports]]:
    """Yield a client for a command without a mount, once the service has accepted the keys. Raises UserError."""
    transports = Transports(settings, KeyRing(credentials(settings), clock=boottime))
    service = ModelLab(transports.listings, deadline_s=settings.deadline)
    try:
        # Of the setting `wait` nothing would be seen here.
        await reach(service, dataclasses.replace(settings, wait=False), Notifier())
        yield service, transports
    finally:
        await transports.aclose()


async def check_keys(settings: Settings) -> None:
    """Check the keys with one request, without a mount. Raises UserError."""
    async with reached(settings):
        pass


async def reach(
    service: ModelLab, settings: Settings, notify: Notifier, *, may_go_offline: bool = False
) -> UserError | None:
    """Check the keys; with `wait`, repeat until the service answers (docs/semantics.md 5.8). Raises UserError.

    `may_go_offline`: where the service is away, return why, and do not wait for it.
    """
    pause_s = _FIRST_PAUSE_S
    end_s = math.inf if settings.wait_max is None else boottime() + settings.wait_max
    notify.starting(f"asking {settings.origin}", settings.deadline)
    while True:
        try:
            await _ask(service, settings, _OFFLINE_S if may_go_offline else math.inf)
        except errors.ServiceError as cause:
            error = _user_error(cause, settings)
            if may_go_offline and isinstance(cause, AWAY):
                return error
            if not settings.wait or error.code not in (ExitCode.UNREACHABLE, ExitCode.SERVICE_FAILED):
                raise error from cause
            if (left_s := end_s - boottime()) <= 0:
                fact = f"{error.fact} (gave up after {settings.wait_max:g} s of waiting)"
                raise UserError(error.code, fact, error.fix) from cause
        else:
            return None
        # The last attempt is at the end of `wait_max`.
        pause_s = min(pause_s, left_s)
        notify.waiting(str(error), pause_s + settings.deadline)
        log.warning("%s; trying again in %g s", error, pause_s)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


async def _ask(service: ModelLab, settings: Settings, limit_s: float) -> None:
    with trio.move_on_after(limit_s):
        return await service.check_keys()
    raise errors.TimedOut(f"{settings.origin} did not answer within {limit_s:g} s")


def _user_error(error: errors.ServiceError, settings: Settings) -> UserError:
    fact, fix = error.fact, errors.what_to_do(error)
    if isinstance(error, errors.AccessDenied):
        fact = f"the keys were rejected: {fact}"
        if settings.is_of_site:
            fact, fix = f"{fact} ({settings.site})", f"{fix}; set --site or DD_SITE"
        return UserError(ExitCode.KEYS_REJECTED, fact, fix)
    if isinstance(error, errors.TlsFailed):
        unread = unread_ca_files() if settings.ca_file is None else []
        return UserError(ExitCode.TLS_FAILED, fact, _lead_on(fix, unread))
    if isinstance(error, errors.Unreachable | errors.ConnectionRefused | errors.TimedOut) and error.status is None:
        return UserError(ExitCode.UNREACHABLE, fact, _lead_on(fix, unread_proxies() if settings.proxy is None else []))
    if isinstance(error, errors.PassingError):
        return UserError(ExitCode.SERVICE_FAILED, fact, fix)
    fact = f"{settings.origin} does not answer like a Model Lab: {fact}"
    return UserError(ExitCode.NOT_MODEL_LAB, fact, "check --site or --api-url; `artifactfs doctor` says more")


def _lead_on(fix: str, unread: list[Unread]) -> str:
    """Return the fix of a failure on the way to the service. `unread`: variables that other programs would use."""
    first = next((each for each in unread if each.option is not None), None)
    if first is not None:
        fix = f'{first.name} is set, and not read: add {first.option} "${first.name}"; or {fix}'
    return f"{fix}; `artifactfs doctor` says more"
