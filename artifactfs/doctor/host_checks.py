"""Checks the libraries, FUSE, limits and other mounts. Each check is a function of a `Machine`, or of plain facts."""

import importlib.metadata
import platform
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from os.path import realpath

from artifactfs.doctor.findings import Finding, checked, fault, good, refused, skipped, warning
from artifactfs.errors import UserError
from artifactfs.mount import checks, control_client, mount_owner, mount_table
from artifactfs.mount.host import Machine
from artifactfs.mount.mount_table import Mount
from artifactfs.util.escaping import shell_word

# Two connection pools, blocks being loaded and saved, the log: about 60 at most, with a margin.
_FEW_FILES = 256
# The bit of CAP_SYS_ADMIN (capabilities(7)), which mounting needs, by root or by the set-uid fusermount3.
_SYS_ADMIN = 1 << 21
# The default of fuse.conf(5).
_MOUNT_MAX = 1000
_MAX_PROBED = 16
_MTAB = "/etc/mtab"
_CONTAINER = "docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined …"


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
    kernel = f"Linux {platform.release()} ({platform.machine()})"
    return good("libraries", f"pyfuse3 {loaded}, {others}; Python {platform.python_version()} on {kernel}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def device(machine: Machine, look: Callable[[], None] = checks.device) -> Finding:
    """Check /dev/fuse as `mount` does; in a container, only its start fixes it."""
    fix = _CONTAINER if is_container(machine) else None
    return checked("fuse device", look, f"{checks.FUSE_DEVICE} exists and opens", fix)


def is_container(machine: Machine) -> bool:
    """Return whether this is a container of Docker, Podman or Kubernetes."""
    marks = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
    cgroup = machine.read("/proc/1/cgroup") or ""
    return any(map(machine.has, marks)) or bool(re.search(r"docker|kubepods|containerd|libpod", cgroup))


def privilege(machine: Machine) -> Finding:
    """Check the capability to mount: root's own, or that of fusermount3 by its set-uid bit."""
    is_root = machine.euid == 0
    capabilities = machine.process_status("CapEff" if is_root else "CapBnd")
    if capabilities and not int(capabilities, 16) & _SYS_ADMIN:
        return fault("privilege", "mounting needs CAP_SYS_ADMIN, which this environment does not have", _CONTAINER)
    if is_root and mount_owner.in_user_namespace(machine.read("/proc/self/uid_map")):
        fact = "you are root of a user namespace, not of the machine: it can mount only in a mount namespace of its own"
        fix = "unshare -Urm  # not needed if this is such a namespace, as in a container"
        return warning("privilege", fact, fix)
    if not is_root and machine.process_status("NoNewPrivs") == "1":
        fact = "this process cannot gain privileges (no_new_privs), so the set-uid bit of fusermount3 has no effect"
        fix = "systemctl --user edit UNIT  # NoNewPrivileges=no; in a container: no --security-opt no-new-privileges"
        return fault("privilege", fact, fix)
    return good("privilege", "root may mount" if is_root else "an ordinary user mounts through fusermount3")


def fusermount(machine: Machine) -> Finding:
    """Check fusermount3, which mounts for ordinary users: that it exists, and that the kernel lets it be root."""
    if machine.euid == 0:
        return skipped("fusermount3", "root does not need it")
    try:
        path = checks.fusermount(machine)
        found = machine.stat(path)
        nosuid = machine.is_nosuid(path)
    except UserError as error:
        return refused("fusermount3", error)
    except OSError as error:
        return fault("fusermount3", f"fusermount3: {error.strerror}", "sudo apt-get install --reinstall fuse3")
    if not found.st_mode & stat.S_ISUID or found.st_uid != 0:
        real = shell_word(realpath(path))
        fix = f"sudo chown root {real} && sudo chmod u+s {real}"
        return fault("fusermount3", f"{path} is not set-uid root, so it cannot mount", fix)
    if nosuid:
        fix = "sudo apt-get install fuse3"
        return fault("fusermount3", f"{path} lies on a file system that is mounted with nosuid", fix)
    version = re.search(r"\d+\.\d+[\d.]*", machine.output(path, "--version"))
    return good("fusermount3", f"{path} {version[0] if version else '(of unknown version)'}, set-uid root")


def user(machine: Machine) -> Iterator[Finding]:
    """Check the user's name, and the table that fusermount3 reads to unmount; yields problems only."""
    if machine.euid == 0:
        return
    try:
        checks.user_name(machine)
    except UserError as error:
        yield refused("user", error)
    if not (machine.read(_MTAB) or "").strip():
        text = f"{_MTAB} is missing, or cannot be read: `fusermount3 -u` needs it; `artifactfs umount` does not"
        yield warning("mtab", text, f"sudo ln -sf /proc/self/mounts {_MTAB}")


def fuse_conf(machine: Machine, mounts: Sequence[Mount], *, allow_other: bool) -> Iterator[Finding]:
    """Check /etc/fuse.conf: allow_other, if it is set, and the limit on mounts of ordinary users."""
    if not allow_other:
        yield skipped("allow_other", "not asked for")
    elif machine.euid == 0:
        yield good("allow_other", "root may use allow_other")
    else:
        fact = f"{checks.FUSE_CONF} lets ordinary users use allow_other"
        yield checked("allow_other", lambda: checks.user_allow_other(machine), fact)
    lines = checks.fuse_conf(machine)
    stated = [match[1] for line in lines if (match := re.fullmatch(r"mount_max\s*=\s*(-?\d{1,9})", line))]
    most = int(stated[-1]) if stated else _MOUNT_MAX
    there = sum(mount.fstype == "fuse" or mount.fstype.startswith("fuse.") for mount in mounts)
    if machine.euid != 0 and there >= most != -1:
        fix = f"sudo sed -i '/^ *mount_max/d; $a mount_max = {most + 1000}' {checks.FUSE_CONF}"
        yield fault("mount_max", f"{there} FUSE mounts exist, and {checks.FUSE_CONF} allows {most}", fix)


def open_files(limit: int) -> Finding:
    """Check the limit of open files; a negative one is none."""
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
    if machine.euid == 0 or machine.user is None:
        return None
    files = ["/etc/systemd/logind.conf"]
    for directory in ("/usr/lib/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"):
        files += [f"{directory}/{name}" for name in machine.names(directory) if name.endswith(".conf")]
    text = "\n".join(machine.read(file) or "" for file in files)
    values = re.findall(r"^\s*KillUserProcesses\s*=\s*(\w+)", text, re.MULTILINE)
    lingers = machine.has(f"/var/lib/systemd/linger/{machine.user}")
    if lingers or not values or values[-1].lower() not in ("yes", "true", "on", "1"):
        return None
    fact = "when you log out, systemd ends your processes (KillUserProcesses), mounts in the background included"
    return warning("logout", fact, f"loginctl enable-linger {shell_word(machine.user)}")


def mounts(rows: Sequence[Mount], is_dead: Callable[[Mount], bool] = control_client.is_dead) -> Iterator[Finding]:
    """Report our mounts: a dead one makes programs fail that touch it."""
    ours = [mount for mount in rows if mount.fstype == mount_table.FUSE_TYPE]
    if len(ours) > _MAX_PROBED:
        yield skipped("mounts", f"{len(ours)} mounts of artifactfs: too many to check")
        return
    dead = list(filter(is_dead, ours))
    for mount in dead:
        fix = f"artifactfs umount {shell_word(mount.point)}"
        yield warning("mounts", f"the mount at {mount.point} is dead: its process was killed", fix)
    live = [mount.point for mount in ours if mount not in dead]
    if live or not dead:
        yield good("mounts", f"mounted at {', '.join(live)}" if live else "nothing of artifactfs is mounted")
