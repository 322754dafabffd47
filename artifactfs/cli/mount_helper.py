"""`mount.artifactfs`: the helper that mount(8), and so fstab and systemd's mount units, calls.

    mount.artifactfs SPEC DIR [-sfnvw] [-N ns] [-t type] [-o opts]

SPEC, fstab's first field, is a profile of the config file, an API URL, or a Datadog site. Any other word is a label,
unless there are profiles: then it may be a typing error. SPEC becomes the source in the mount table, because `mount -a`
recognizes a mounted entry by source and mount point.

Hard: mount(8) adds options (util-linux 2.38, seen with a helper that prints its arguments): `rw` without `ro`; `dev`,
`suid` and `exec` with `user`. It passes on `_netdev`, `nofail` and `user`, but not `x-*`, `noauto`, `defaults` and
`comment=`. And time: the boot waits for the helper, so the wait for the service is limited.
"""

import dataclasses
import getopt
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from artifactfs import __version__, cli, settings
from artifactfs.cli import output, starting
from artifactfs.errors import ExitCode, Notice, UserError
from artifactfs.mount import checks
from artifactfs.settings import SETTINGS
from artifactfs.util.urls import is_of_datadog

_PROGRAM = "mount.artifactfs"
_USAGE = "usage: mount.artifactfs SPEC DIR [-sfnvw] [-o OPTIONS]; `mount -t artifactfs SPEC DIR` calls it"

# Options of mount(8) and fstab for all file systems, and those without effect on a read-only one: ignored.
_OF_MOUNT = frozenset(
    {"rw", "ro", "defaults", "dev", "nodev", "suid", "nosuid", "exec", "async", "sync", "dirsync", "silent", "loud"}
    | {"mand", "nomand", "iversion", "noiversion", "atime", "relatime", "norelatime", "strictatime", "nostrictatime"}
    | {"diratime", "lazytime", "nolazytime", "auto", "noauto", "user", "nouser", "users", "owner", "group", "comment"}
    | {"nonempty", "helper", "uhelper"}
)
# Passed on to the settings: fstab's option for waiting, and options for the kernel.
_PASSED_ON = frozenset({"nofail", "_netdev", "noexec", "noatime", "nodiratime", "config", "profile"})
_LABELS = frozenset({"artifactfs", "none"})

# The default wait for the service. With a last request of `deadline` it is shorter than the 90 s after which systemd
# kills the helper without a message of the cause (DefaultTimeoutStartSec).
_WAIT_MAX_S = 55.0

# mount(8), "EXIT STATUS".
_OK, _USAGE_ERROR, _SYSTEM_ERROR, _BUG, _INTERRUPTED, _FAILED = 0, 1, 2, 4, 8, 32
_EXIT_CODES = {
    ExitCode.USAGE: _USAGE_ERROR,
    ExitCode.BUG: _BUG,
    ExitCode.SYSTEM_FAILED: _SYSTEM_ERROR,
    ExitCode.NO_FUSE_DEVICE: _SYSTEM_ERROR,
    ExitCode.NO_FUSERMOUNT: _SYSTEM_ERROR,
}


@dataclass(frozen=True)
class Request:
    """The request of mount(8). `options`: those of `-o` for the settings, each as it was written."""

    spec: str
    point: str
    options: tuple[str, ...]
    fake: bool
    verbose: bool

    def names(self) -> frozenset[str]:
        """Return the settings that the options name."""
        return frozenset(option.partition("=")[0].replace("-", "_") for option in self.options)


def main() -> None:
    """Run the helper. Each failure has one line on stderr, and an exit code of mount(8)."""
    cli.begin()
    code = _OK
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        code = _EXIT_CODES.get(cli.report(error, _PROGRAM), _FAILED)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> None:
    if arguments in (["-V"], ["--version"]):
        output.say(f"{_PROGRAM} {__version__}")
        return
    if arguments in (["-h"], ["--help"]):
        output.say(_USAGE)
        return
    request = parse(arguments)
    options = ",".join(request.options)
    known = settings.find_profiles(None, options=options) if request.names().isdisjoint(_REPLACE_SPEC) else ()
    meant = meaning(request, known)
    source = {} if "fsname" in request.names() else {"fsname": request.spec}
    loaded = settings.load(
        {**meant, **source},
        options=options,
        may_be_offline=True,
        before_commands=lambda: checks.mountpoint(request.point, heal=not request.fake),
    )
    if loaded.wait_max is None and "wait" not in request.names():
        loaded = dataclasses.replace(loaded, wait_max=_WAIT_MAX_S)
    if loaded.origin_is_default and request.spec not in _LABELS and loaded.profile is None:
        # The name may mean a profile of a missing config file: the keys would then go to another host.
        fact = f"{request.spec} is taken as a label, since there are no profiles in {loaded.config_file}"
        fix = f"{loaded.site} is asked: confirm with site={loaded.site}, or give another site=, or config=FILE"
        output.warn(str(Notice(fact, fix)), _PROGRAM)
    if request.verbose:
        what = next((f"the {name.replace('_', ' ')} {text}" for name, text in meant.items()), "a label")
        output.say(f"{_PROGRAM}: {request.spec} is {what}; mounting {loaded.origin}")
    if request.fake:
        checks.fuse(loaded)
        checks.mountpoint(request.point, heal=False)
        return
    starting.start(request.point, loaded, foreground=False, program=_PROGRAM)


def parse(arguments: Sequence[str]) -> Request:
    """Read mount(8)'s command line. Raises UserError (USAGE)."""
    try:
        flags, words = getopt.gnu_getopt(list(arguments), "sfnvwrN:t:o:")
    except getopt.GetoptError as error:
        raise UserError(ExitCode.USAGE, error.msg, _USAGE) from None
    if len(words) != 2 or not all(words):
        raise UserError(ExitCode.USAGE, _USAGE)
    given = {flag for flag, _ in flags}
    if "-N" in given:
        # Python would import the rest of itself from there.
        fact = "-N: no mount into another namespace"
        raise UserError(ExitCode.USAGE, fact, "enter it first: `nsenter --mount=NS …`")
    options = _for_settings([text for flag, text in flags if flag == "-o"], sloppy="-s" in given)
    return Request(words[0], words[1], tuple(options), fake="-f" in given, verbose="-v" in given)


def _for_settings(texts: Sequence[str], *, sloppy: bool) -> list[str]:
    """Return the options for the settings; also unknown ones, which the settings refuse, unless `sloppy`."""
    settable = {row.name for row in SETTINGS if row.flag} | _PASSED_ON
    found = []
    # A comma behind a backslash belongs to a value.
    for option in re.findall(r"(?:\\.|[^,\\]|\\$)+", ",".join(texts)):
        name = option.partition("=")[0]
        if name == "remount":
            fix = "`artifactfs umount` it, and mount it again"
            raise UserError(ExitCode.USAGE, "-o remount: a mount cannot be changed", fix)
        known = name.replace("-", "_") in settable
        if name in _OF_MOUNT or name.lower().startswith("x-") or (sloppy and not known):
            continue
        found.append(option)
    return found


# Each of these options replaces SPEC.
_REPLACE_SPEC = frozenset({"profile", "site", "api_url"})


def meaning(request: Request, profiles: Collection[str]) -> Mapping[str, str]:
    """Return the setting that SPEC stands for; none where it is a label. Raises UserError for a typing error."""
    spec = request.spec
    if request.names() & _REPLACE_SPEC:
        return {}
    if re.match(r"https?://", spec, re.IGNORECASE):
        return {"api_url": spec}
    if spec in profiles:
        return {"profile": spec}
    if is_of_datadog(spec):
        return {"site": spec}
    if spec in _LABELS or not profiles:
        return {}
    fix = f"{settings.hint(spec, profiles)} (`none` is for the default)"
    raise UserError(ExitCode.USAGE, f"there is no profile {spec!r}", fix)


if __name__ == "__main__":
    main()
