"""Runs all checks in their order, and reports each finding at once."""

import importlib.metadata
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from artifactfs import settings
from artifactfs.doctor import fusermount, host_checks, path_checks, settings_checks
from artifactfs.doctor.findings import Finding, Mark, fault, skipped, warning
from artifactfs.doctor.host import Machine
from artifactfs.doctor.isolated import run_isolated
from artifactfs.doctor.settings_checks import SettingsArguments
from artifactfs.errors import UserError, of_the_system
from artifactfs.settings import Settings

log = logging.getLogger(__name__)

Tell = Callable[[Finding], None]
Found = Finding | Iterable[Finding] | None

# For one check of a file system that may not answer; generous for a slow network. Arbitrary.
_LOOK_S = 5.0


@dataclass(frozen=True)
class Request:
    """The options of the doctor. `run_id`: the run to try the service on, instead of a recent one."""

    given: SettingsArguments
    mountpoint: str | None = None
    offline: bool = False
    index: bool = True
    run_id: int | None = None


def examine(request: Request, tell: Tell, machine: Machine | None = None) -> dict[str, int]:
    """Run all checks; returns the number of requests by kind. Takes at most two deadlines and some seconds."""
    machine = machine or Machine()
    its = settings_checks.read(request.given)
    settings.drop_keys()
    loaded = its.settings
    for finding in its.findings:
        tell(finding)
    unread = settings.unread_proxies(), settings.unread_exceptions()
    _here(tell, "proxy", lambda: settings_checks.proxy(loaded, *unread))
    # Checks that fork come first: later ones may start threads.
    _aside(tell, "config file", partial(path_checks.config, loaded, understood=its.may_ask))
    if request.mountpoint is not None:
        _aside(tell, "mount point", partial(path_checks.mountpoint, request.mountpoint))
        _aside(tell, "file system", partial(fusermount.place, machine, request.mountpoint))
    _aside(tell, "cache", partial(path_checks.cache, machine, loaded, request.mountpoint))
    _aside(tell, "log", partial(path_checks.log, loaded, request.mountpoint))
    trusted = _aside(tell, "certificates", lambda: settings_checks.certificates(loaded, settings.unread_ca_files()))
    _check_machine(tell, machine, loaded)
    why = _reason_to_skip(request, its, trusted=trusted)
    if why is not None:
        tell(skipped("service", f"not asked: {why}"))
        return {}
    from artifactfs.doctor import service

    return service.ask(loaded, tell, index=request.index, run_id=request.run_id)


def _reason_to_skip(request: Request, its: settings_checks.Setup, *, trusted: bool) -> str | None:
    """Return the reason for sending no requests to the service, None if there is none."""
    if request.offline:
        return "--offline"
    if not its.may_ask:
        return "the settings have errors"
    return None if trusted else "there are no certificates to trust"


def _check_machine(tell: Tell, machine: Machine, loaded: Settings) -> None:
    requirements = importlib.metadata.requires("artifactfs") or []
    _here(tell, "python", lambda: host_checks.python(machine))
    _here(tell, "fuse device", lambda: host_checks.device(machine))
    _here(tell, "privilege", lambda: host_checks.privilege(machine))
    _here(tell, "fusermount3", lambda: host_checks.fusermount(machine))
    _here(tell, "user", lambda: fusermount.user(machine))
    _here(tell, "allow_other", lambda: host_checks.fuse_conf(machine, allow_other=loaded.allow_other))
    _here(tell, "open files", lambda: host_checks.open_files(machine))
    _here(tell, "updatedb", lambda: host_checks.updatedb(machine))
    _here(tell, "logout", lambda: host_checks.logout(machine))
    _here(tell, "mounts", lambda: host_checks.mounts(machine))
    _here(tell, "libraries", lambda: host_checks.libraries(requirements))


def _here(tell: Tell, check: str, look: Callable[[], Found]) -> bool:
    """Run a check in this process; an exception becomes a finding. Returns whether there is no fault."""
    found: list[Finding] = []
    try:
        found = _listed(look())
    except (OSError, UserError, MemoryError) as error:
        found = [_check_failed(check, error)]
    except Exception as error:
        log.debug("a check failed", exc_info=True)
        text = f"the check failed: {type(error).__name__} (this is a bug, please report it)"
        found = [warning(check, text)]
    for finding in found:
        tell(finding)
    return all(finding.mark is not Mark.FAULT for finding in found)


def _aside(tell: Tell, check: str, look: Callable[[], Found]) -> bool:
    """Run a check in a child process, which is left behind if it hangs. Returns whether there is no fault."""

    def looked() -> list[Finding]:
        # Here, since the exception's type does not leave the child.
        try:
            return _listed(look())
        except (OSError, UserError) as error:
            return [_check_failed(check, error)]

    def findings() -> Iterable[Finding]:
        found = run_isolated(looked, _LOOK_S)
        return [_silent(check)] if found is None else found

    return _here(tell, check, findings)


def _check_failed(check: str, error: Exception) -> Finding:
    return warning(check, f"the check failed: {of_the_system(error) or error}")


def _silent(check: str) -> Finding:
    text = f"the file system of this path does not answer within {_LOOK_S:g} s"
    return fault(check, text, "mount | grep -E 'fuse|nfs|cifs'  # and umount -l what is dead")


def _listed(found: Found) -> list[Finding]:
    return [] if found is None else [found] if isinstance(found, Finding) else list(found)
