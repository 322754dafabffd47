"""The call before a mount: are the keys right, does the service answer, and is it a Model Lab (semantics.md 5.8)?"""

import logging
import math

import trio

from artifactfs import errors
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab.client import ModelLab
from artifactfs.mount.daemon import Parent
from artifactfs.mount.sd_notify import Notifier
from artifactfs.settings import Settings
from artifactfs.util.clock import boottime

log = logging.getLogger(__name__)

# Between two tries to reach a service that is waited for; each pause is twice the one before. Arbitrary.
_FIRST_PAUSE_S = 1.0
_LAST_PAUSE_S = 16.0


async def reach(service: ModelLab, settings: Settings, notify: Notifier, parent: Parent | None) -> None:
    """Check the keys; with `wait`, repeat until the service answers (docs/semantics.md 5.8). Raises UserError."""
    pause_s = _FIRST_PAUSE_S
    end_s = math.inf if settings.wait_max is None else boottime() + settings.wait_max
    notify.starting(f"asking {settings.origin}", settings.deadline)
    while True:
        try:
            return await _check_keys(service, settings)
        except UserError as error:
            if not settings.wait or error.code not in (ExitCode.UNREACHABLE, ExitCode.SERVICE_FAILED):
                raise
            if (left_s := end_s - boottime()) <= 0:
                fact = f"{error.fact} (gave up after {settings.wait_max:g} s of waiting)"
                raise UserError(error.code, fact, error.fix, error.subject, error.command) from error
            # The last attempt is at the end of `wait_max`.
            pause_s = min(pause_s, left_s)
            notify.starting(f"waiting: {error}", pause_s + settings.deadline)
            if parent is not None:
                parent.waiting(str(error))
            log.warning("%s; trying again in %g s", error, pause_s)
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


async def _check_keys(service: ModelLab, settings: Settings) -> None:
    """Make one call with the keys. Raises UserError with the true cause (docs/semantics.md 5.8)."""
    try:
        await service.check_keys()
    except errors.AccessDenied as error:
        hint = f" ({settings.site})" if settings.api_url == f"https://api.{settings.site}" else ""
        fix = f"{errors.what_to_do(error)}; set --site or DD_SITE" if hint else errors.what_to_do(error)
        raise UserError(ExitCode.KEYS_REJECTED, f"the keys were rejected: {error.fact}{hint}", fix) from error
    except errors.TlsFailed as error:
        raise UserError(ExitCode.TLS_FAILED, error.fact, errors.what_to_do(error)) from error
    except (errors.Unreachable, errors.ConnectionRefused, errors.TimedOut) as error:
        code = ExitCode.UNREACHABLE if error.status is None else ExitCode.SERVICE_FAILED
        raise UserError(code, error.fact, errors.what_to_do(error)) from error
    except errors.PassingError as error:
        raise UserError(ExitCode.SERVICE_FAILED, error.fact, errors.what_to_do(error)) from error
    except errors.ServiceError as error:
        raise UserError(
            ExitCode.NOT_MODEL_LAB,
            f"{settings.origin} does not answer like a Model Lab: {error.fact}",
            "check --site or --api-url",
        ) from error
