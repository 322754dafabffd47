"""`artifactfs service`, and its units in the hands of a real systemd: a user's manager in namespaces of its own."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
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
    wait_until,
)

# A user's manager that takes itself to be on a machine run by systemd, with its own control groups. It sees only itself
# and what it starts, and all of that is gone when this shell is.
_MANAGER = """
set -e
# As everywhere under systemd, and among these namespaces only.
mount --make-rshared /
mount -t tmpfs none /run
mkdir -p "$XDG_RUNTIME_DIR" /run/systemd/system
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
# In a process group of these namespaces: an automount names it to the kernel.
setsid /lib/systemd/systemd --user --log-target=null &
until [ -S "$XDG_RUNTIME_DIR/systemd/private" ]; do sleep 0.05; done
echo ready
read word
"""


@dataclass
class Manager:
    """systemd for one user, and a shell beside it."""

    shell: Shell
    pid: int

    def run(self, *command: str) -> Done:
        inside = ("nsenter", f"--target={self.pid}", "--mount", "--pid", "--cgroup", "--", *command)
        return run(*inside, env=without_keys(self.shell))

    def systemctl(self, *arguments: str) -> Done:
        return self.run("systemctl", "--user", "--no-pager", *arguments)

    def show(self, unit: str, key: str) -> str:
        return self.systemctl("show", "--value", f"--property={key}", unit).ok().text.strip()


def without_keys(shell: Shell) -> dict[str, str]:
    """Return the environment of who logs in: the keys are in files."""
    return {name: value for name, value in shell.env.items() if not name.startswith("DD_")}


@pytest.fixture
def manager(shell: Shell) -> Iterator[Manager]:
    # Anywhere but below /run and /sys, which are others in there.
    shell.more_env |= {"XDG_RUNTIME_DIR": "/run/user/0", "XDG_CONFIG_HOME": shell.path("config")}
    command = (
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--mount-proc",
        "--cgroup",
        "sh",
        "-c",
        _MANAGER,
    )
    with holding(command, env=without_keys(shell)) as held:
        (inside,) = children(held.pid)
        yield Manager(shell, inside)
    wait_until(lambda: not shell.processes(), "the end of all processes", END_S)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return list(map(int, file.read().split()))


def write_config(shell: Shell, lab: Lab, *, app_key: str | None = None) -> None:
    """Write the user's config file: the lab as the profile `eu`, its keys in files beside it."""
    directory = os.path.join(shell.path("config"), "artifactfs")
    os.makedirs(directory, exist_ok=True)
    for name, text in {
        "config.toml": f'[profiles.eu]\napi_url = "{lab.url}"\n'
        f'api_key_file = "{directory}/api-key"\napp_key_file = "{directory}/app-key"\n',
        "api-key": lab.api_key,
        "app-key": app_key or lab.app_key,
    }.items():
        with open(os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)


@contextlib.contextmanager
def installed(manager: Manager, point: str) -> Iterator[str]:
    """Install the unit of the profile `eu`; yields its name."""
    done = manager.run(ARTIFACTFS, "service", "install", "--profile", "eu", point).ok()
    assert "systemctl --user enable --now artifactfs@eu\n" in done.text
    manager.systemctl("daemon-reload").ok()
    yield "artifactfs@eu.service"
    manager.systemctl("stop", "artifactfs@eu.service").ok()
    manager.run(ARTIFACTFS, "service", "uninstall", "--profile", "eu").ok()


@needs_root
def test_a_unit_lives(manager: Manager, lab: Lab, shell: Shell) -> None:
    """A unit starts when the mount answers, says what it does, refreshes, is started again when killed, and ends."""
    write_config(shell, lab)
    point = shell.path("mnt") + ' of "eu" 100%'
    with installed(manager, point) as unit:
        manager.systemctl("enable", unit).ok()
        manager.systemctl("start", unit).ok()
        assert manager.show(unit, "ActiveState") == "active"
        assert manager.show(unit, "StatusText") == f"{lab.url.removeprefix('http://')} at {point}"
        assert mount_type(point, manager.pid) == FUSE_TYPE
        listed = manager.run("ls", os.path.join(point, "runs", str(sample.RUN))).ok()
        assert "lora_model\n" in listed.text

        # `reload` returns when the refresh is done; the mount is the same one.
        run_id = lab.new_run()
        assert manager.run("ls", f"{point}/runs/{run_id}").ok().text == "a.txt\nsub\n"
        lab.files(run_id, add={"new.txt": 1})
        serving = manager.show(unit, "MainPID")
        manager.systemctl("reload", unit).ok()
        wait_until(lambda: "new.txt" in manager.run("ls", f"{point}/runs/{run_id}").text, "the new file")
        assert manager.show(unit, "MainPID") == serving

        manager.run("kill", "-KILL", serving).ok()
        # RestartSec is 10 s in the unit; the restart itself is systemd's, so it is asked for at once.
        wait_until(lambda: manager.show(unit, "ActiveState") == "activating", "the restart")
        assert manager.show(unit, "SubState") == "auto-restart"
        manager.systemctl("restart", unit).ok()
        assert manager.run("ls", f"{point}/runs/{run_id}").ok().text == "a.txt\nnew.txt\nsub\n"

        manager.systemctl("stop", unit).ok()
        assert manager.show(unit, "Result") == "success"
        assert mount_type(point, manager.pid) is None


@needs_root
def test_a_unit_waits_for_its_service(manager: Manager, own_lab: Lab, shell: Shell) -> None:
    """5.8: while no server answers the unit is starting and says why; then it is there."""
    shell.lab = own_lab
    write_config(shell, own_lab)
    own_lab.stop()
    with installed(manager, shell.path("mnt")) as unit:
        manager.systemctl("start", "--no-block", unit).ok()
        wait_until(lambda: "waiting: 127.0.0.1" in manager.show(unit, "StatusText"), "its word")
        assert manager.show(unit, "ActiveState") == "activating"
        own_lab.start()
        wait_until(lambda: manager.show(unit, "ActiveState") == "active", "the start")
        assert mount_type(shell.path("mnt"), manager.pid) == FUSE_TYPE


@needs_root
def test_a_unit_with_rejected_keys(manager: Manager, lab: Lab, shell: Shell) -> None:
    """5.8: what no second try fixes is not tried again; the unit says why, and shows no key."""
    write_config(shell, lab, app_key="wrong-key-1234")
    with installed(manager, shell.path("mnt")) as unit:
        assert manager.systemctl("start", unit).code != 0
        assert manager.show(unit, "ActiveState") == "failed"
        assert manager.show(unit, "ExecMainStatus") == str(int(ExitCode.KEYS_REJECTED))
        assert manager.show(unit, "NRestarts") == "0"
        told = manager.systemctl("status", unit).text
        assert "the keys were rejected" in told
        assert "wrong-key" not in told


@needs_root
def test_keys_from_systemd(manager: Manager, lab: Lab, shell: Shell) -> None:
    """6.1: LoadCredential= hands the keys over, and the mount is still seen from outside of the unit."""
    write_config(shell, lab)
    directory = os.path.join(shell.path("config"), "artifactfs")
    for key in ("api", "app"):
        os.rename(f"{directory}/{key}-key", f"{directory}/{key}-credential")
    with open(f"{directory}/config.toml", "w", encoding="utf-8") as file:
        file.write(f'[profiles.eu]\napi_url = "{lab.url}"\n')
    with installed(manager, shell.path("mnt")) as unit:
        drop_in = os.path.join(shell.path("config"), "systemd", "user", f"{unit}.d")
        os.makedirs(drop_in)
        with open(os.path.join(drop_in, "keys.conf"), "w", encoding="utf-8") as file:
            file.write("[Service]\n")
            for key in ("api", "app"):
                file.write(f"LoadCredential={key}_key:{directory}/{key}-credential\n")
        manager.systemctl("daemon-reload").ok()
        manager.systemctl("start", unit).ok()
        assert mount_type(shell.path("mnt"), manager.pid) == FUSE_TYPE
        assert "lora_model\n" in manager.run("ls", f"{shell.path('mnt')}/runs/{sample.RUN}").ok().text


# --- the command ----------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(shell: Shell) -> None:
    """`--dry-run` prints the unit; nothing is written, nothing is asked for, and no keys are needed."""
    point = shell.directory_for_mount()
    done = shell.cli("service", "install", "--dry-run", point, env={"DD_API_KEY": None, "DD_APP_KEY": None}).ok()
    assert f'ExecStart="{ARTIFACTFS}" "mount" "-f" "--wait" "{point}"\n' in done.text
    assert os.listdir(shell.path("config")) == []


def test_an_unknown_profile(shell: Shell, lab: Lab) -> None:
    """A unit that could not mount is not written: an unknown profile is named, and a config file with a mistake."""
    write_config(shell, lab)
    done = shell.cli("service", "install", "--profile", "ue", shell.directory_for_mount())
    assert done.code == ExitCode.USAGE
    assert "there is no profile 'ue'" in done.err
    assert done.err.count("\n") == 1
    done = shell.cli("service", "uninstall", "--profile", "ue")
    assert done.code == ExitCode.USAGE
    assert "there is no unit" in done.err
    assert not os.path.exists(os.path.join(shell.path("config"), "systemd"))


def test_a_unit_in_the_place_of_another(shell: Shell) -> None:
    """Without profiles there is one unit: it is said where the one before it mounted, and how to have both."""
    first, second = shell.path("first"), shell.path("second")
    for place in (first, first):
        assert "replaces" not in shell.cli("service", "install", place).ok().text
    done = shell.cli("service", "install", second).ok()
    assert f"it replaces the unit that mounted at {first}; for both, give each a --profile\n" in done.text
    assert "    systemctl --user stop artifactfs\n" in done.text


def test_a_mount_point_that_can_never_be(shell: Shell) -> None:
    """No unit is written that fails at each log-in: the mount point is looked at now. A directory that is missing is
    made by the unit, and where something is mounted now the unit takes its place."""
    with open(shell.path("file"), "w", encoding="ascii") as file:
        file.write("text")
    for place, code, said in (
        (shell.path("file"), ExitCode.NOT_A_DIRECTORY, "is not a directory"),
        (shell.path("file/below/it"), ExitCode.NOT_A_DIRECTORY, f"{shell.path('file')} is not a directory"),
        ("/", ExitCode.MOUNT_REFUSED, "no place for a mount"),
        ("", ExitCode.MOUNT_REFUSED, "no place for a mount"),
    ):
        done = shell.cli("service", "install", place)
        assert (done.code, done.out, done.err.count("\n")) == (code, b"", 1), done
        assert said in done.err
    assert not os.path.exists(shell.path("config/systemd"))
    for place in (shell.path("not/yet"), shell.mount().point):
        assert f'"{place}"\n' in shell.cli("service", "install", "--dry-run", place).ok().text


@needs_root
def test_a_mount_point_of_others(user_shell: Shell) -> None:
    """An ordinary user's unit cannot make a directory in root's."""
    done = user_shell.cli("service", "install", "/opt/not/yet")
    assert done.code == ExitCode.MOUNT_REFUSED
    assert done.err == (
        "artifactfs: mount point /opt/not/yet cannot be made: /opt is not yours to write; mount below a directory of "
        "your own\n"
    )
