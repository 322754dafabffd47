"""6.1 and 6.3 of the contract where keys change: they are read again where they come from, by a mount that lives on."""

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests.answers import Answer, Asked, ok
from tests.attacked import mount
from tests.harness import END_S, LIMIT_S, Lab, Mount, Shell, holding, start_process, wait_until
from tests.hostile import hostile_server
from tests.leaks import Watched
from tests.processes import command_line


@dataclass
class KeyFiles:
    """Where keys are kept: two files, and programs that print them. The leak check leaves out `directory`."""

    directory: str

    def put(self, api_key: str, app_key: str) -> None:
        for name, key in (("api", api_key), ("app", app_key)):
            path = self.path(name)
            Path(path + ".new").write_text(key + "\n", "ascii")
            os.chmod(path + ".new", 0o600)
            os.replace(path + ".new", path)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def program(self, name: str, script: str) -> str:
        """Write a shell script that can be run; returns its path."""
        path = self.path(name)
        Path(path).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        os.chmod(path, 0o700)
        return path

    @property
    def files(self) -> tuple[str, ...]:
        return ("--api-key-file", self.path("api"), "--app-key-file", self.path("app"))

    def times(self) -> int:
        """Return how often `counted` was run."""
        path = self.path("runs")
        return len(Path(path).read_text("ascii").splitlines()) if os.path.exists(path) else 0

    def counted(self, name: str) -> str:
        """Return a command that prints a key, and takes note that it was run."""
        return self.program(f"print-{name}", f'echo run >> "{self.path("runs")}"; cat "{self.path(name)}"')


@pytest.fixture
def keeper(tmp_path: Path, own_lab: Lab) -> KeyFiles:
    os.makedirs(tmp_path / "keys", mode=0o700)
    keeper = KeyFiles(str(tmp_path / "keys"))
    keeper.put(own_lab.api_key, own_lab.app_key)
    return keeper


@pytest.fixture
def own_shell(tmp_path: Path, own_lab: Lab) -> Iterator[Shell]:
    """Where `artifactfs` is typed, with a lab of its own: its keys change."""
    os.makedirs(tmp_path / "shell")
    shell = Shell(str(tmp_path / "shell"), own_lab)
    # The environment's keys are the weaker ones here, and never right.
    shell.more_env = {"DD_API_KEY": "never-right", "DD_APP_KEY": "never-right-either"}
    yield shell
    shell.close()


def rotate(lab: Lab) -> tuple[str, str]:
    """Let in new keys only; returns them."""
    keys = (f"api-{uuid.uuid4().hex}", f"app-{uuid.uuid4().hex}")
    lab.rotate(api_key=keys[0], app_key=keys[1])
    return keys


def denied(mounted: Mount, run_id: int) -> bool:
    done = mounted.sh('ls "$M/runs/$1"', run_id)
    return done.code != 0 and "Permission denied" in done.err


def works(mounted: Mount, run_id: int) -> bool:
    return mounted.tree(run_id) == {b"a.txt": 10, b"sub": None, b"sub/b.bin": 20}


@pytest.mark.parametrize("status", ["401", "403"])
def test_keys_in_files(status: str, own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: keys that are refused are read again from their files at once, and the request that met it succeeds."""
    own_lab.switch(keys_refused=status)
    mounted = own_shell.mount(*keeper.files)
    known, other = own_lab.new_run(), own_lab.new_run()
    assert works(mounted, known)
    keeper.put(*rotate(own_lab))
    assert works(mounted, other)
    assert mounted.log.has("the keys have changed")


def test_keys_that_come_late(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: as long as the files have the old keys, access is denied; after a 401 each look reads them again."""
    own_lab.switch(keys_refused="401")
    mounted = own_shell.mount(*keeper.files)
    mounted.log.announce("answered 401")
    run_id = own_lab.new_run()
    keys = rotate(own_lab)
    assert denied(mounted, run_id)
    assert denied(mounted, run_id)
    keeper.put(*keys)
    assert works(mounted, run_id)


@pytest.mark.parametrize("way", ["SIGHUP", "refresh"])
def test_after_a_403(way: str, own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1, 3.3: after a 403, which may mean something else, keys are read once in ten minutes; a refresh forgets."""
    mounted = own_shell.mount(*keeper.files)
    mounted.log.announce("answered 403")
    first, second = own_lab.new_run(), own_lab.new_run()
    keeper.put(*rotate(own_lab))
    assert works(mounted, first)
    keeper.put(*rotate(own_lab))
    assert denied(mounted, second)
    if way == "SIGHUP":
        os.kill(mounted.pid, signal.SIGHUP)
        wait_until(lambda: mounted.log.has("SIGHUP"), "the answer to the signal")
    else:
        own_shell.cli("refresh", mounted.point).ok()
    assert works(mounted, second)


def test_a_command(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: a command is run at the mount, and again when its key is refused: not for each refusal."""
    own_lab.switch(keys_refused="401")
    command = keeper.counted("app")
    mounted = own_shell.mount("--api-key-file", keeper.path("api"), "--app-key-command", command)
    mounted.log.announce("answered 401")
    first, second = own_lab.new_run(), own_lab.new_run()
    assert keeper.times() == 1
    keeper.put(*rotate(own_lab))
    assert works(mounted, first)
    assert keeper.times() == 2
    # One application key for both: the file has the right one, the command is not run.
    keeper.put(*rotate(own_lab))
    assert denied(mounted, second)
    assert denied(mounted, second)
    assert keeper.times() == 2


def test_eight_at_once(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: however many are refused at once, the keys are read once, and all of them succeed."""
    own_lab.switch(keys_refused="401")
    mounted = own_shell.mount("--api-key-file", keeper.path("api"), "--app-key-command", keeper.counted("app"))
    runs = [own_lab.new_run() for _ in range(8)]
    keeper.put(*rotate(own_lab))
    script = (
        'for i in "$@"; do ls "$M/runs/$i" > /dev/null & all="$all $!"; done; for p in $all; do wait $p || exit 1; done'
    )
    mounted.sh(script, *runs).ok()
    assert keeper.times() == 2


@pytest.mark.parametrize("how", ["credentials", "config file"])
def test_other_places(how: str, own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: systemd's credentials and keys in a profile of the config file are read again like any file."""
    own_lab.switch(keys_refused="401")
    config = own_shell.path("config.toml")

    def put(api_key: str, app_key: str) -> None:
        if how == "credentials":
            keeper.put(api_key, app_key)
            return
        Path(config).write_text(f'[profiles.one]\napi_key = "{api_key}"\napp_key = "{app_key}"\n', "ascii")
        os.chmod(config, 0o600)

    own_shell.more_env = {"CREDENTIALS_DIRECTORY": keeper.directory}
    if how == "credentials":
        os.symlink(keeper.path("api"), keeper.path("api_key"))
        os.symlink(keeper.path("app"), keeper.path("dd_app_key"))
    put(own_lab.api_key, own_lab.app_key)
    options = () if how == "credentials" else ("--config", config, "--profile", "one")
    mounted = own_shell.mount(*options, env={"DD_API_KEY": None, "DD_APP_KEY": None})
    put(*rotate(own_lab))
    assert works(mounted, own_lab.new_run())


def test_an_access_token(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: an access token is read again, too; keys in the environment are no way around it."""
    own_lab.switch(keys_refused="401")
    keeper.put("unused", own_lab.access_token)
    mounted = own_shell.mount("--access-token-file", keeper.path("app"))
    token = f"ddpat_{uuid.uuid4().hex}"
    own_lab.rotate(access_token=token)
    keeper.put("unused", token)
    assert works(mounted, own_lab.new_run())


def test_a_command_that_hangs(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1, 5.1, 5.6: a command that hangs costs no caller more than the deadline, and does not outlive the mount."""
    own_lab.switch(keys_refused="401")
    command = keeper.program("hangs", f'[ -e "{keeper.path("hang")}" ] && sleep 600; cat "{keeper.path("app")}"')
    options = ("--api-key-file", keeper.path("api"), "--app-key-command", command, "--deadline", "2s")
    mounted = own_shell.mount(*options)
    mounted.log.announce("answered 401")
    Path(keeper.path("hang")).touch()
    rotate(own_lab)
    assert denied(mounted, own_lab.new_run())
    wait_until(
        lambda: any(command_line(pid).startswith("sleep\0") for pid in own_shell.processes()), "the command's sleep"
    )
    os.kill(mounted.pid, signal.SIGTERM)
    wait_until(lambda: not own_shell.processes(), "the end of the mount and of the command", END_S)


def test_a_command_that_cannot_ask(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: a command of a mount in the background has no terminal to ask on; that is said, and access is denied."""
    own_lab.switch(keys_refused="401")
    script = f'[ -e "{keeper.path("ask")}" ] || exec cat "{keeper.path("app")}"; echo unlock: > /dev/tty || exit 3'
    command = keeper.program("asks", script)
    mounted = own_shell.mount("--api-key-file", keeper.path("api"), "--app-key-command", command)
    mounted.log.announce("answered 401")
    mounted.log.announce("--app-key-command: the command failed: .*exit code 3.*no terminal for a prompt")
    Path(keeper.path("ask")).touch()
    rotate(own_lab)
    assert denied(mounted, own_lab.new_run())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo s3cr3t; echo locked >&2; exit 4", "the command failed: it ended with exit code 4: locked"),
        ("echo", "printed nothing in its first line"),
        ("echo two s3cr3t words", "spaces or characters that no HTTP header can carry"),
        ("kill -9 $$", "it was ended by SIGKILL"),
    ],
)
def test_a_command_that_fails_at_the_mount(script: str, said: str, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.1: what a command says of its failure is shown in one line, and nothing that may be a key."""
    mounted = own_shell.expected_mount()
    command = keeper.program("fails", script)
    done = own_shell.cli("mount", "--app-key-command", command, mounted.point)
    assert done.code == ExitCode.KEYS_MISSING
    assert done.err.startswith("artifactfs: --app-key-command: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert "s3cr3t" not in done.err + done.text


# --- whose content ------------------------------------------------------------------------------------


def content(mounted: Mount, run_id: int) -> bytes:
    return mounted.sh('cat "$M/runs/$1/a.txt"', run_id).ok().out


def test_other_keys_are_another_account(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.3: when the application key changes while mounted, nothing that came with the old one is served: not from the
    cache, not from the kernel's pages, not to a file that is open, and no listing."""
    own_lab.switch(keys_refused="401")
    mounted = own_shell.mount(*keeper.files)
    run_id = own_lab.new_run(status="completed", completed_at="2026-01-01T00:00:00Z")
    own_lab.files(run_id, change={"a.txt": {"text": "of one...."}})
    assert content(mounted, run_id) == b"of one...."
    assert "b.bin" in mounted.sh('ls "$M/runs/$1/sub" "$M/runs" "$M/projects"', run_id).ok().text
    # The other account has another file there, of the same size and time.
    own_lab.files(run_id, change={"a.txt": {"text": "of another"}}, remove=["sub/b.bin"])
    assert content(mounted, run_id) == b"of one...."
    reader = mounted.python_command(
        "import os, sys\nf = open(sys.argv[2], 'rb', 0)\nprint('ready', flush=True)\ninput()\n"
        "os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)\nprint(f.read().decode())",
        mounted.path("runs", run_id, "a.txt"),
    )
    with holding(reader) as held:
        keeper.put(*rotate(own_lab))
        assert works(mounted, own_lab.new_run())
        own_lab.reset()
        assert content(mounted, run_id) == b"of another"
        assert own_lab.requests()["content"] == 1
        assert "b.bin" not in mounted.sh('ls "$M/runs/$1/sub" "$M/runs" "$M/projects"', run_id).ok().text
        asked = own_lab.requests()
        assert {"listing", "runs", "projects"} <= asked.keys()
        assert held.go_on() == b"of another\n"


def test_what_is_open_is_not_the_other_accounts(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.3: after a change of keys nothing that the old ones brought comes from the kernel: not to a file that was open
    and read, not through a mapping, no name to a directory that was open, and no attribute of a path."""
    own_lab.switch(keys_refused="401")
    mounted = own_shell.mount(*keeper.files)
    run_id = own_lab.new_run(status="completed", completed_at="2026-01-01T00:00:00Z")
    own_lab.files(run_id, change={"a.txt": {"text": "of one...."}}, add={"c.txt": {"text": "seen"}})
    assert content(mounted, run_id) == b"of one...."
    reader = mounted.python_command(
        "import mmap, os, sys\npath, below = sys.argv[2:]\n"
        "f = open(path, 'rb', 0)\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\nassert f.read() == m[:]\n"
        "new, begun = (os.open(below, os.O_RDONLY) for _ in range(2))\nlisted = os.listdir(begun)\n"
        "assert os.stat(os.path.dirname(path) + '/c.txt').st_size == 4\n"
        "print('ready', flush=True)\ninput()\n"
        "print(os.pread(f.fileno(), 100, 0).decode(), m[:].decode())\n"
        "print('b.bin' in listed, 'b.bin' in os.listdir(new), 'b.bin' in os.listdir(begun))\n"
        "print(os.path.exists(os.path.dirname(path) + '/c.txt'))",
        mounted.path("runs", run_id, "a.txt"),
        mounted.path("runs", run_id, "sub"),
    )
    with holding(reader) as held:
        # The other account has another file there, of the same size and time, and less.
        own_lab.files(run_id, change={"a.txt": {"text": "of another"}}, remove=["sub/b.bin", "c.txt"])
        keeper.put(*rotate(own_lab))
        assert works(mounted, own_lab.new_run())
        wait_until(lambda: mounted.log.has("the kernel has dropped"), "the kernel's answer")
        assert held.go_on() == b"of another of another\nTrue False False\nFalse\n"


def test_a_listing_that_is_waited_for_is_the_new_accounts(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.3: what the old keys have asked for, and is not answered yet, is asked for again with the new ones."""
    own_lab.switch(keys_refused="401")
    mounted = own_shell.mount(*keeper.files)
    run_ids = [own_lab.new_run({"old.txt": 1}) for _ in range(12)]
    mounted.sh('cd "$M/runs" && stat "$@"', *run_ids).ok()
    for old, new in (("old.txt", "new.txt"), ("new.txt", "newest.txt")):
        own_lab.fault("listing", {"stall": True}, times=len(run_ids))
        own_lab.reset()
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(start_process(["ls", mounted.path("runs", each)])) for each in run_ids]
            wait_until(lambda: own_lab.requests().get("listing") == len(run_ids), "the requests")
            for run_id in run_ids:
                own_lab.files(run_id, add={new: 1}, remove=[old])
            keeper.put(*rotate(own_lab))
            assert works(mounted, own_lab.new_run())
            assert {process.communicate(timeout=LIMIT_S)[0] for process in processes} == {f"{new}\n".encode()}
        mounted.shell.cli("refresh", mounted.point).ok()


def test_a_named_account(own_lab: Lab, own_shell: Shell, keeper: KeyFiles) -> None:
    """6.3: with a name for the account cached content stays its own over a change of keys, and over remounts."""
    own_lab.switch(keys_refused="401")
    mounted = own_shell.mount(*keeper.files, "--account", "my team")
    run_id = own_lab.new_run({"a.txt": 10}, status="completed", completed_at="2026-01-01T00:00:00Z")
    before = content(mounted, run_id)
    keeper.put(*rotate(own_lab))
    assert works(mounted, own_lab.new_run())
    own_lab.reset()
    assert content(mounted, run_id) == before
    assert own_lab.requests().get("content", 0) == 0
    mounted.umount()
    mounted = own_shell.mount(*keeper.files, "--account", "my team")
    assert content(mounted, run_id) == before
    assert own_lab.requests().get("content", 0) == 0
    mounted.umount()
    mounted = own_shell.mount(*keeper.files, "--account", "another team")
    assert content(mounted, run_id) == before
    assert own_lab.requests()["content"] == 1


# --- and nowhere else ---------------------------------------------------------------------------------


def refusing(keys: tuple[str, str], echo: bool) -> Answer:
    """Answer a request with the right keys; to others 401, with the right ones in it if `echo`."""

    def answer(asked: Asked) -> Iterator[bytes]:
        said = b'{"errors":["not %b but %b"]}' % (str(asked.header("dd-api-key")).encode(), keys[1].encode())
        yield ok(said if echo else b"{}", status="401 X")

    return answer


def test_new_keys_are_as_secret(tmp_path: Path) -> None:
    """6.1: keys that come later are nowhere either: not in the log, not where a server repeats them, not in `ps`; and
    no key is in the environment of the command that prints them."""
    os.makedirs(tmp_path / "keys", mode=0o700)
    os.makedirs(tmp_path / "shell")
    keeper = KeyFiles(str(tmp_path / "keys"))
    old, new = ((f"api-{uuid.uuid4().hex}", f"app-{uuid.uuid4().hex}") for _ in range(2))
    keeper.put(*old)
    shell = Shell(str(tmp_path / "shell"), None)
    tokens = dict.fromkeys(("DD_ACCESS_TOKEN", "DD_BEARER_TOKEN"), f"token-{old[1]}")
    shell.more_env = {"DD_API_KEY": old[0], "ARTIFACTFS_APP_KEY": old[1], **tokens}
    seen = shell.path("seen-by-the-command")
    script = f'(env; tr "\\0" " " < /proc/$$/cmdline) >> "{seen}"; cat "{keeper.path("app")}"'
    options = ("--api-key-file", keeper.path("api"), "--app-key-command", keeper.program("prints", script))
    with hostile_server() as api, hostile_server() as elsewhere, contextlib.closing(shell):
        mounted = mount(shell, api.url, "-v", *options)
        mounted.log.announce("answered 401")
        run_id = api.plant(listing=refusing(new, echo=True))
        keeper.put(*new)
        said = [mounted.sh('ls "$M/runs/$1"', run_id)]
        assert "Permission denied" in said[0].err
        assert mounted.log.has(r"answered 401 \(not \*{8} but \*{8}\)")
        assert api.received[-1].header("dd-application-key") == new[1]
        for keys in (old, new):
            watched = Watched(shell, api, elsewhere, keys, said=said)
            assert watched.leaks() == [], keys is new
        assert Path(seen).read_text("utf-8").count("PATH=") >= 2
        assert not any(name in Path(seen).read_text("utf-8") for name in ("DD_API_KEY", "_TOKEN"))
