"""`mount -t artifactfs` and fstab, by the system's own mount(8), in a mount namespace that has the helper installed."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from artifactfs.emulator import sample
from tests.fixtures import AS_USER, USER_ID, User
from tests.harness import (
    ARTIFACTFS,
    END_S,
    FUSE_TYPE,
    Done,
    Lab,
    Shell,
    holding,
    mount_type,
    needs_root,
    run,
    start_process,
    wait_until,
)
from tests.processes import MARK

pytestmark = needs_root

ALICE = 4711
MOUNT_FAILED = 32
INTERRUPTED = 8

# Only in this namespace: the helper beside mount(8)'s others, an fstab of the test's own, a user alice, and a root
# whose home is the test's; and /mnt is empty. $1: the directory of all that; $2: the helper.
_NAMESPACE = """
set -e
# What other tests have mounted at this moment, they shall be able to unmount.
awk '$3 == "fuse.artifactfs" { print $2 }' /proc/self/mounts | sed 's/\\\\/\\\\0/g' |
  while read -r other; do umount -lc "$(printf %b "$other")" || true; done
sbin=$(realpath /sbin)
mkdir -p "$1/sbin" "$1/roothome"
mount --bind "$sbin" "$1/sbin"
mount -t tmpfs none "$sbin"
ln -s "$1"/sbin/* "$sbin"
ln -sf "$2" "$sbin/mount.artifactfs"
for name in fstab passwd group fuse.conf; do
  [ -e "$1/$name" ] || cp "/etc/$name" "$1/$name"
  mount --bind "$1/$name" "/etc/$name"
done
mount -t tmpfs none /mnt
echo ready
read word
"""


@dataclass
class Machine:
    """A machine on which the helper is installed: commands on it, and its mount table."""

    shell: Shell
    pid: int

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> Done:
        return run(*self.inside(command), env=self.shell.env if env is None else env)

    def inside(self, command: tuple[str, ...]) -> tuple[str, ...]:
        return ("nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", *command)

    def fstab(self, *lines: str) -> None:
        # In place: a file that is bound to another is that file.
        with open(self.shell.path("fstab"), "w", encoding="utf-8") as file:
            file.write("".join(f"{line} 0 0\n" for line in lines))

    def config(self, text: str) -> str:
        """Write a config file with the lab's keys; returns its path."""
        assert self.shell.lab is not None
        path = self.shell.path("config.toml")
        keys = f'api_key = "{self.shell.lab.api_key}"\napp_key = "{self.shell.lab.app_key}"\n'
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(keys + text)
        return path

    def rows(self) -> list[tuple[str, str, str]]:
        """Return source, place and type of what of ours is mounted."""
        with open(f"/proc/{self.pid}/mounts", encoding="utf-8") as table:
            rows = [line.split(" ")[:3] for line in table]
        ours = (self.shell.directory + "/", "/mnt/")
        return [(source, point, kind) for source, point, kind in rows if kind == FUSE_TYPE and point.startswith(ours)]

    def check_tree(self, point: str) -> None:
        """Check that the sample is there, as the service has it."""
        done = self.run("find", os.path.join(point, "runs", str(sample.RUN)), "-type", "f").ok()
        assert self.shell.lab is not None
        assert len(done.text.splitlines()) == sum(s is not None for s in self.shell.lab.truth(sample.RUN).values())

    def check_gone(self) -> None:
        wait_until(lambda: not self.rows(), "the unmount", END_S)
        wait_until(lambda: len(self.shell.processes()) <= 1, "the end of the mount's process", END_S)


@contextlib.contextmanager
def machine_of(shell: Shell, helper: str) -> Iterator[Machine]:
    own = {
        "passwd": f"root:x:0:0::{shell.path('roothome')}:/bin/sh\nalice:x:{ALICE}:{ALICE}::/nonexistent:/bin/sh\n",
        "group": f"root:x:0:\nalice:x:{ALICE}:\n",
    }
    for name, lines in own.items():
        with open(f"/etc/{name}", encoding="utf-8") as file:
            others = [line for line in file if not line.startswith(("root:", "alice:"))]
        with open(shell.path(name), "w", encoding="utf-8") as file:
            file.write(lines + "".join(others))
    with open(shell.path("fstab"), "w", encoding="utf-8"):
        pass
    command = ("unshare", "-m", "--", "sh", "-c", _NAMESPACE, "sh", shell.directory, helper)
    with holding(command, env=shell.env) as held:
        yield Machine(shell, held.pid)
        # Whatever the test left: lazily, so that nothing waits.
        for _, point, _ in Machine(shell, held.pid).rows():
            run("nsenter", f"--mount=/proc/{held.pid}/ns/mnt", "--", "umount", "-l", point)
    wait_until(lambda: not shell.processes(), "the end of all processes", END_S)


@pytest.fixture
def machine(shell: Shell) -> Iterator[Machine]:
    os.chmod(shell.directory, 0o755)
    with machine_of(shell, os.path.join(os.path.dirname(ARTIFACTFS), "mount.artifactfs")) as machine:
        yield machine


@pytest.fixture
def point(shell: Shell) -> str:
    return shell.make_directory("mnt")


def test_mount_and_umount(machine: Machine, lab: Lab, point: str) -> None:
    """`mount -t artifactfs URL DIR -o …` mounts, with URL as the source; `umount DIR` ends it, and its process."""
    machine.run("mount", "-t", "artifactfs", lab.url, point, "-o", "umask=022,noatime").ok()
    assert machine.rows() == [(lab.url, point, FUSE_TYPE)]
    machine.check_tree(point)
    machine.run("umount", point).ok()
    machine.check_gone()


def test_fstab(machine: Machine, lab: Lab, point: str, shell: Shell) -> None:
    """`mount -a` mounts what fstab lists, once: a second one changes nothing and asks the service nothing."""
    other = shell.make_directory("other")
    machine.fstab(
        f"{lab.url}/ {point} artifactfs defaults,_netdev,nofail,x-systemd.automount,comment=hello,user,listing_ttl=5m",
        f"{lab.url} {other} artifactfs noauto,ro",
    )
    machine.run("mount", "-a").ok()
    assert machine.rows() == [(f"{lab.url}/", point, FUSE_TYPE)]
    machine.check_tree(point)
    before = (machine.rows(), shell.processes(), lab.total())
    machine.run("mount", "-a").ok()
    assert (machine.rows(), shell.processes(), lab.total()) == before

    # By its place alone; and from another file than /etc/fstab.
    machine.run("mount", other).ok()
    assert [row[1] for row in machine.rows()] == [point, other]
    machine.run("umount", other).ok()
    machine.run("umount", point).ok()
    machine.check_gone()
    machine.run("mount", "-a", "-T", shell.path("fstab")).ok()
    assert machine.rows() == [(f"{lab.url}/", point, FUSE_TYPE)]


def test_a_profile(machine: Machine, lab: Lab, point: str) -> None:
    """SPEC is a profile of the config file; a slip is named with the nearest; `none` is the file's own default."""
    config = machine.config(f'api_url = "http://127.0.0.1:9"\n[profiles.staging]\napi_url = "{lab.url}"\n')
    machine.run("mount", "-t", "artifactfs", "-o", f"config={config}", "staging", point).ok()
    assert machine.rows() == [("staging", point, FUSE_TYPE)]
    machine.check_tree(point)
    machine.run("umount", point).ok()
    machine.check_gone()

    slip = machine.run("mount", "-t", "artifactfs", "-o", f"config={config}", "staing", point)
    assert slip.code == 1
    assert "mount.artifactfs: there is no profile 'staing'; did you mean staging?" in slip.err
    default = machine.run("mount", "-t", "artifactfs", "-o", f"config={config}", "none", point)
    assert default.code == MOUNT_FAILED
    assert "127.0.0.1:9" in default.err
    machine.run("mount", "-t", "artifactfs", "-o", f"config={config},profile=staging", "my-lab", point).ok()
    assert machine.rows() == [("my-lab", point, FUSE_TYPE)]


def test_a_comma_in_the_config_files_name(machine: Machine, lab: Lab, point: str) -> None:
    r"""`\,` in `config=` is a comma, for the profile that SPEC names as well."""
    path = machine.config(f'[profiles.staging]\napi_url = "{lab.url}"\n')
    os.rename(path, os.path.join(os.path.dirname(path), "a,b.toml"))
    options = "config=" + os.path.join(os.path.dirname(path), r"a\,b.toml")
    machine.run("mount", "-t", "artifactfs", "-o", options, "staging", point).ok()
    assert machine.rows() == [("staging", point, FUSE_TYPE)]
    machine.run("umount", point).ok()
    machine.fstab(f"staging {point} artifactfs noauto,{options}")
    machine.run("mount", "-T", machine.shell.path("fstab"), point).ok()
    machine.check_tree(point)


def test_a_label_that_may_be_a_profile(machine: Machine, lab: Lab, point: str, shell: Shell) -> None:
    """Where no setting names a site, the message names the one in use, and that SPEC has no part in it."""
    fake = ("mount", "-f", "-t", "artifactfs")
    done = machine.run(*fake, "eu", point).ok()
    assert done.err.count("\n") == 1
    assert "warning: eu is taken as a label, since there are no profiles in " in done.err
    assert "/config.toml; datadoghq.com is asked: confirm with site=datadoghq.com" in done.err
    for spec, options in (
        ("none", "ro"),
        ("artifactfs", "ro"),
        (lab.url, "ro"),
        ("datadoghq.eu", "ro"),
        ("eu", "site=datadoghq.com"),
        ("eu", f"api_url={lab.url}"),
        ("eu", "config=" + machine.config('site = "datadoghq.eu"\n')),
    ):
        assert machine.run(*fake, "-o", options, spec, point).ok().err == "", (spec, options)
    assert machine.run(*fake, "eu", point, env=shell.env | {"DD_SITE": "datadoghq.eu"}).ok().err == ""


def test_at_boot(machine: Machine, lab: Lab, shell: Shell) -> None:
    """As systemd runs it, with an empty environment: root mounts for alice, and keeps things in root's own home."""
    config = machine.config(f'[profiles.eu]\napi_url = "{lab.url}"\n')
    options = f"_netdev,nofail,allow_other,uid=alice,gid=alice,umask=077,config={config}"
    point = "/mnt/model-lab"
    machine.run("mkdir", point).ok()
    machine.fstab(f"eu {point} artifactfs {options}")
    # All that is left of the environment is what the tests find their processes by.
    at_boot = ("env", "-i", f"{MARK}={shell.mark}", "/bin/mount")
    # First what a mount unit of systemd's calls.
    machine.run(*at_boot, "eu", point, "-t", "artifactfs", "-o", options).ok()
    assert machine.rows() == [("eu", point, FUSE_TYPE)]
    machine.run(*at_boot, "-a").ok()
    assert len(machine.rows()) == 1

    as_alice = ("setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", "--")
    assert machine.run("stat", "-c", "%U:%G %a", f"{point}/runs").text == "alice:alice 700\n"
    name = f"{point}/runs/{sample.RUN}/lora_model/README.md"
    assert machine.run(*as_alice, "cat", name).ok().out == machine.run("cat", name).ok().out
    assert machine.run(*AS_USER, "ls", f"{point}/runs").code != 0
    kept = {os.path.join(top, n) for top, _, names in os.walk(shell.path("roothome")) for n in names}
    assert any("/.cache/artifactfs/" in path for path in kept), kept
    assert any("/.local/state/artifactfs/log/" in path for path in kept)
    machine.run("umount", point).ok()
    machine.check_gone()


def test_the_service_comes_later(machine: Machine, own_lab: Lab, point: str, shell: Shell) -> None:
    """5.8: with nofail or _netdev it goes on trying while no server answers; without, it fails at once with 32."""
    shell.lab = own_lab
    own_lab.stop()
    at_once = machine.run("mount", "-t", "artifactfs", "-o", "deadline=2s", own_lab.url, point)
    assert at_once.code == MOUNT_FAILED
    assert at_once.err.startswith("mount.artifactfs: ")
    assert at_once.err.count("\n") == 1

    log_file = shell.path("mount.log")
    machine.fstab(f"{own_lab.url} {point} artifactfs nofail,deadline=2s,log_file={log_file}")
    with start_process(machine.inside(("mount", "-a")), env=shell.env) as process:
        wait_until(lambda: "trying again" in read(log_file), "the first try")
        assert process.poll() is None
        own_lab.start()
        assert process.wait(END_S + 16) == 0
    machine.check_tree(point)


def test_waiting_for_the_service_has_an_end(machine: Machine, own_lab: Lab, point: str, shell: Shell) -> None:
    """5.8: `wait_max` is the longest that it goes on; then the cause, and 32."""
    shell.lab = own_lab
    own_lab.stop()
    done = machine.run("mount", "-t", "artifactfs", "-o", "_netdev,deadline=2s,wait_max=2s", own_lab.url, point)
    assert done.code == MOUNT_FAILED
    assert "gave up after 2 s of waiting" in done.err
    assert machine.rows() == []


def test_interrupted(shell: Shell, own_lab: Lab, point: str) -> None:
    """Ctrl-C, and systemd's SIGTERM, end a helper that waits: with 8, and nothing is left."""
    own_lab.stop()
    shell.program = (os.path.join(os.path.dirname(ARTIFACTFS), "mount.artifactfs"),)
    for way in (signal.SIGINT, signal.SIGTERM):
        log_file = shell.path(f"{way.name}.log")
        options = ("-o", f"nofail,deadline=2s,log_file={log_file}")
        with shell.background(own_lab.url, point, *options) as process:
            wait_until(lambda: "trying again" in read(log_file), "the first try")  # noqa: B023 - called at once
            process.send_signal(way)
            assert process.wait(END_S) == INTERRUPTED
        wait_until(lambda: not shell.processes(), "the end", END_S)


def read(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("listing_tll=5", 1, "did you mean listing_ttl?"),
        ("listing_ttl=soon", 1, "soon"),
        ("config=/none.toml", MOUNT_FAILED, "there is no config file /none.toml"),
        ("api_key=x", 1, "does not belong on a command line"),
        ("log_file=/proc/none/log", MOUNT_FAILED, "cannot write the log"),
    ],
)
def test_bad_options(options: str, code: int, said: str, machine: Machine, lab: Lab, point: str) -> None:
    """One line, mount(8)'s exit code, nothing mounted."""
    done = machine.run("mount", "-t", "artifactfs", "-o", options, lab.url, point)
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert said in done.err
    assert machine.rows() == []


def test_sloppy_and_fake(machine: Machine, lab: Lab, point: str) -> None:
    """`-s` overlooks unknown options; `-f` checks everything on this side, and mounts nothing and sends no request."""
    machine.run("mount", "-s", "-f", "-v", "-t", "artifactfs", "-o", "nonsense=1", lab.url, point).ok()
    assert (machine.rows(), lab.total()) == ([], 0)
    assert machine.run("mount", "-f", "-t", "artifactfs", "-o", "nonsense=1", lab.url, point).code == 1
    assert machine.run("mount", "-f", "-t", "artifactfs", lab.url, point + "/none").code != 0
    done = machine.run("mount", "-s", "-v", "-t", "artifactfs", "-o", "nonsense=1", lab.url, point).ok()
    assert f"{lab.url} is the api url" in done.text
    machine.check_tree(point)


def test_what_is_mounted_is_not_changed(machine: Machine, lab: Lab, point: str) -> None:
    """A remount is refused with what to do; mounting twice at a place, too; the mount lives on."""
    machine.run("mount", "-t", "artifactfs", lab.url, point).ok()
    machine.fstab(f"{lab.url} {point} artifactfs ro")
    again = machine.run("mount", "-o", "remount", point)
    assert again.code == 1
    assert "artifactfs umount" in again.err
    second = machine.run("mount", "-t", "artifactfs", "other", point)
    assert second.code == MOUNT_FAILED
    assert "already mounted" in second.err
    machine.check_tree(point)


def test_rejected_keys(machine: Machine, lab: Lab, point: str, shell: Shell) -> None:
    """5.8: rejected keys fail it at once, also with nofail; no key is shown."""
    env = {**shell.env, "DD_APP_KEY": "wrong-key-1234"}
    done = machine.run("mount", "-t", "artifactfs", "-o", "nofail", lab.url, point, env=env)
    assert done.code == MOUNT_FAILED
    assert "the keys were rejected" in done.err
    assert "wrong-key" not in done.err


def test_a_killed_mount_heals(machine: Machine, lab: Lab, point: str, shell: Shell) -> None:
    """5.6: after a SIGKILL `mount` at that place works again."""
    machine.run("mount", "-t", "artifactfs", lab.url, point).ok()
    (serving,) = [pid for pid in shell.processes() if pid != machine.pid]
    os.kill(serving, 9)
    wait_until(lambda: serving not in shell.processes(), "its end")
    machine.run("mount", "-t", "artifactfs", lab.url, point).ok()
    machine.check_tree(point)
    assert len(machine.rows()) == 1


def test_an_ordinary_user_mounts(user: User, user_shell: Shell, lab: Lab) -> None:
    """With `user` in fstab an ordinary user mounts it as himself, and unmounts it; it is his alone."""
    helper = user_shell.path("helper")
    exports = "".join(f"export {name}='{value}'\n" for name, value in user.env.items())
    with open(helper, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\n{exports}exec "{user.python}" -m artifactfs.cli.mount_helper "$@"\n')
    os.chmod(helper, 0o755)
    point = user_shell.make_directory("mnt")
    with machine_of(user_shell, helper) as machine:
        machine.fstab(f"{lab.url} {point} artifactfs user,noauto,nofail")
        machine.run(*AS_USER, "mount", point).ok()
        assert machine.rows() == [(lab.url, point, FUSE_TYPE)]
        assert machine.run(*AS_USER, "stat", "-c", "%u", f"{point}/runs").ok().text == f"{USER_ID}\n"
        assert machine.run("ls", point).code != 0
        machine.run(*AS_USER, "umount", point).ok()
        machine.check_gone()


def test_called_by_hand(shell: Shell, lab: Lab) -> None:
    """Without mount(8): how it is called, and its version; and it works without being installed anywhere."""
    shell.program = (os.path.join(os.path.dirname(ARTIFACTFS), "mount.artifactfs"),)
    assert shell.cli().code == 1
    assert "SPEC DIR" in shell.cli("--help").ok().text
    assert shell.cli("--version").ok().text.startswith("mount.artifactfs ")
    mounted = shell.expected_mount()
    shell.cli(lab.url, mounted.point, "-o", f"rw,log_file={mounted.log_file}").ok()
    assert mount_type(mounted.point) == FUSE_TYPE
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert shell.cli(lab.url, mounted.point).code == MOUNT_FAILED
