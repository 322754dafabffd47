"""Runs all checks in their order, and reports each finding at once."""

import importlib.metadata
import logging
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from artifactfs import settings
from artifactfs.doctor import fusermount, host_checks, path_checks, settings_checks
from artifactfs.doctor.findings import Finding, Mark, Tell, checked, fault, skipped, warning
from artifactfs.doctor.isolated import run_isolated
from artifactfs.errors import UserError, of_the_system
from artifactfs.mount import checks, mount_table
from artifactfs.mount.host import Machine
from artifactfs.mount.mount_table import Mount
from artifactfs.settings import Arguments, Settings

if TYPE_CHECKING:
    from artifactfs.doctor.service import AskMore

log = logging.getLogger(__name__)

Found = Finding | Iterable[Finding] | None

# For one check of a file system that may not answer; generous for a slow network. Arbitrary.
_LOOK_S = 5.0


@dataclass(frozen=True)
class Request:
    """The options of the doctor. `run_id`: the run to try the service on, instead of a recent one.

    `more`: sends further requests, of the run that was found.
    """

    given: Arguments
    mountpoint: str | None = None
    offline: bool = False
    index: bool = True
    run_id: int | None = None
    more: "AskMore | None" = None


def examine(request: Request, tell: Tell) -> dict[str, int]:
    """Run all checks; returns the number of requests by kind. Takes at most two deadlines and some seconds."""
    setup = settings_checks.read(request.given)
    settings.drop_keys()
    loaded, point = setup.settings, request.mountpoint
    for finding in setup.findings:
        tell(finding)
    unread = settings.unread_proxies(), settings.unread_exceptions()
    machine, mounts = Machine(), mount_table.mounts()
    _here(tell, "proxy", lambda: settings_checks.proxy(loaded, *unread))
    # Checks that fork come first: later ones may start threads.
    _aside(tell, "config file", lambda: path_checks.config(loaded, understood=setup.may_ask))
    if point is not None:
        _aside(tell, "mount point", partial(path_checks.mountpoint, point))
        _aside(tell, "file system", partial(fusermount.place, machine, point))
    _aside(tell, "cache", lambda: path_checks.cache(mounts, loaded, point))
    _aside(tell, "log", lambda: path_checks.log(loaded, point))
    trusted = _aside(tell, "certificates", lambda: settings_checks.certificates(loaded, settings.unread_ca_files()))
    _check_machine(tell, machine, mounts, loaded)
    why = ""
    if request.offline:
        why = "--offline"
    elif loaded.offline == "always":
        why = "offline = always, so a mount does not ask it either"
    elif not setup.may_ask:
        why = "the settings have errors"
    elif not trusted:
        why = "there are no certificates to trust"
    if why:
        tell(skipped("service", f"not asked: {why}"))
        return {}
    from artifactfs.doctor import service

    return service.ask(loaded, tell, index=request.index, run_id=request.run_id, more=request.more)


def _check_machine(tell: Tell, machine: Machine, mounts: Sequence[Mount], loaded: Settings) -> None:
    requirements = importlib.metadata.requires("artifactfs") or []
    files_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    looks: dict[str, Callable[[], Found]] = {
        "memory": lambda: checked("memory", checks.memory, "enough for a mount"),
        "fuse device": lambda: host_checks.device(machine),
        "privilege": lambda: host_checks.privilege(machine),
        "fusermount3": lambda: host_checks.fusermount(machine),
        "user": lambda: host_checks.user(machine),
        "allow_other": lambda: host_checks.fuse_conf(machine, mounts, allow_other=loaded.allow_other),
        "open files": lambda: host_checks.open_files(files_limit),
        "updatedb": lambda: host_checks.updatedb(machine),
        "logout": lambda: host_checks.logout(machine),
        "mounts": lambda: host_checks.mounts(mounts),
        "libraries": lambda: host_checks.libraries(requirements),
    }
    for check, look in looks.items():
        _here(tell, check, look)


def _here(tell: Tell, check: str, look: Callable[[], Found]) -> bool:
    """Run a check in this process; an exception becomes a finding. Returns whether there is no fault."""
    try:
        found = _listed(look())
    except (OSError, UserError, MemoryError) as error:
        found = [_check_failed(check, error)]
    except Exception as error:
        log.debug("a check failed", exc_info=True)
        found = [warning(check, f"the check failed: {type(error).__name__} (this is a bug, please report it)")]
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
        if found is not None:
            return found
        text = f"the file system of this path does not answer within {_LOOK_S:g} s"
        return [fault(check, text, "mount | grep -E 'fuse|nfs|cifs'  # and umount -l what is dead")]

    return _here(tell, check, findings)


def _check_failed(check: str, error: Exception) -> Finding:
    return warning(check, f"the check failed: {of_the_system(error) or error}")


def _listed(found: Found) -> list[Finding]:
    return [] if found is None else [found] if isinstance(found, Finding) else list(found)
