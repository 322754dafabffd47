"""Checks Python, FUSE, limits and other mounts. Each check is a function of a `Machine`."""

import importlib.metadata
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator

from artifactfs.doctor.findings import Finding, fault, good, refused, skipped, warning
from artifactfs.doctor.host import Machine
from artifactfs.errors import UserError
from artifactfs.mount import checks, mount_owner, mount_table
from artifactfs.util.escaping import shell_word

_LOWEST_PYTHON = (3, 11)
# Two connection pools, blocks being loaded and saved, the log: about 60 at most, with a margin.
_FEW_FILES = 256
# The bit of CAP_SYS_ADMIN (capabilities(7)), which mounting needs, by root or by the set-uid fusermount3.
_SYS_ADMIN = 1 << 21
# The default of fuse.conf(5).
_MOUNT_MAX = 1000
_MOST_PROBED = 16
_CONTAINER = "docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined …"


def python(machine: Machine) -> Finding:
    """Check the version of Python; the fact names the kernel, too."""
    version = ".".join(map(str, machine.python))
    if machine.python < _LOWEST_PYTHON:
        return fault("python", f"Python {version} is too old: 3.11 is needed", "sudo apt-get install python3.11")
    return good("python", f"Python {version} on {machine.kernel}")


def libraries(
    requirements: Iterable[str],
    version_of: Callable[[str], str] = importlib.metadata.version,
    binding: Callable[[], str] = checks.binding,
) -> Finding:
    """Check the installed libraries against what artifactfs needs, and that the FUSE binding loads."""
    wrong = []
    for requirement in requirements:
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement)
        if match is None or "extra ==" in requirement:
            continue
        name, lowest = match.groups()
        try:
            installed = version_of(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if _numbers(installed) < _numbers(lowest):
            wrong.append(f"{name} is {installed}, and {lowest} is needed")
    if wrong:
        return fault("libraries", "; ".join(wrong), "pip install --upgrade artifactfs")
    try:
        loaded = binding()
    except UserError as error:
        return refused("libraries", error)
    others = ", ".join(f"{name} {version_of(name)}" for name in ("trio", "httpx"))
    return good("libraries", f"pyfuse3 {loaded}, {others}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def device(machine: Machine, look: Callable[[], None] = checks.device) -> Finding:
    """Check that /dev/fuse exists and opens."""
    try:
        look()
    except UserError as error:
        if container(machine):
            return fault("fuse device", f"{error.fact}, in this container", _CONTAINER)
        return refused("fuse device", error)
    return good("fuse device", f"{checks.FUSE_DEVICE} is there and opens")


def container(machine: Machine) -> bool:
    """Whether this is a container of Docker, Podman or Kubernetes."""
    return (
        machine.has("/.dockerenv")
        or machine.has("/run/.containerenv")
        or machine.has("/var/run/secrets/kubernetes.io")
        or bool(re.search(r"docker|kubepods|containerd|libpod", machine.read("/proc/1/cgroup") or ""))
    )


def privilege(machine: Machine) -> Finding:
    """Check the capability to mount: root's own, or that of fusermount3 by its set-uid bit."""
    capabilities = machine.process_status("CapEff" if machine.euid == 0 else "CapBnd")
    if capabilities and not int(capabilities, 16) & _SYS_ADMIN:
        return fault("privilege", "mounting needs CAP_SYS_ADMIN, which this environment does not have", _CONTAINER)
    if machine.euid == 0 and mount_owner.in_user_namespace(machine.read("/proc/self/uid_map")):
        return warning(
            "privilege",
            "you are root of a user namespace, not of the machine: it can mount only in a mount namespace of its own",
            "unshare -Urm  # not needed if this is such a namespace, as in a container",
        )
    if machine.euid == 0:
        return good("privilege", "root may mount")
    if machine.process_status("NoNewPrivs") == "1":
        return fault(
            "privilege",
            "this process cannot gain privileges (no_new_privs), so the set-uid bit of fusermount3 has no effect",
            "systemctl --user edit UNIT  # NoNewPrivileges=no; in a container: no --security-opt no-new-privileges",
        )
    return good("privilege", "an ordinary user mounts through fusermount3")


def fusermount(machine: Machine) -> Finding:
    """Check fusermount3, which mounts for ordinary users."""
    path = machine.which("fusermount3")
    if path is None:
        if machine.euid == 0:
            return skipped("fusermount3", "fusermount3 is not installed; root does not need it")
        return fault("fusermount3", "fusermount3 is missing", "sudo apt-get install fuse3")
    version = re.search(r"\d+\.\d+[\d.]*", machine.output(path, "--version"))
    named = f"{path} {version[0] if version else '(of unknown version)'}"
    if machine.euid == 0:
        return good("fusermount3", f"{named}; root does not need it")
    try:
        found = machine.stat(path)
        nosuid = machine.is_nosuid(path)
    except OSError as error:
        return fault("fusermount3", f"{path}: {error.strerror}", "sudo apt-get install --reinstall fuse3")
    if not found.st_mode & stat.S_ISUID or found.st_uid != 0:
        real = shell_word(os.path.realpath(path))
        return fault(
            "fusermount3",
            f"{path} is not set-uid root, so it cannot mount",
            f"sudo chown root {real} && sudo chmod u+s {real}",
        )
    if nosuid:
        return fault(
            "fusermount3", f"{path} lies on a file system that is mounted with nosuid", "sudo apt-get install fuse3"
        )
    return good("fusermount3", f"{named}, set-uid root")


def fuse_conf(machine: Machine, *, allow_other: bool) -> Iterator[Finding]:
    """Check /etc/fuse.conf: allow_other, if it is set, and the limit on mounts of ordinary users."""
    # fusermount3 ignores a last line without a line feed.
    whole = machine.read(checks.FUSE_CONF) or ""
    lines = [line.split("#", 1)[0].strip() for line in whole.rpartition("\n")[0].split("\n")]
    allowed = "user_allow_other" in lines
    if machine.euid == 0:
        yield good("allow_other", "root may use allow_other")
        return
    if allowed:
        yield good("allow_other", f"{checks.FUSE_CONF} lets ordinary users use allow_other")
    elif allow_other:
        newline = "" if not whole or whole.endswith("\n") else f"echo | sudo tee -a {checks.FUSE_CONF}; "
        fix = f"{newline}echo user_allow_other | sudo tee -a {checks.FUSE_CONF}"
        yield fault("allow_other", f"allow_other is set, but {checks.FUSE_CONF} has no line user_allow_other", fix)
    else:
        yield skipped("allow_other", f"not asked for; {checks.FUSE_CONF} does not allow it")
    stated = [match[1] for line in lines if (match := re.fullmatch(r"mount_max\s*=\s*(-?\d{1,9})", line))]
    most = int(stated[-1]) if stated else _MOUNT_MAX
    there = sum(mount.fstype == "fuse" or mount.fstype.startswith("fuse.") for mount in machine.mounts)
    if there >= most != -1:
        fix = f"sudo sed -i '/^ *mount_max/d; $a mount_max = {most + 1000}' {checks.FUSE_CONF}"
        yield fault("mount_max", f"{there} FUSE mounts exist, and {checks.FUSE_CONF} allows {most}", fix)


def open_files(machine: Machine) -> Finding:
    """Check the limit of open files."""
    limit = machine.files_limit
    if 0 <= limit < _FEW_FILES:
        return warning("open files", f"a process may open {limit} files, which is few for a mount", "ulimit -n 1024")
    return good("open files", "no limit" if limit < 0 else f"a process may open {limit:,}")


def updatedb(machine: Machine) -> Finding | None:
    """Check that updatedb skips our mounts; None without locate."""
    text = machine.read("/etc/updatedb.conf")
    if text is None:
        return None
    line = re.search(r'^\s*PRUNEFS\s*=\s*"([^"]*)"', text, re.MULTILINE)
    if line is not None and mount_table.FUSE_TYPE in line[1].lower().split():
        return good("updatedb", f"PRUNEFS in /etc/updatedb.conf names {mount_table.FUSE_TYPE}")
    if line is not None:
        fix = f"sudo sed -i -E 's/^( *PRUNEFS *= *\")/\\1{mount_table.FUSE_TYPE} /' /etc/updatedb.conf"
    else:
        fix = f"echo 'PRUNEFS=\"{mount_table.FUSE_TYPE}\"' | sudo tee -a /etc/updatedb.conf"
    return warning("updatedb", "updatedb traverses every mount with allow_other: PRUNEFS does not name ours", fix)


def logout(machine: Machine) -> Finding | None:
    """Check whether a logout ends a mount in the background; None if it does not."""
    if machine.euid == 0:
        return None
    places = ["/etc/systemd/logind.conf"]
    for directory in ("/usr/lib/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"):
        places += [f"{directory}/{name}" for name in machine.names(directory) if name.endswith(".conf")]
    said = [
        match[1].lower()
        for place in places
        for match in re.finditer(r"^\s*KillUserProcesses\s*=\s*(\w+)", machine.read(place) or "", re.MULTILINE)
    ]
    if not said or said[-1] not in ("yes", "true", "on", "1") or machine.has(f"/var/lib/systemd/linger/{machine.user}"):
        return None
    return warning(
        "logout",
        "when you log out, systemd ends your processes (KillUserProcesses), mounts in the background included",
        f"loginctl enable-linger {shell_word(machine.user)}",
    )


def mounts(machine: Machine) -> Iterator[Finding]:
    """Report our mounts: a dead one makes programs fail that touch it."""
    ours = [mount for mount in machine.mounts if mount.is_ours]
    if len(ours) > _MOST_PROBED:
        yield skipped("mounts", f"{len(ours)} mounts of artifactfs: too many to check")
        return
    dead = [mount for mount in ours if machine.is_dead(mount)]
    for mount in dead:
        fix = f"artifactfs umount {shell_word(mount.point)}"
        yield warning("mounts", f"the mount at {mount.point} is dead: its process was killed", fix)
    live = [mount.point for mount in ours if mount not in dead]
    if live:
        yield good("mounts", f"mounted at {', '.join(live)}")
    elif not dead:
        yield good("mounts", "nothing of artifactfs is mounted")
