"""`mount.artifactfs`: what mount(8), and so fstab and systemd's mount units, calls to mount one of us.

    mount.artifactfs SPEC DIR [-sfnvw] [-N ns] [-t type] [-o opts]

SPEC, fstab's first field, says what to mount: a profile of the config file, an API URL, or a Datadog site. Any other
word is a label, unless there are profiles that it could be a slip for. It becomes the source in the mount table,
because `mount -a` knows by source and place what is mounted already.

What is hard is what mount(8) adds (util-linux 2.38, seen by a helper that prints its arguments): `rw` unless `ro` was
given, `dev`, `suid` and `exec` beside `user`; `_netdev`, `nofail` and `user` reach us, `x-*`, `noauto`, `defaults` and
`comment=` do not. And the time: at boot the machine waits for us, so waiting for the service has an end.
"""

import dataclasses
import getopt
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from artifactfs import __version__, cli, settings
from artifactfs.cli import mounts, output
from artifactfs.errors import ExitCode, UserError, of_the_system
from artifactfs.mount import checks
from artifactfs.settings import SETTINGS

_PROGRAM = "mount.artifactfs"
_USAGE = "usage: mount.artifactfs SPEC DIR [-sfnvw] [-o OPTIONS]; `mount -t artifactfs SPEC DIR` calls it"

# What mount(8) and fstab say to every file system, and what says nothing to one that is read-only.
_OF_MOUNT = frozenset(
    {"rw", "ro", "defaults", "dev", "nodev", "suid", "nosuid", "exec", "async", "sync", "dirsync", "silent", "loud"}
    | {"mand", "nomand", "iversion", "noiversion", "atime", "relatime", "norelatime", "strictatime", "nostrictatime"}
    | {"diratime", "lazytime", "nolazytime", "auto", "noauto", "user", "nouser", "users", "owner", "group", "comment"}
    | {"nonempty", "helper", "uhelper"}
)
# These go on: fstab's word for waiting, and options for the kernel.
_OURS_TOO = frozenset({"nofail", "_netdev", "noexec", "noatime", "nodiratime", "config", "profile"})
_LABELS = frozenset({"artifactfs", "none"})
_SITE = re.compile(r"(?:.*\.)?(?:datadoghq\.(?:com|eu)|ddog-gov\.com)", re.IGNORECASE)

# How long to wait for the service unless it is said: with one last call of `deadline` it is less than the 90 s after
# which systemd kills a mount without a word of what it waited for (DefaultTimeoutStartSec).
_WAIT_MAX_S = 55.0

# mount(8), "EXIT STATUS".
_OK, _USAGE_ERROR, _SYSTEM_ERROR, _BUG, _INTERRUPTED, _FAILED = 0, 1, 2, 4, 8, 32
_EXIT_CODES = {
    ExitCode.USAGE: _USAGE_ERROR,
    ExitCode.BUG: _BUG,
    ExitCode.NO_FUSE_DEVICE: _SYSTEM_ERROR,
    ExitCode.NO_FUSERMOUNT: _SYSTEM_ERROR,
}


@dataclass(frozen=True)
class Request:
    """What mount(8) asks for. `options`: those of `-o` that mean something to us, each as it was written."""

    spec: str
    point: str
    options: tuple[str, ...]
    fake: bool
    verbose: bool

    def names(self) -> frozenset[str]:
        """Return the settings that the options name."""
        return frozenset(option.partition("=")[0].replace("-", "_") for option in self.options)


def main() -> None:
    """Run the helper. One line on stderr and mount(8)'s exit code for whatever goes wrong."""
    cli.begin()
    try:
        _run(sys.argv[1:])
        code = _OK
    except UserError as error:
        output.complain(str(error), _PROGRAM)
        code = _EXIT_CODES.get(error.code, _FAILED)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        known = of_the_system(error)
        said = str(known) if known else f"{type(error).__name__}: {error} (this is a bug, please report it)"
        output.complain(said, _PROGRAM)
        code = _SYSTEM_ERROR if known else _BUG
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
    known = settings.find_profiles(None, options=options) if request.names().isdisjoint(_SAYS_WHERE) else ()
    meant = meaning(request, known)
    source = {} if "fsname" in request.names() else {"fsname": request.spec}
    loaded = settings.load(
        {**meant, **source},
        options=options,
        before_commands=lambda: checks.mountpoint(request.point, heal=not request.fake),
    )
    if loaded.wait_max is None and "wait" not in request.names():
        loaded = dataclasses.replace(loaded, wait_max=_WAIT_MAX_S)
    if loaded.origin_is_default and request.spec not in _LABELS and loaded.profile is None:
        # The name may mean a profile of a missing config file: the keys would then go to another host.
        output.warn(
            f"{request.spec} is taken as a label, since there are no profiles in {loaded.config_file}; "
            f"{loaded.site} is asked: say so with site={loaded.site}, or give another site=, or config=FILE",
            _PROGRAM,
        )
    if request.verbose:
        what = next((f"the {name.replace('_', ' ')} {text}" for name, text in meant.items()), "a label")
        output.say(f"{_PROGRAM}: {request.spec} is {what}; mounting {loaded.origin}")
    if request.fake:
        checks.fuse(loaded)
        checks.mountpoint(request.point, heal=False)
        return
    mounts.start(request.point, loaded, foreground=False, program=_PROGRAM)


def parse(arguments: Sequence[str]) -> Request:
    """Read mount(8)'s command line. Raises UserError (USAGE)."""
    try:
        flags, words = getopt.gnu_getopt(list(arguments), "sfnvwrN:t:o:")
    except getopt.GetoptError as error:
        raise UserError(ExitCode.USAGE, f"{error.msg}; {_USAGE}") from None
    if len(words) != 2 or not all(words):
        raise UserError(ExitCode.USAGE, _USAGE)
    given = {flag for flag, _ in flags}
    if "-N" in given:
        # Python would look for the rest of itself in there.
        raise UserError(ExitCode.USAGE, "-N: no mount into another namespace; enter it first: `nsenter --mount=NS …`")
    texts = [text for flag, text in flags if flag == "-o"]
    return Request(
        words[0], words[1], tuple(_heeded(texts, sloppy="-s" in given)), fake="-f" in given, verbose="-v" in given
    )


def _heeded(texts: Sequence[str], *, sloppy: bool) -> list[str]:
    """Return the options that mean something to us; unknown ones too, to be refused, unless `sloppy`."""
    settable = {row.name for row in SETTINGS if row.flag} | _OURS_TOO
    heeded = []
    # A comma behind a backslash belongs to a value.
    for option in re.findall(r"(?:\\.|[^,\\]|\\$)+", ",".join(texts)):
        name = option.partition("=")[0]
        if name == "remount":
            raise UserError(
                ExitCode.USAGE, "-o remount: a mount cannot be changed: `artifactfs umount` it, and mount it again"
            )
        known = name.replace("-", "_") in settable
        if name in _OF_MOUNT or name.lower().startswith("x-") or (sloppy and not known):
            continue
        heeded.append(option)
    return heeded


# Each of these options replaces SPEC.
_SAYS_WHERE = frozenset({"profile", "site", "api_url"})


def meaning(request: Request, profiles: Collection[str]) -> Mapping[str, str]:
    """Return the setting that SPEC stands for; none where it is a label. Raises UserError for a slip."""
    spec = request.spec
    if request.names() & _SAYS_WHERE:
        return {}
    if re.match(r"https?://", spec, re.IGNORECASE):
        return {"api_url": spec}
    if spec in profiles:
        return {"profile": spec}
    if _SITE.fullmatch(spec):
        return {"site": spec}
    if spec in _LABELS or not profiles:
        return {}
    raise UserError(
        ExitCode.USAGE, f"there is no profile {spec!r}; {settings.hint(spec, profiles)} (`none` is for the default)"
    )


if __name__ == "__main__":
    main()
