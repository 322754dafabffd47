"""Surroundings that are only odd: each command works, or says in one line what is wrong. Nothing is called a bug."""

import itertools
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import User
from tests.harness import Done, Lab, Shell, mount_type, needs_root, run

XDG = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")


@dataclass(frozen=True)
class Odd:
    """What is odd: changes to the environment, and a line of shell before the command, with $D for the test's place."""

    env: Mapping[str, str | None] = field(default_factory=dict)
    before: str = ":"
    # The exit codes of a command that reads settings and writes a line; None: it works.
    codes: tuple[int, ...] = (0,)


# Those whose name begins with "namespace" take root, and a mount namespace.
ODD: dict[str, Odd] = {
    "HOME is unset": Odd({"HOME": None}),
    "HOME is empty": Odd({"HOME": ""}),
    "HOME is relative": Odd({"HOME": "rel"}),
    "HOME is a device": Odd({"HOME": "/dev/null"}, codes=(0, ExitCode.BAD_CONFIG)),
    "XDG is relative": Odd(dict.fromkeys(XDG, "rel")),
    "XDG is a file": Odd(dict.fromkeys(XDG, "/etc/passwd"), codes=(0, ExitCode.BAD_CONFIG)),
    "XDG is odd": Odd(dict.fromkeys(XDG, "/tmp/none/a\nb\udcff\x1b[31m")),
    "XDG is long": Odd(dict.fromkeys(XDG, "/" + "x" * 5000), codes=(0, ExitCode.BAD_CONFIG)),
    "standard input is closed": Odd(before="exec 0<&-"),
    "standard output is closed": Odd(before="exec 1>&-"),
    "standard error is closed": Odd(before="exec 2>&-"),
    "all are closed": Odd(before="exec 0<&- 1>&- 2>&-"),
    "standard output is full": Odd(before="exec 1>/dev/full", codes=(ExitCode.NOT_WRITABLE,)),
    "standard output is for reading": Odd(before="exec 1</dev/null", codes=(ExitCode.NOT_WRITABLE,)),
    "standard error is full": Odd(before="exec 2>/dev/full"),
    "the directory is gone": Odd(before='mkdir "$D/gone" && cd "$D/gone" && rmdir "$D/gone"'),
    "the locale is C": Odd({"LC_ALL": "C"}),
    "the locale is none": Odd({"LC_ALL": "xx_YY.ISO-8859-77"}),
    "ASCII alone": Odd({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "an encoding": Odd({"PYTHONIOENCODING": "ascii:strict"}),
    "the umask is 0777": Odd(before="umask 0777"),
    "the umask is 0": Odd(before="umask 0"),
    "few files": Odd(before="ulimit -n 12", codes=(0, ExitCode.SYSTEM_FAILED)),
    "no file may grow": Odd(before="ulimit -f 0", codes=(0, ExitCode.NOT_WRITABLE)),
    "COLUMNS is 0": Odd({"COLUMNS": "0", "LINES": "0"}),
    "COLUMNS is none": Odd({"COLUMNS": "x", "LINES": "-5"}),
    "TERM is unset": Odd({"TERM": None}),
    "TERM is odd": Odd({"TERM": "\udcff"}),
    "PATH is empty": Odd({"PATH": ""}),
    "PATH is odd": Odd({"PATH": "\udcff:/nonexistent::"}),
    "TZ is odd": Odd({"TZ": "Nonsense/\udcff"}),
    "TMPDIR is none": Odd({"TMPDIR": "/nonexistent"}),
    "warnings are errors": Odd({"PYTHONWARNINGS": "error"}),
    "the environment is odd": Odd({"FOO\udcff": "\udcfe", "ARTIFACTFS_X\udcff": "1"}),
    "a credential's place is odd": Odd({"CREDENTIALS_DIRECTORY": "\udcff\n"}),
    "systemd's socket is odd": Odd({"NOTIFY_SOCKET": "@" + "x" * 300, "JOURNAL_STREAM": "x:y"}),
    "namespace: no /proc": Odd(before="mount -t tmpfs none /proc", codes=(0, ExitCode.SYSTEM_FAILED)),
    "namespace: no /dev": Odd(before="exec 0<&- && mount -t tmpfs none /dev", codes=(0, ExitCode.SYSTEM_FAILED)),
    "namespace: no /etc": Odd(before="mount -t tmpfs none /etc"),
    "namespace: no /sys": Odd(before="mount -t tmpfs none /sys"),
    "namespace: no space": Odd(
        before='mount -t tmpfs -o size=4k none "$HOME" && head -c 4096 /dev/zero >"$HOME/x" && :'
    ),
    "namespace: a read-only home": Odd(before='mount -t tmpfs -o ro none "$HOME"'),
}
# Variables that have nothing to do with one another: each is tried on `config show`, and all together on the rest.
TOGETHER = (
    "XDG is relative", "the locale is none", "COLUMNS is none", "TERM is odd", "PATH is odd", "TZ is odd",
    "TMPDIR is none", "the environment is odd", "a credential's place is odd", "systemd's socket is odd",
)  # fmt: skip
ODD["many are odd"] = Odd({key: value for name in TOGETHER for key, value in ODD[name].env.items()})
# Not all commands: those that come by different ways.
COMMANDS: dict[str, tuple[str, ...]] = {
    "config show": ("config", "show"),
    "status": ("status",),
    "doctor": ("doctor", "--offline", "--json"),
}


def odd_run(shell: Shell, odd: Odd, name: str, *arguments: str) -> Done:
    """Run a command in odd surroundings. The home has nothing of the harness's own XDG variables."""
    env = {**shell.env, **dict.fromkeys(XDG), **odd.env}
    namespace = ("unshare", "-m", "--") if name.startswith("namespace") else ()
    script = f'D="$1"; shift; {odd.before}; exec "$@"'
    whole = {key: value for key, value in env.items() if value is not None}
    return run(*namespace, "/bin/sh", "-c", script, "sh", shell.directory, *shell.program, *arguments, env=whole)


def in_one_line(done: Done, about: str) -> None:
    said = done.err + done.text
    assert "Traceback" not in said, about
    assert "this is a bug" not in said, (about, said)
    assert done.code not in (ExitCode.BUG, 134, 139), (about, done.code, said)
    assert done.code >= 0, about


@needs_root
@pytest.mark.parametrize("name", ODD)
def test_odd_surroundings(name: str, shell: Shell) -> None:
    """Commands that look do so, or say in one line what is wrong."""
    odd = ODD[name]
    for command, arguments in COMMANDS.items():
        if name in TOGETHER and command != "config show":
            continue
        done = odd_run(shell, odd, name, *arguments)
        about = f"{command}: {done.code} {done.err}"
        in_one_line(done, about)
        lines = [line for line in done.err.splitlines() if "warning: " not in line]
        assert len(lines) <= 1, about
        allowed = (*odd.codes, ExitCode.UNHEALTHY) if command == "doctor" else odd.codes
        assert done.code in (*allowed, ExitCode.NOT_WRITABLE) or command == "status", about


@pytest.mark.parametrize("encoding", ["latin-1:strict", "ascii:strict", "utf-8:strict"])
def test_letters_that_a_locale_lacks(encoding: str, shell: Shell) -> None:
    """They are escaped, in the output as in what is said of it; so are bytes of a path that are no letters."""
    env = {"PYTHONIOENCODING": encoding, "HOME": shell.path("ü 模\udcff"), **dict.fromkeys(XDG)}
    place = ("service", "install", "-n", shell.path("模"))
    for command in (("config", "path"), ("config", "show"), place, ("cache", "info")):
        done = shell.cli(*command, env=env)
        in_one_line(done, f"{command}: {done.code} {done.err}")
        assert done.code == 0, (command, done.err)
        assert done.out


def test_a_path_that_is_none(shell: Shell) -> None:
    """Too deep, too long, or roundabout: each command that takes a path says so in one line."""
    point = shell.expected_mount().point
    commands = (
        *(("mount", "PATH"), ("umount", "PATH"), ("info", "PATH"), ("warm", "PATH"), ("demo", "PATH")),
        *(("service", "install", "-n", "PATH"), ("desktop", "open", "PATH"), ("config", "show", "--config", "PATH")),
        *(("mount", f"--{name}", "PATH", point) for name in ("log-file", "ca-file", "api-key-file")),
        ("cache", "info", "--cache-dir", "PATH/y"),
    )
    paths = ("/x" * 2047, "/" + "x" * 5000, "x/.." * 900)
    # Each where a mount is made; the other commands take them in turn.
    tried = [*((commands[0], path) for path in paths), *zip(commands[1:], itertools.cycle(paths))]
    for words, path in tried:
        command = [word.replace("PATH", path) for word in words]
        done = shell.cli(*command)
        in_one_line(done, f"{command[:2]}: {done.code} {done.err[-200:]}")
        assert done.err.count("\n") <= 1, (command[:2], done.err[:300])
    assert mount_type(point) is None


MOUNTED = (
    "HOME is unset", "all are closed", "the directory is gone", "ASCII alone", "the umask is 0777", "PATH is empty",
    "warnings are errors", "many are odd",
)  # fmt: skip


@needs_root
@pytest.mark.parametrize("name", MOUNTED)
def test_a_mount_in_odd_surroundings(name: str, shell: Shell, lab: Lab) -> None:
    """A mount works, is read, and ends by `artifactfs umount` from there."""
    mounted = shell.expected_mount()
    options = ("--api-url", lab.url, "--log-file", mounted.log_file, "--cache-dir", shell.path("cache/own"))
    done = odd_run(shell, ODD[name], name, "mount", *options, mounted.point)
    assert done.code == 0, done.err
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert stat.S_IMODE(os.stat(mounted.log_file).st_mode) & 0o077 == 0
    done = odd_run(shell, ODD[name], name, "umount", mounted.point)
    assert done.code == 0, done.err
    assert mount_type(mounted.point) is None


@pytest.mark.parametrize("kib", [36_000, 38_000, 40_000, 46_000, 60_000, 62_000])
def test_a_mount_without_memory(kib: int, shell: Shell, lab: Lab) -> None:
    """5.5, 5.1: with too little memory to begin it says so; it neither hangs nor calls itself a bug."""
    point = shell.directory_for_mount()
    odd = Odd(before=f"ulimit -v {kib}")
    done = odd_run(shell, odd, "memory", "mount", "--api-url", lab.url, point)
    assert done.code == ExitCode.SYSTEM_FAILED, done.err
    assert "memory left" in done.err
    assert mount_type(point) is None


@pytest.mark.parametrize("umask", ["0777", "0", "0277", "077"])
def test_a_users_umask(umask: str, user_shell: Shell, lab: Lab) -> None:
    """Whatever it is, a user's mount works, and nothing that it makes is another user's to write or to enter."""
    mounted = user_shell.expected_mount()
    for name in ("state", "cache"):
        os.rmdir(user_shell.path(name))
    words = ("sh", "-c", f'umask {umask}; exec "$@"', "sh", *user_shell.program)
    run(*user_shell.prefix, *words, "mount", "--api-url", lab.url, mounted.point, env=user_shell.env).ok()
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    made = {}
    for place in ("state", "cache"):
        for top, directories, files in os.walk(user_shell.path(place)):
            for path in (top, *(os.path.join(top, each) for each in (*directories, *files))):
                made[path] = stat.S_IMODE(os.lstat(path).st_mode)
    assert len(made) > 5
    assert {path: oct(mode) for path, mode in made.items() if mode & 0o677 != 0o600} == {}
    run(*user_shell.prefix, *words, "umount", mounted.point, env=user_shell.env).ok()


# --- the source in the mount table ---------------------------------------------------------------------------


SOURCES = ["ü", "模型 #1", "a b", "-x", "x=y", "x" * 255, "ü" * 127, "none", "\U0001f600", "'\"$`%"]
# Each name in one of the ways; those that a parser of options could mistake in both of the command line.
WAYS_OF_SOURCES = {
    *zip(SOURCES, itertools.cycle(["--fsname", "-o", "variable"])),
    *itertools.product(["-x", "x=y", "'\"$`%"], ["--fsname", "-o"]),
}


@pytest.mark.parametrize(("name", "way"), sorted(WAYS_OF_SOURCES))
def test_a_source(name: str, way: str, shell: Shell) -> None:
    """Any name that can be shown is the mount's source, in whichever way it was given."""
    options = {"--fsname": (f"--fsname={name}",), "-o": ("-o", f"fsname={name}")}.get(way, ())
    env = {"ARTIFACTFS_FSNAME": name} if way == "variable" else {}
    mounted = shell.mount(*options, env=env)
    found = json.loads(run("findmnt", "--json", "--output", "SOURCE", mounted.point, env=shell.env).ok().out)
    assert found["filesystems"][0]["source"] == name


def test_a_users_source(user_shell: Shell) -> None:
    """By way of fusermount3, too."""
    mounted = user_shell.mount("--fsname", "ü b")
    found = json.loads(run("findmnt", "--json", "--output", "SOURCE", mounted.point, env=user_shell.env).ok().out)
    assert found["filesystems"][0]["source"] == "ü b"


@pytest.mark.parametrize(
    "name", ["a,b", "a\\b", "a\nb", "a\tb", "\x1b[31m", "", "x" * 256, "ü" * 128, "a\u202eb", b"\xff"]
)
def test_no_source(name: str | bytes, shell: Shell, lab: Lab) -> None:
    """What cannot be one is refused in a line that can be shown."""
    text = os.fsdecode(name)
    done = shell.cli("mount", "--api-url", lab.url, "--fsname", text, shell.expected_mount().point)
    assert done.code == ExitCode.USAGE, done.err
    assert done.err.startswith("artifactfs: --fsname: ")
    assert done.err.count("\n") == 1
    assert done.err[:-1].isprintable()


# --- what fusermount3 refuses ----------------------------------------------------------------------------------


def doctor(shell: Shell, *arguments: str) -> dict[str, dict[str, str]]:
    done = shell.cli("doctor", "--offline", "--json", *arguments)
    assert "this is a bug" not in done.text
    return {row["check"]: row for row in json.loads(done.out)["checks"]}


@needs_root
def test_a_shared_directory(user_shell: Shell, lab: Lab) -> None:
    """One with the sticky bit, of another user: `mount` refuses it as fusermount3 would, and the doctor finds it."""
    point = user_shell.expected_mount().point
    os.chown(point, 0, 0)
    os.chmod(point, 0o1777)
    done = user_shell.cli("mount", "--api-url", lab.url, point)
    assert done.code == ExitCode.MOUNT_REFUSED
    assert "its sticky bit is set" in done.err
    assert done.err.count("\n") == 1
    row = doctor(user_shell, point)["mount point"]
    assert (row["mark"], "its sticky bit is set" in row["fact"]) == ("fault", True)


@needs_root
def test_a_user_without_a_name(user: User, user_shell: Shell, lab: Lab) -> None:
    """Nor does fusermount3 mount for one: the command that fixes it is named."""
    user_shell.prefix = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--")
    point = user_shell.expected_mount().point
    os.chown(point, 54321, 54321)
    done = user_shell.cli("mount", "--api-url", lab.url, point)
    assert done.code == ExitCode.MOUNT_REFUSED
    assert "run `useradd -M -u 54321 artifactfs` as root" in done.err
    assert done.err.count("\n") == 1
    assert doctor(user_shell, point)["user"]["fix"] == "sudo useradd -M -u 54321 artifactfs"
    # And without a home one sentence says what to set.
    env = {"HOME": None, **dict.fromkeys(XDG)}
    for command in (
        ("mount", point),
        ("config", "show"),
        ("cache", "info"),
        ("doctor",),
        ("service", "install", "-n", point),
    ):
        done = user_shell.cli(*command, env=env)
        assert done.code == ExitCode.USAGE, done.err
        assert done.err.startswith("artifactfs: there is no home directory: user 54321 has none")
        assert "set HOME" in done.err
        assert done.err.count("\n") == 1


@needs_root
@pytest.mark.parametrize(("kind", "fault"), [("hugetlbfs", True), ("tmpfs", False)])
def test_a_file_system_that_is_not_mounted_over(kind: str, fault: bool, user_shell: Shell) -> None:
    """fusermount3 has a list of those that are: what it refuses the doctor finds."""
    point = user_shell.expected_mount().point
    run("mount", "-t", kind, "none", point).ok()
    try:
        os.chown(point, user_shell.owner or 0, user_shell.owner or 0)
        os.chmod(point, 0o700)
        row = doctor(user_shell, point).get("file system")
    finally:
        run("umount", point).ok()
    assert (row is not None and row["mark"] == "fault") == fault
