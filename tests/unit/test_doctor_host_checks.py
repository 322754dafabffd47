"""artifactfs.doctor.host_checks: what this machine has to offer, on machines that are made up."""

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from artifactfs.doctor import host_checks
from artifactfs.doctor.findings import Finding, Mark
from artifactfs.errors import ExitCode, UserError
from artifactfs.mount.host import Machine
from artifactfs.mount.mount_table import Mount
from tests.processes import run

ALL_RIGHTS = f"CapEff:\t{(1 << 41) - 1:016x}\nCapBnd:\t{(1 << 41) - 1:016x}\nNoNewPrivs:\t0\n"


@dataclasses.dataclass(frozen=True)
class Made(Machine):
    """A machine of the test's: files below its root, and fusermount3 where the test says."""

    fusermount3: str | None = "/usr/bin/fusermount3"
    said: str = "fusermount3 version: 3.14.0"
    state: os.stat_result | None = None
    nosuid: bool = False

    def which(self, program: str) -> str | None:
        return self.fusermount3

    def output(self, *command: str) -> str:
        return self.said

    def stat(self, path: str) -> os.stat_result:
        if self.state is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.state

    def is_nosuid(self, path: str) -> bool:
        return self.nosuid


def made(
    directory: Path,
    files: Mapping[str, str] | None = None,
    *,
    euid: int = 1000,
    user: str | None = "me",
    **more: object,
) -> Made:
    for path, text in {"proc/self/status": ALL_RIGHTS, **(files or {})}.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(text.encode())
    return dataclasses.replace(Made(str(directory), euid=euid, user=user), **more)  # type: ignore[arg-type]  # fields of Made


def state(mode: int, owner: int = 0) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))


def ours(point: str, fstype: str = "fuse.artifactfs") -> Mount:
    return Mount("0:1", point, fstype, "artifactfs")


def check(found: Finding | None, mark: Mark, *said: str) -> None:
    assert found is not None
    assert found.mark is mark
    for text in said:
        assert text in f"{found.fact} {found.fix}"
    # What is wrong says how it is fixed.
    assert (found.fix is not None) == (mark in (Mark.WARNING, Mark.FAULT))


def test_libraries() -> None:
    """Versions below the bounds of the package, libraries that are missing, and a binding that does not load."""

    def versions(name: str) -> str:
        found = {"httpx": "0.28.1", "trio": "0.27.0"}.get(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError
        return found

    needs = ["httpx>=0.28.0", "trio>=0.27.0", 'starlette>=9; extra == "demo"']
    check(
        host_checks.libraries(needs, versions, lambda: "3.5.0"),
        Mark.GOOD,
        "pyfuse3 3.5.0",
        "httpx 0.28.1",
        "Python 3.",
        "Linux ",
    )
    check(
        host_checks.libraries(["httpx>=0.30"], versions, lambda: ""), Mark.FAULT, "httpx is 0.28.1, and 0.30 is needed"
    )
    check(host_checks.libraries(["none-such>=1"], versions, lambda: ""), Mark.FAULT, "none-such is missing")

    def broken() -> str:
        fact = "pyfuse3 does not load (libfuse3.so.3: no such file)"
        raise UserError(ExitCode.MOUNT_REFUSED, fact, "run it", command="sudo apt-get install libfuse3-3")

    found = host_checks.libraries(needs, versions, broken)
    check(found, Mark.FAULT, "libfuse3.so.3", "apt-get install libfuse3-3")
    assert "run" not in found.fact


def test_the_bounds_are_those_of_the_package() -> None:
    """The requirements that the package itself states are read: each has a bound, and holds here."""
    stated = importlib.metadata.requires("artifactfs") or []
    assert len([each for each in stated if ">=" in each and "extra" not in each]) >= 9
    check(host_checks.libraries(stated), Mark.GOOD)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, ["/dev/fuse is missing", "sudo modprobe fuse"]),
        ({".dockerenv": ""}, ["/dev/fuse is missing", "--device /dev/fuse"]),
        ({"run/.containerenv": ""}, ["--device /dev/fuse"]),
        ({"proc/1/cgroup": "0::/kubepods.slice/x"}, ["SYS_ADMIN"]),
    ],
)
def test_the_device(files: dict[str, str], said: list[str], tmp_path: Path) -> None:
    """The fix of a missing or forbidden /dev/fuse is mount's, and another in a container."""

    def look() -> None:
        raise UserError(ExitCode.NO_FUSE_DEVICE, "/dev/fuse is missing", "run it", command="sudo modprobe fuse")

    check(host_checks.device(made(tmp_path, files), look), Mark.FAULT, *said)
    check(host_checks.device(made(tmp_path, files), lambda: None), Mark.GOOD, "/dev/fuse")


def test_privilege(tmp_path: Path) -> None:
    """Who has not the capability cannot mount, nor who may gain none; the kernel's own words are read."""
    without = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\n"
    check(host_checks.privilege(made(tmp_path)), Mark.GOOD, "fusermount3")
    check(host_checks.privilege(made(tmp_path, euid=0)), Mark.GOOD, "root")
    run_isolated = made(tmp_path, {"proc/self/uid_map": "         0       1000          1\n"}, euid=0)
    check(
        host_checks.privilege(run_isolated),
        Mark.WARNING,
        "root of a user namespace, not of the machine",
        "unshare -Urm",
    )
    (tmp_path / "proc/self/uid_map").unlink()
    check(
        host_checks.privilege(made(tmp_path, {"proc/self/status": without})), Mark.FAULT, "CAP_SYS_ADMIN", "--cap-add"
    )
    check(host_checks.privilege(made(tmp_path, {"proc/self/status": without}, euid=0)), Mark.FAULT, "CAP_SYS_ADMIN")
    none_new = ALL_RIGHTS.replace("NoNewPrivs:\t0", "NoNewPrivs:\t1")
    check(host_checks.privilege(made(tmp_path, {"proc/self/status": none_new})), Mark.FAULT, "no_new_privs")
    check(host_checks.privilege(made(tmp_path, {"proc/self/status": none_new}, euid=0)), Mark.GOOD)
    check(host_checks.privilege(made(tmp_path, {"proc/self/status": "Name:\tx\n"})), Mark.GOOD)


def test_fusermount3(tmp_path: Path) -> None:
    """Missing, without its bit, of another owner, on a nosuid disk: each is a fault for an ordinary user."""
    good = state(0o104755)
    check(host_checks.fusermount(made(tmp_path, state=good)), Mark.GOOD, "3.14.0", "set-uid root")
    check(host_checks.fusermount(made(tmp_path, state=state(0o100755))), Mark.FAULT, "not set-uid", "chmod u+s")
    check(host_checks.fusermount(made(tmp_path, state=state(0o104755, 1000))), Mark.FAULT, "not set-uid", "chown root")
    check(host_checks.fusermount(made(tmp_path, state=good, nosuid=True)), Mark.FAULT, "nosuid")
    check(host_checks.fusermount(made(tmp_path, fusermount3=None)), Mark.FAULT, "missing", "apt-get install fuse3")
    check(host_checks.fusermount(made(tmp_path)), Mark.FAULT, "No such file")
    check(host_checks.fusermount(made(tmp_path, state=good, said="")), Mark.GOOD, "unknown version")
    # Root mounts without it.
    check(host_checks.fusermount(made(tmp_path, euid=0, fusermount3=None)), Mark.SKIPPED)


def conf(machine: Made, mounts: Sequence[Mount] = (), *, allow_other: bool = False) -> dict[str, Finding]:
    return {found.check: found for found in host_checks.fuse_conf(machine, mounts, allow_other=allow_other)}


def test_allow_other(tmp_path: Path) -> None:
    """The line in fuse.conf is a fault where it lacks and is needed, and nothing where it is not."""
    lacking = made(tmp_path, {"etc/fuse.conf": "# user_allow_other\n"})
    check(conf(lacking)["allow_other"], Mark.SKIPPED, "not asked for")
    check(conf(lacking, allow_other=True)["allow_other"], Mark.FAULT, "user_allow_other", "sudo tee -a /etc/fuse.conf")
    # A line ends with a line feed, and nothing else.
    for text in ("#\ruser_allow_other\n", "x\x85user_allow_other\n", "x\u2028user_allow_other\n"):
        check(conf(made(tmp_path, {"etc/fuse.conf": text}), allow_other=True)["allow_other"], Mark.FAULT)
    there = made(tmp_path, {"etc/fuse.conf": " user_allow_other # yes\n"})
    check(conf(there, allow_other=True)["allow_other"], Mark.GOOD)
    check(conf(dataclasses.replace(lacking, euid=0), allow_other=True)["allow_other"], Mark.GOOD, "root")


@pytest.mark.parametrize("before", ["", "# user_allow_other\n", "mount_max = 5\nuser_allow_other"])
def test_the_command_for_allow_other_fixes_it(before: str, tmp_path: Path) -> None:
    """The reported command works, also on a file whose last line has no line feed."""
    machine = made(tmp_path, {"etc/fuse.conf": before})
    found = conf(machine, allow_other=True)["allow_other"]
    assert found.fix is not None
    run("sh", "-c", found.fix.replace("sudo ", "").replace("/etc/fuse.conf", str(tmp_path / "etc/fuse.conf"))).ok()
    check(conf(machine, allow_other=True)["allow_other"], Mark.GOOD)


def test_mount_max(tmp_path: Path) -> None:
    """As many FUSE mounts as fuse.conf allows: the next one is refused."""
    two = [ours("/a"), ours("/b", "fuse.sshfs"), ours("/sys/fs/fuse/connections", "fusectl")]
    allowed = made(tmp_path, {"etc/fuse.conf": "mount_max = 3\n"})
    assert "mount_max" not in conf(allowed, two)
    full = made(tmp_path, {"etc/fuse.conf": "mount_max = 2\n"})
    check(conf(full, two)["mount_max"], Mark.FAULT, "2 FUSE mounts", "mount_max = 1002")
    assert "mount_max" not in conf(dataclasses.replace(full, euid=0), two)


def test_open_files() -> None:
    check(host_checks.open_files(1024), Mark.GOOD, "1,024")
    check(host_checks.open_files(-1), Mark.GOOD, "no limit")
    check(host_checks.open_files(64), Mark.WARNING, "64", "ulimit -n 1024")


UPDATEDB = 'PRUNE_BIND_MOUNTS="yes"\nPRUNEFS="NFS nfs4 tmpfs{}"\n'


def test_updatedb(tmp_path: Path) -> None:
    """Where locate is, its list has to name our type; where it is not, nothing is said."""
    assert host_checks.updatedb(made(tmp_path)) is None
    named = UPDATEDB.format(" fuse.ARTIFACTFS")
    check(host_checks.updatedb(made(tmp_path, {"etc/updatedb.conf": named})), Mark.GOOD)
    other = UPDATEDB.format(" fuse.artifactfs2")
    check(host_checks.updatedb(made(tmp_path, {"etc/updatedb.conf": other})), Mark.WARNING, "sudo sed")
    check(host_checks.updatedb(made(tmp_path, {"etc/updatedb.conf": 'PRUNEPATHS="/tmp"\n'})), Mark.WARNING, "tee -a")


@pytest.mark.parametrize("before", [UPDATEDB.format(""), 'PRUNEPATHS="/tmp"\n', '  PRUNEFS = ""\n'])
def test_the_command_for_updatedb_fixes_its_file(before: str, tmp_path: Path) -> None:
    """The command that is reported does what it says, on a file like Debian's and on others."""
    machine = made(tmp_path, {"etc/updatedb.conf": before})
    found = host_checks.updatedb(machine)
    assert found is not None
    assert found.fix is not None
    command = found.fix.replace("sudo ", "").replace("/etc/updatedb.conf", str(tmp_path / "etc/updatedb.conf"))
    run("sh", "-c", command).ok()
    check(host_checks.updatedb(machine), Mark.GOOD)
    after = (tmp_path / "etc/updatedb.conf").read_text()
    # What was there is still there.
    assert set(before.replace('"', " ").split()) <= set(after.replace('"', " ").split())


def test_logout(tmp_path: Path) -> None:
    """KillUserProcesses matters to an ordinary user who does not linger; the last file that says it counts."""
    yes, no = "[Login]\nKillUserProcesses=yes\n", "[Login]\nKillUserProcesses=no\n"
    main, more = "etc/systemd/logind.conf", "etc/systemd/logind.conf.d/10.conf"
    assert host_checks.logout(made(tmp_path)) is None
    assert host_checks.logout(made(tmp_path, {main: "#KillUserProcesses=yes\n"})) is None
    check(host_checks.logout(made(tmp_path, {main: yes})), Mark.WARNING, "loginctl enable-linger me")
    assert host_checks.logout(made(tmp_path, euid=0)) is None
    assert host_checks.logout(made(tmp_path, {more: no})) is None
    assert host_checks.logout(made(tmp_path, {more: yes})) is not None
    assert host_checks.logout(made(tmp_path, {"var/lib/systemd/linger/me": ""})) is None


def test_a_name_in_the_status_of_a_process(tmp_path: Path) -> None:
    """A process may be called as it likes: that is no field of its status."""
    status = "Name:\tx\rNoNewPrivs:\t1\x85NoNewPrivs:\t1\n" + ALL_RIGHTS
    assert made(tmp_path, {"proc/self/status": status}).process_status("NoNewPrivs") == "0"


def test_mounts() -> None:
    """Ours are reported, dead ones with what takes them away; those of others are left out."""
    (nothing,) = host_checks.mounts([ours("/x", "ext4")])
    check(nothing, Mark.GOOD, "nothing")
    dead, live = host_checks.mounts([ours("/a b"), ours("/c")], lambda mount: mount.point == "/a b")
    check(dead, Mark.WARNING, "/a b", "artifactfs umount '/a b'")
    check(live, Mark.GOOD, "/c")
    assert "/a b" not in live.fact
    (many,) = host_checks.mounts([ours(f"/{number}") for number in range(99)])
    check(many, Mark.SKIPPED, "99")


def test_the_machine_itself() -> None:
    """What is read of the real machine is what its own programs say."""
    machine = Machine()
    assert machine.process_status("NoNewPrivs") in ("0", "1")
    assert machine.process_status("NoSuchField") == ""
    assert machine.read("/proc/self/nothing") is None
    assert machine.names("/no/such/directory") == []
    assert machine.output("/no/such/program") == ""
    assert machine.output("sh", "-c", "echo a; echo b") == "a b"
    assert machine.has("/proc/self/status")
    assert machine.euid == os.geteuid()
