"""`artifactfs download`, by the real command: killed, interrupted, without FUSE, through a mount, on a full disk."""

import itertools
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.answers import ok, raw
from tests.contract.test_semantics_6_hostile_names import IMPOSSIBLE, POSSIBLE
from tests.fixtures import PATIENT
from tests.harness import END_S, Lab, Shell, needs_root, run, wait_until
from tests.hostile import hostile_server
from tests.terminal import terminal

BIG = 24 << 20
_WITHOUT_FUSE = """
import sys
sys.modules["pyfuse3"] = None
from artifactfs import cli
sys.argv[0] = "artifactfs"
cli.main()
"""


@pytest.fixture
def service(shell: Shell, lab: Lab) -> Shell:
    """Where `artifactfs` finds the lab by the environment."""
    shell.more_env["ARTIFACTFS_API_URL"] = lab.url
    return shell


def copied(top: str) -> dict[bytes, int | None]:
    """Return what is below a directory, in the form of `Lab.truth`."""
    root = Path(top)
    return {
        os.fsencode(path.relative_to(root)): None if path.is_dir() else path.lstat().st_size for path in root.rglob("*")
    }


def begun(directory: str) -> int:
    """Return how much of unfinished files is in a directory."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*.part"))


def digest(path: str) -> str:
    return run("sha256sum", path).ok().text.split()[0]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
@pytest.mark.parametrize("way", ["service", "mount"])
def test_an_end_in_the_middle(sign: signal.Signals, way: str, lab: Lab, service: Shell) -> None:
    """4.1, 4.3: however it ends, what came is kept, and the next call fetches the rest: the file is whole."""
    run_id = lab.new_run({"big.bin": BIG})
    path = service.mount().path("runs", run_id) if way == "mount" else str(run_id)
    out = service.path("out")
    lab.switch(bytes_per_s=4e6)
    with service.background("download", path, out) as process:
        wait_until(lambda: begun(out) > 2 << 20, "some of the file")
        process.send_signal(sign)
        _, err = process.communicate(timeout=END_S)
        assert process.returncode == (130 if sign == signal.SIGINT else -sign)
        assert err.strip() == b""
    kept = begun(out)
    assert copied(f"{out}/{run_id}").keys() != {b"big.bin"}
    lab.switch(bytes_per_s=0)
    lab.reset()
    done = service.run_forked("download", path, out).ok()
    assert done.text.startswith("1 file, ")
    # A mount reads ahead, and has some of it in its cache.
    assert lab.stats()["content_bytes"] < BIG - kept + (2 << 20)
    assert copied(f"{out}/{run_id}") == {b"big.bin": BIG}
    assert digest(f"{out}/{run_id}/big.bin") == lab.sha256(run_id, "big.bin")


@pytest.mark.parametrize("way", ["service", "mount"])
def test_a_file_that_is_replaced_between_two_calls(way: str, lab: Lab, service: Shell) -> None:
    """4.1: the bytes of two versions never meet, nor is the old file taken for the new one."""
    lab.switch(etag="strong")
    run_id = lab.new_run({"big.bin": BIG}, status="running")
    path = str(run_id)
    if way == "mount":
        service.program = PATIENT
        mounted = service.mount("--listing-ttl", "0")
        mounted.log.announce("changed while it was read")
        path = mounted.path("runs", run_id)
    out, file = service.path("out"), service.path(f"out/{run_id}/big.bin")
    lab.switch(bytes_per_s=4e6)
    with service.background("download", path, out) as process:
        wait_until(lambda: begun(out) > 2 << 20, "some of the file")
        process.kill()
        process.wait()
    lab.switch(bytes_per_s=0)
    for size in (BIG, BIG + 1):
        lab.files(run_id, change={"big.bin": {"size": size}})
        service.run_forked("download", path, out).ok()
        assert copied(f"{out}/{run_id}") == {b"big.bin": size}
        assert digest(file) == lab.sha256(run_id, "big.bin")


def test_many_small_files(lab: Lab, service: Shell) -> None:
    """4.3, 7: a few requests at once, one for each file and directory; a second call asks for no content."""
    run_id = lab.new_run({f"d{number % 4}/f{number}.txt": number for number in range(200)})
    out = service.path("out")
    lab.reset()
    assert service.run_forked("download", str(run_id), out, "--jobs", "3").ok().text == "200 files, 19.4 KiB\n"
    stats = lab.stats()
    assert stats["requests"]["content"] <= 200
    assert stats["total"] <= 200 + 12
    assert stats["peak"] <= 3 + 4
    assert copied(f"{out}/{run_id}") == lab.truth(run_id)
    lab.reset()
    assert service.run_forked("download", str(run_id), out).ok().text == "0 files, 0 B; 200 files already there\n"
    assert "content" not in lab.stats()["requests"]


def test_without_fuse(lab: Lab, service: Shell) -> None:
    """Where the binding of FUSE cannot be imported, it works; `mount` does not, so that the test means something."""
    service.program = (sys.executable, "-c", _WITHOUT_FUSE)
    service.run_forked("download", str(sample.RUN), service.path("out")).ok()
    assert copied(service.path(f"out/{sample.RUN}")) == lab.truth(sample.RUN)
    assert service.cli("mount", service.directory_for_mount()).code != 0


def test_a_path_in_a_mount(lab: Lab, shell: Shell) -> None:
    """6.1: a mount is read with its own keys, by any of its paths, and the copy is as one of the service."""
    mounted = shell.mount()
    no_keys = {"DD_API_KEY": None, "DD_APP_KEY": None}
    shelf = mounted.sh('cd "$M/names" && echo */*~$1', sample.RUN).ok().text.strip()
    file = mounted.path("runs", sample.RUN, "lora_model", "README.md")
    paths = (mounted.path("runs", sample.RUN) + "/", mounted.path("names", shelf), file)
    out = shell.path("out")
    shell.cli("download", *paths, out, env=no_keys).ok()
    for name in (str(sample.RUN), os.path.basename(shelf)):
        assert copied(f"{out}/{name}") == lab.truth(sample.RUN)
    assert Path(out, "README.md").stat().st_mtime_ns == os.stat(f"{out}/{sample.RUN}/lora_model/README.md").st_mtime_ns
    again = shell.cli("download", str(sample.RUN), out, env={"ARTIFACTFS_API_URL": lab.url}).ok()
    assert again.text == "0 files, 0 B; 19 files already there\n"
    for path, code in (
        (mounted.point, ExitCode.USAGE), (mounted.path("runs"), ExitCode.USAGE),
        (mounted.path("names", "x"), ExitCode.USAGE), (mounted.path("runs/1/x"), ExitCode.INCOMPLETE),
        (shell.path("home"), ExitCode.NOT_MOUNTED),
    ):  # fmt: skip
        done = shell.cli("download", path, out, env=no_keys)
        assert done.code == code, done.err
        assert done.err.splitlines()[0].startswith("artifactfs: ")


def test_a_choice_of_runs_in_a_mount(lab: Lab, shell: Shell) -> None:
    """5.8: a directory of links to runs is refused, as a project is: of links nothing would be copied."""
    mounted = shell.mount()
    out = shell.path("out")
    done = shell.cli("download", mounted.path("projects", sample.PROJECT, "by", "status", "completed"), out)
    assert (done.code, done.err.count("\n")) == (ExitCode.USAGE, 1)
    assert "this holds runs" in done.err
    assert not os.path.lexists(out)


def test_a_run_by_its_number_from_within_a_mount(lab: Lab, shell: Shell) -> None:
    """Where the working directory has no such name, it is the run of that mount; a name that is there comes first."""
    mounted = shell.mount()
    out = shell.path("out")
    program = shell.program[0]
    no_keys = {name: value for name, value in shell.env.items() if not name.startswith("DD_")}
    script = 'cd "$1" && shift && exec "$@"'

    def typed(where: str, *arguments: str) -> str:
        command = ("sh", "-c", script, "sh", mounted.path(where), program, *arguments)
        return run(*shell.prefix, *command, env=no_keys).ok().text

    assert typed("names", "download", f"{sample.RUN}/lora_model", out).startswith("19 files, ")
    assert copied(f"{out}/lora_model").keys() == {
        name.removeprefix(b"lora_model/") for name in lab.truth(sample.RUN) if name != b"lora_model"
    }
    assert typed("runs", "download", f"{sample.RUN}/lora_model", out).startswith("0 files, 0 B; 19 files already")
    assert typed("names", "cache", "clear", f"{sample.RUN}/lora_model").startswith(mounted.path("runs", sample.RUN))


@needs_root
def test_a_full_disk(lab: Lab, service: Shell) -> None:
    """A full disk is one line; with more room the next call goes on."""
    run_id = lab.new_run({"a.bin": 3 << 20, "b.bin": 3 << 20})
    out = service.make_directory("out")
    run("mount", "-t", "tmpfs", "-o", "size=4m", "none", out).ok()
    try:
        done = service.run_forked("download", str(run_id), out)
        assert done.code == ExitCode.INCOMPLETE
        said = f"there is no room left in {out} (No space left on device); free some, and call again to go on"
        assert done.err == f"artifactfs: {said}\n"
        run("mount", "-o", "remount,size=8m", out).ok()
        service.run_forked("download", str(run_id), out).ok()
        assert copied(f"{out}/{run_id}") == lab.truth(run_id)
    finally:
        run("umount", out)


def test_what_fails_at_once(lab: Lab, service: Shell) -> None:
    """5.8: keys, the service and DIR: one line and the exit code of other commands, and no request without DIR."""
    out = service.path("out")
    Path(service.path("file")).touch()
    for arguments, env, code in (
        ((str(sample.RUN), out), {"DD_APP_KEY": None}, ExitCode.KEYS_MISSING),
        ((str(sample.RUN), out), {"DD_APP_KEY": "wrong"}, ExitCode.KEYS_REJECTED),
        ((str(sample.RUN), out), {"ARTIFACTFS_API_URL": "http://127.0.0.1:9"}, ExitCode.UNREACHABLE),
        ((str(sample.RUN), service.path("file")), {}, ExitCode.NOT_WRITABLE),
        ((str(sample.RUN), "/proc/1"), {}, ExitCode.NOT_WRITABLE),
        ((str(sample.RUN),), {}, ExitCode.USAGE),
        (("", out), {}, ExitCode.USAGE),
        ((str(sample.RUN), ""), {}, ExitCode.USAGE),
    ):
        lab.reset()
        done = service.run_forked("download", *arguments, env=env)
        assert (done.code, done.err.count("\n")) == (code, 1), done.err
        if code != ExitCode.KEYS_REJECTED:
            assert lab.total() == 0
        # Not made for nothing.
        assert not os.path.lexists(out)


def test_a_run_that_is_not_there(service: Shell) -> None:
    """A download of which nothing came says why, and no figures of nothing."""
    done = service.run_forked("download", "99999999", service.path("out"))
    assert (done.code, done.text) == (ExitCode.INCOMPLETE, "")
    assert "99999999" in done.err


def test_a_path_of_a_mount_that_has_ended(service: Shell) -> None:
    """5.8: what is taken for a project's name, and is here by that name, is said to be in no mount."""
    service.make_directory("model-lab")
    script = 'cd "$1" && exec "$2" download model-lab/runs/70158 out'
    command = ("sh", "-c", script, "sh", service.directory, service.program[0])
    done = run(*service.prefix, *command, env=service.env)
    assert done.code == ExitCode.INCOMPLETE
    assert "check its number or name; what is here by that name is in no mount of artifactfs\n" in done.err


def test_names_of_a_hostile_server(service: Shell) -> None:
    """1.3: no name leads out of DIR; the possible ones are there, byte for byte, and the others are counted."""
    good = [json.dumps(name, ensure_ascii=False).encode() for name in POSSIBLE]
    mixed = itertools.zip_longest([b'"%b"' % bad for bad in IMPOSSIBLE], good)
    rows = b",".join(b'{"path":%b,"is_dir":false,"file_size":0}' % row for pair in mixed for row in pair if row)
    body = b'{"data":{"id":"1","attributes":{"path_in_project":"p","files":[%b]}}}' % rows
    with hostile_server() as server:
        run_id = server.plant(listing=raw(ok(body)), files={})
        out = service.path("out")
        done = service.run_forked("download", str(run_id), out, env={"ARTIFACTFS_API_URL": server.url})
        assert "Traceback" not in done.err
        left_out = rf"warning: run {run_id}, directory /: left out \d\d entries whose names no filesystem can hold\n"
        assert re.search(left_out, done.err)
    places = [os.path.relpath(os.path.join(top, name), out) for top, _, names in os.walk(out) for name in names]
    assert {os.path.dirname(place) for place in places} <= {str(run_id)}
    assert sorted(os.listdir(service.directory)) == sorted({"out", *os.listdir(service.directory)})
    assert {os.path.basename(place) for place in places} == set(POSSIBLE)


def test_progress_on_a_terminal(lab: Lab, service: Shell) -> None:
    """What came of what, the rate and the time left; the bar is not in a pipe."""
    run_id = lab.new_run({"big.bin": BIG})
    lab.switch(bytes_per_s=12e6)
    with terminal(*service.program, "download", str(run_id), service.path("out"), env=service.env) as screen:
        screen.read_until("of 24 MiB, ")
        screen.read_until("MiB/s")
        assert screen.ends() == 0
    assert "1 file, 24 MiB" in screen.text


def test_a_rate_limit_is_told(lab: Lab, service: Shell) -> None:
    """5.4: a wait for the reset is one line, above the bar, however many files wait; --quiet says nothing of it."""
    run_id = lab.new_run({f"{number}.txt": 5 for number in range(4)})
    for quiet in ((), ("--quiet",)):
        lab.fault("content", {"rate_limit": {"reset_s": 4, "period": 60}}, times=1)
        out = service.path(f"out{len(quiet)}")
        with terminal(*service.program, "download", *quiet, str(run_id), out, env=service.env) as screen:
            assert screen.ends() == 0
        told = re.findall(r"\x1b\[Kartifactfs: rate limit of \S+: waiting (.*) s\r?\n", screen.text)
        assert len(told) == (not quiet), screen.text
        assert "\x1b[?25l" not in screen.text
