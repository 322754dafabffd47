"""6.5: text of others on a terminal: names, arguments, what the service says; on a pseudo-terminal, as it is typed."""

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from artifactfs.util.escaping import one_line, shell_word
from tests.answers import ok, page, raw
from tests.attacked import KEYS
from tests.harness import ARTIFACTFS, FUSE_TYPE, Mount, Shell, mount_type, run
from tests.hostile import HostileServer, hostile_server
from tests.nasty import NASTY, NOT_UTF8, obeyed
from tests.status import KEPT, report
from tests.terminal import check_safe, terminal

ALL = "".join(NASTY.values())
# In the name of a file, of which 255 bytes are to be had; and of a mount point.
ESCAPE = NASTY["escape"]
POINT = f"mnt {ESCAPE}\x7f\x9b\x85\u202e\u200b\u3164\n{NOT_UTF8}"
BODY = b"some bytes\n" * 100
NAMES = {kind: f"{number} {text}" for number, (kind, text) in enumerate(NASTY.items())}
PROJECT = 77


@dataclass(frozen=True)
class Scene:
    """A mount whose every name is hostile: its own, its run's, its project's, its files'."""

    server: HostileServer
    mounted: Mount
    run_id: int

    def typed(self, *arguments: str, code: int | None = 0) -> str:
        """Run a command in a terminal, which must be safe from it; returns what it wrote."""
        with terminal(ARTIFACTFS, *arguments, env=self.mounted.shell.env) as screen:
            ended = screen.ends()
        said = check_safe(screen.text)
        assert "this is a bug" not in said
        assert code is None or ended == code, (ended, said)
        return said


def told_run(run_id: int) -> bytes:
    """Return the attributes of the run, in each field."""
    attributes = {
        "name": f"run {ALL}", "status": f"completed {ALL}", "description": f"described {ALL}", "project_id": PROJECT,
        "owner_id": f"owner {ALL}", "external_url": f"https://x/{ALL}", "duration": 5,
        "created_at": f"created {ALL}", "started_at": f"started {ALL}", "updated_at": "2026-05-16T09:10:00Z",
        "tags": [{"key": f"tag {ALL}", "value": ALL}, f"text {ESCAPE}:x"],
        "params": [{"key": f"p {ALL}", "value": [ALL]}],
        "metric_summaries": [{"key": f"metric {ALL}", "latest": 1}],
    }  # fmt: skip
    return json.dumps({"data": {"id": run_id, "type": "runs", "attributes": attributes}}).encode()


def told_project() -> bytes:
    attributes = {
        "name": f"project {ALL}", "description": ALL, "owner_id": ALL, "created_at": f"created {ALL}",
        "updated_at": "2026-05-16T09:10:00Z", "external_url": ALL, "tags": [{"key": ALL, "value": ALL}],
    }  # fmt: skip
    return json.dumps({"data": {"id": PROJECT, "type": "projects", "attributes": attributes}}).encode()


@contextlib.contextmanager
def hostile_names(directory: str) -> Iterator[Scene]:
    """Mount a run of the worst names at a place of such a name."""
    shell = Shell(directory, None, more_env=dict(KEYS))
    limit = f"X-RateLimit-Name: limit {ESCAPE}\x9b".encode("latin-1").replace(b"\x07", b"\x7f")
    with hostile_server() as server:
        run_id = server.plant(
            project=str(PROJECT),
            files=dict.fromkeys([*NAMES.values(), f"dir {ESCAPE}/x{ESCAPE}"], BODY),
        )
        server.of(run_id).run = raw(ok(told_run(run_id), limit))
        server.of(run_id).index = raw(ok(told_project()))
        server.runs = raw(ok(page([run_id])))
        mounted = shell.expected_mount(POINT)
        mounted.log_file = shell.path("mnt.log")
        try:
            shell.cli("mount", "--api-url", server.url, "--log-file", mounted.log_file, mounted.point).ok()
            assert mount_type(mounted.point) == FUSE_TYPE
            yield Scene(server, mounted, run_id)
        finally:
            mounted.log.announce("", optional=True)
            shell.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with hostile_names(str(tmp_path_factory.mktemp("terminal"))) as scene:
        yield scene


def test_the_report_of_a_run(scene: Scene) -> None:
    """6.5: `info` shows each text of a run, project, directory and file on one line, escaped; --json has it exactly."""
    place = scene.mounted.path("runs", scene.run_id)
    said = scene.typed("info", place)
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in reversed(said.splitlines()))
    assert rows["run"] == f"{one_line(f'run {ALL}')} ({scene.run_id})"
    assert rows["description"] == one_line(f"described {ALL}")
    for text in ("owner", "created", "tag", "p", "metric", "completed"):
        assert one_line(f"{text} {ALL}") in said, text
    assert one_line(f"text {ESCAPE} = x") in said
    assert "https://" not in said
    told = json.loads(scene.mounted.shell.cli("info", "--json", place).ok().text)["run"]
    for field, text in (("name", "run"), ("description", "described"), ("owner_id", "owner"), ("status", "completed")):
        assert told[field] == f"{text} {ALL}"
    assert told["tags"][0] == {"key": f"tag {ALL}", "value": ALL}
    # As it is typed, JSON too is nothing that a terminal obeys.
    assert json.loads(scene.typed("info", "--json", place))["run"] == told
    project = scene.mounted.path("projects", PROJECT)
    assert one_line(f"project {ALL}") in scene.typed("info", project)
    assert json.loads(scene.typed("info", "--json", project))["project"]["name"] == f"project {ALL}"


def test_names_of_files(scene: Scene) -> None:
    """6.5: files of any name are shown, fetched, refreshed and refused without a terminal obeying their names."""
    paths = [scene.mounted.path("runs", scene.run_id, name) for name in NAMES.values()]
    said = scene.typed("info", *paths)
    told = scene.typed("info", "--json", *paths)
    for name in NAMES.values():
        assert f"runs/{scene.run_id}/{one_line(name)}\n" in said
        assert json.dumps(f"runs/{scene.run_id}/{name}")[1:-1] in told
    assert scene.typed("refresh", *paths) == f"{KEPT}\n"
    dropped = scene.typed("refresh", "--contents", *paths)
    assert all(one_line(name) in dropped for name in NAMES.values())
    lines = scene.typed("info", *(f"{path}?" for path in paths), code=ExitCode.INCOMPLETE).splitlines()
    assert len(lines) == len(NAMES)
    for line, name in zip(lines, NAMES.values(), strict=True):
        assert f"{one_line(name)}? in the mount" in line


def test_warming(scene: Scene) -> None:
    """6.5: `warm` says what it fetched and what not, with its bar in motion, and each failure is one line."""
    place = scene.mounted.path("runs", scene.run_id)
    assert f"{len(NAMES) + 1} files in 2 directories" in scene.typed("warm", "-n", place, code=None)
    planted = scene.server.of(scene.run_id)
    planted.content = raw(ok(json.dumps({"errors": [f"no {ALL}"]}).encode(), status="403 Forbidden"))
    said = scene.typed("warm", place, code=ExitCode.INCOMPLETE)
    for name in NAMES.values():
        assert f"artifactfs: {one_line(f'{place}/{name}')}: Permission denied\n" in said
    planted.content = None
    assert scene.typed("warm", place, code=None)


def test_pinning(scene: Scene) -> None:
    """6.5: `pin`, `pins` and `unpin` of any name."""
    paths = [scene.mounted.path("runs", scene.run_id, name) for name in NAMES.values()]
    assert f"pinned {len(NAMES)} files" in scene.typed("pin", *paths)
    said, listed = scene.typed("pins"), scene.typed("pins", "--json")
    removed = scene.typed("unpin", *paths)
    for path, name in zip(paths, NAMES.values(), strict=True):
        assert f"{one_line(f'{scene.run_id}/{name}')} " in said
        assert json.dumps(f"runs/{scene.run_id}/{name}") in listed
        assert f"{one_line(path)}: unpinned" in removed


def test_what_the_mount_says_of_itself(scene: Scene) -> None:
    """6.5: status and the files of /.artifactfs and the log hold what the service said, and nothing to obey."""
    planted = scene.server.of(scene.run_id)
    planted.content = raw(ok(json.dumps({"errors": [{"detail": f"no {ALL}"}]}).encode(), status="403 Forbidden"))
    scene.mounted.sh('! cat "$1"', scene.mounted.path("runs", scene.run_id, NAMES["bidirectional"]))
    planted.content = None
    said = one_line(f"no {ESCAPE}")
    point = scene.mounted.point
    assert said in scene.typed("status", point, code=None)
    assert one_line(point) in scene.typed("status", code=None)
    # Behind it the terminal has what standard error says of the mount's health.
    told, _ = json.JSONDecoder().raw_decode(scene.typed("status", "--json", point, code=None))
    # What is no UTF-8 is written out there.
    assert told["mountpoint"] == re.sub("[\udc80-\udcff]", lambda c: f"\\x{ord(c[0]) - 0xDC00:02x}", point)
    for name in ("status.json", "metrics", "errors"):
        assert obeyed(report(scene.mounted, name)) == set(), name
    assert said in report(scene.mounted, "errors")
    log = Path(scene.mounted.log_file).read_bytes().decode("utf-8", "surrogateescape")
    assert obeyed(log) == set()
    assert said in log


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["bar", "json"])
def test_watching(options: list[str], scene: Scene) -> None:
    """6.5: a mount that is watched is redrawn by click's sequences alone."""
    words = (ARTIFACTFS, "status", "--watch", "--interval", "0.1", *options, scene.mounted.point)
    with terminal(*words, env=scene.mounted.shell.env) as screen:
        screen.read_until("failures" if options else "inodes")
        os.killpg(screen.process.pid, signal.SIGINT)
        screen.ends()
    check_safe(screen.text)


def test_a_mount_in_front(tmp_path: Path) -> None:
    """6.5: what a mount in front logs to its terminal, and what `umount` and `mount` say of its place, is escaped."""
    shell = Shell(str(tmp_path), None, more_env=dict(KEYS))
    with hostile_server() as server:
        mounted = shell.expected_mount(POINT)
        run_id = server.plant(run=raw(ok(json.dumps({"errors": [ALL]}).encode(), status="403 Forbidden")))
        try:
            words = (ARTIFACTFS, "mount", "-v", "--foreground", "--api-url", server.url, mounted.point)
            with terminal(*words, env=shell.env) as screen:
                screen.read_until(f" at {one_line(mounted.point)}\n")
                mounted.sh('! ls "$M/runs/$1" 2>/dev/null; ls "$M/x$2" 2>/dev/null', run_id, ESCAPE)
                screen.read_until(one_line(NASTY["line ends"].split("\n")[0]))
                assert f"{one_line(mounted.point)} is already mounted" in shell.cli("mount", mounted.point).err
                shell.cli("umount", mounted.point).ok()
                assert screen.ends() == 0
            said = check_safe(screen.text)
            assert one_line(ESCAPE) in said
            assert one_line(mounted.point) in said
        finally:
            shell.close()


# Each argument is repeated by some message. X: all that is nasty; Y: what a mount point or a file may be called.
ARGUMENTS = {
    "no such option": ["--X"],
    "no such command": ["X"],
    "no such option of a command": ["mount", "--X", "y"],
    "too many": ["umount", "x", "X"],
    "a number": ["warm", "--jobs", "X", "y"],
    "warm": ["warm", "X"],
    "warm, below": ["warm", "/etc/X"],
    "pin": ["pin", "X", "Y"],
    "unpin": ["unpin", "X", "Y"],
    "unpin, a place": ["unpin", "7/X"],
    "pins": ["pins", "--cache-dir", "Y"],
    "refresh": ["refresh", "X", "Y"],
    "info": ["info", "X", "Y"],
    "info --json": ["info", "--json", "X"],
    "status": ["status", "X"],
    "status --json": ["status", "--json", "X"],
    "umount": ["umount", "X"],
    "mount": ["mount", "Y"],
    "mount, which is no directory": ["mount", "/dev/null/X"],
    "a site": ["mount", "--site", "X", "/"],
    "an address": ["mount", "--api-url", "http://X", "/"],
    "a proxy": ["mount", "--proxy", "http://X:y@X", "/"],
    "a setting": ["mount", "-o", "X=X", "/"],
    "a value": ["mount", "-o", "listing_ttl=X", "/"],
    "a size": ["mount", "--cache-size", "X", "/"],
    "a key file": ["mount", "--api-key-file", "Y", "/"],
    "a profile": ["mount", "--profile", "X", "/"],
    "a config file": ["mount", "--config", "Y", "/"],
    "fsname": ["mount", "--fsname", "X", "/"],
    "a log": ["mount", "--log-file", "Y/x", "/"],
    "doctor": ["doctor", "--offline", "Y", "--cache-dir", "Y", "--log-file", "Y"],
    "doctor --json": ["doctor", "--offline", "--json", "Y", "--cache-dir", "Y"],
    "config show": ["config", "show", "--cache-dir", "Y", "--account", "X", "--ca-file", "Y"],
    "config show --json": ["config", "show", "--json", "--cache-dir", "Y", "--listing-ttl", "X"],
    "config path": ["config", "path", "--config", "Y"],
    "cache info": ["cache", "info", "--cache-dir", "Y"],
    "cache clear": ["cache", "clear", "--cache-dir", "/dev/null/X"],
    "cache verify": ["cache", "verify", "--cache-dir", "Y"],
    "service": ["service", "install", "-n", "Y"],
    "service, with a profile": ["service", "uninstall", "--profile", "X"],
    "completion": ["completion", "X"],
    "desktop": ["desktop", "install", "--mountpoint", "X"],
    "serve": ["serve", "X"],
    "serve, of nothing": ["serve", "/dev/null/X"],
    "demo": ["demo", "/dev/null/X"],
}


@pytest.mark.parametrize("words", ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_are_repeated(words: list[str], tmp_path: Path) -> None:
    """6.5: whatever command repeats an argument, in whatever message, repeats it escaped."""
    shell = Shell(str(tmp_path), None, more_env={**KEYS, "ARTIFACTFS_ACCOUNT": "x"})
    given = [word.replace("X", ALL + NOT_UTF8).replace("Y", f"no {ESCAPE}\x9b\u202e\n{NOT_UTF8}") for word in words]
    with terminal(ARTIFACTFS, *given, env=shell.env) as screen:
        screen.ends()
    said = check_safe(screen.text)
    assert "this is a bug" not in said
    assert "Traceback" not in said


def test_the_helper_of_mount(tmp_path: Path) -> None:
    """6.5: what mount(8) calls repeats fstab's fields escaped."""
    helper = os.path.join(os.path.dirname(ARTIFACTFS), "mount.artifactfs")
    shell = Shell(str(tmp_path), None, more_env=dict(KEYS))
    for words in ([ALL, "/"], ["x", f"/no{ALL}"], ["x", "/", "-o", f"{ALL}=1"], [f"-{ALL}"], ["-fv", ALL, "/no"]):
        with terminal(helper, *words, env=shell.env) as screen:
            assert screen.ends() != 0
        assert check_safe(screen.text).startswith("mount.artifactfs: ")


@pytest.mark.parametrize("words", [[f"--{ALL}"], [f"/{ALL}"], ["--switch", ALL], ["--port", ALL], ["--host", ALL]])
def test_the_emulator_by_itself(words: list[str], tmp_path: Path) -> None:
    """6.5: `python -m artifactfs.emulator` repeats its arguments escaped, too."""
    shell = Shell(str(tmp_path), None)
    with terminal(sys.executable, "-m", "artifactfs.emulator", *words, env=shell.env) as screen:
        assert screen.ends() == ExitCode.USAGE
    assert "Traceback" not in check_safe(screen.text)


def test_a_config_file_and_an_environment(tmp_path: Path) -> None:
    """6.5: what a config file or a variable holds is shown escaped, and exactly in JSON; programs get paths exactly."""
    shell = Shell(str(tmp_path), None)
    path = shell.path(f"config {ESCAPE}\u202e{NOT_UTF8}.toml")
    # TOML takes neither DEL nor halves of a character in JSON's way.
    quoted = json.dumps(ALL, ensure_ascii=False).replace("\x7f", "\\u007f")
    Path(path).write_text(f"account = 'a'\n[profiles.{quoted}]\naccount = 'b'\n", encoding="utf-8")
    Path(path).chmod(0o600)
    for words in (["config", "show", "--config", path], ["config", "show", "--json", "--config", path]):
        for more in ({}, {"ARTIFACTFS_PROFILE": ALL}, {"ARTIFACTFS_SITE": ALL}):
            with terminal(ARTIFACTFS, *words, env={**shell.env, **more}) as screen:
                screen.ends()
            said = check_safe(screen.text)
            assert "--json" in words or one_line(os.path.basename(path)) in said
    told = json.loads(shell.cli("config", "show", "--json", "--config", path).text)
    assert told["config_file"] == path
    assert told["profiles"] == [ALL]
    for locale in ("C.UTF-8", "en_US.UTF-8", "C"):
        done = shell.cli("config", "path", "--config", path, env={"LC_ALL": locale})
        assert done.out == os.fsencode(path) + b"\n"


def test_a_command_that_is_to_be_pasted(tmp_path: Path) -> None:
    """6.5: a command in a message names the very path when it is pasted, though nothing in it is to be obeyed."""
    shell = Shell(str(tmp_path), None, more_env=dict(KEYS))
    missing = shell.path(f"it's {POINT}")
    said = shell.cli("mount", missing).err
    assert obeyed(said) == set()
    command = re.search("`(mkdir .*)`", said)
    assert command is not None
    assert command[1] == f"mkdir -p {shell_word(missing)}"
    run("bash", "-c", command[1]).ok()
    assert os.path.isdir(missing)
