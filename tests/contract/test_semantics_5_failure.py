"""Section 5 of the contract: errors, bugs of ours, the beginning and the end of a mount, writing."""

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.fixtures import Mounting
from tests.harness import CHECKOUT, END_S, FUSE_TYPE, Holding, Lab, Mount, Shell, holding, mount_type, wait_until
from tests.ports import held_port
from tests.tcpproxy import tcp_proxy


@pytest.fixture(scope="module")
def _hasty_mount(_shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    shell = Shell(str(tmp_path_factory.mktemp("hasty")), _shared_lab)
    yield shell.mount("--deadline", "25s", "--negative-ttl", "0")
    shell.close()


@pytest.fixture
def hasty(_hasty_mount: Mount, lab: Lab) -> Iterator[Mount]:
    """One mount for all rows of the table, with a deadline past all retries; the log is checked row by row."""
    with _hasty_mount.log.watched():
        yield _hasty_mount


@pytest.mark.parametrize(
    ("then", "expected", "said"),
    [
        ({"status": 404}, errno.ENOENT, None),
        ({"status": 410}, errno.ENOENT, None),
        ({"status": 401}, errno.EACCES, "answered 401"),
        ({"status": 403}, errno.EACCES, "answered 403"),
        ({"status": 400}, errno.EINVAL, "answered 400"),
        ({"status": 422}, errno.EINVAL, "answered 422"),
        ({"status": 408}, errno.ETIMEDOUT, "answered 408"),
        ({"status": 504}, errno.ETIMEDOUT, "answered 504"),
        ({"status": 500}, errno.EIO, "answered 500"),
        ({"status": 503}, errno.EIO, "answered 503"),
        ({"reset_after": 0}, errno.EIO, "was lost"),
        ({"cut_after": 50}, errno.EIO, "was lost"),
        ({"html": True}, errno.EBADMSG, "not JSON"),
        ({"body": "{}"}, errno.EBADMSG, "is no listing"),
        ({"body": '{"data": {"attributes": {"files": []}}}'}, errno.EBADMSG, "path_in_project"),
        ({"status": 302, "headers": {"Location": "/elsewhere"}}, errno.EBADMSG, "redirect"),
    ],
    ids=str,
)
def test_errors_are_those_of_the_table(
    then: dict[str, object], expected: int, said: str | None, lab: Lab, hasty: Mount
) -> None:
    """5.3: what the server does to a listing never seen gives the errno of the table; the log says what happened.

    Afterwards everything works: nothing of it is remembered, but an absence for `negative_ttl`.
    """
    run_id = lab.new_run()
    if said is not None:
        hasty.log.announce(said)
    lab.fault("listing", then)
    assert errno.errorcode[hasty.error_of("runs", run_id, "a.txt")] == errno.errorcode[expected]
    lab.faults()

    assert hasty.tree(run_id) == lab.truth(run_id)


@pytest.mark.parametrize("then", [{"stall": True}, {"stall_after": 50}], ids=str)
def test_a_server_that_stalls_is_a_time_out(then: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """5.1, 5.3: a server that accepts and says nothing, or stops half-way, is ETIMEDOUT at the deadline."""
    run_id = lab.new_run()
    mounted = mounting("--deadline", "1s")
    mounted.log.announce("did not answer|does not answer|found no end|no answer within")
    lab.fault("listing", then)
    assert mounted.error_of("runs", run_id, "a.txt") == errno.ETIMEDOUT
    lab.faults()

    assert mounted.tree(run_id) == lab.truth(run_id)


def test_a_rate_limit_past_the_deadline_is_busy(lab: Lab, mounting: Mounting) -> None:
    """5.3: a 429 whose reset lies past the deadline is EBUSY at once; after the reset everything works."""
    run_id = lab.new_run()
    mounted = mounting("--deadline", "2s")
    mounted.log.announce("rate-limiting|answered 429")
    lab.fault("listing", {"rate_limit": {"reset_s": 4, "period": 60}}, times=1)

    assert mounted.error_of("runs", run_id, "a.txt") == errno.EBUSY
    wait_until(lambda: mounted.error_of("runs", run_id, "a.txt") == 0, "the reset", limit_s=10.0)


def test_a_refused_connection(own_lab: Lab, shell: Shell) -> None:
    """5.3: a server that refuses connections is ECONNREFUSED; when it is back everything works."""
    shell.lab = own_lab
    mounted = shell.mount("--deadline", "4s")
    mounted.log.announce("refuses connections")
    own_lab.stop()
    assert mounted.error_of("runs", sample.RUN) == errno.ECONNREFUSED
    own_lab.start()

    assert mounted.tree(sample.RUN) == own_lab.truth(sample.RUN)


def test_a_bug_costs_its_caller_an_error_and_other_callers_nothing(lab: Lab, shell: Shell) -> None:
    """5.5: an exception in a handler is EIO for that call, with its traceback in the log; the mount lives on."""
    shell.program = (sys.executable, "-m", "tests.launch", "lookup-raises")
    shell.more_env["PYTHONPATH"] = CHECKOUT
    run_id = lab.new_run({"fine.txt": 1, "boom": 2, "bang/file": 3})
    mounted = shell.mount()
    mounted.log.announce("lookup failed: this is a bug")
    mounted.log.announce("opendir failed: this is a bug")

    assert mounted.error_of("runs", run_id, "fine.txt") == 0
    for _ in range(3):
        assert mounted.error_of("runs", run_id, "boom") == errno.EIO
    assert "Input/output error" in mounted.sh('ls "$M/runs/$1/bang"', run_id).err
    assert mounted.error_of("runs", run_id, "fine.txt") == 0
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
    assert mounted.log.has("a planted bug in lookup")
    shell.program = Shell.program


@contextlib.contextmanager
def in_use(mounted: Mount) -> Iterator[Holding]:
    """A process stands in a directory of the mount, and has another one open, half read."""
    code = (
        "import os, sys\n"
        "os.chdir(sys.argv[1] + '/runs')\n"
        "entries = os.scandir(sys.argv[1] + '/runs/70158')\n"
        "next(entries)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()"
    )
    with holding(mounted.python_command(code)) as held:
        yield held


def end_by(way: str, mounted: Mount) -> None:
    if way == "umount":
        mounted.umount()
    elif way == "fusermount3":
        mounted.sh('fusermount3 -u "$M"').ok()
    else:
        os.kill(mounted.pid, getattr(signal, way))


def check_gone(mounted: Mount) -> None:
    """Check that the mount ends within its time, and that nothing of it is left."""
    wait_until(lambda: mount_type(mounted.point) is None and not mounted.shell.processes(), "the end", END_S)
    assert os.listdir(mounted.point) == []


def test_a_signal_that_means_nothing_ends_no_mount(mounted: Mount) -> None:
    """5.5: nothing but unmounting ends a mount, and what asks it to end: no other signal does."""
    mounted.log.announce("", optional=True)  # at SIGUSR1 it says where it stands
    for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPOLL"):
        os.kill(mounted.pid, getattr(signal, name))
        mounted.walk("runs", sample.RUN)
        assert mounted.sh('ls "$M"').ok().text.split() == ["by", "names", "projects", "runs", "search"], name


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "SIGQUIT", "umount", "fusermount3"])
def test_every_way_to_end_a_mount(way: str, mounted: Mount) -> None:
    """5.6: SIGTERM, SIGINT, SIGQUIT, `artifactfs umount` and `fusermount3 -u` end an idle mount, and leave nothing."""
    mounted.walk("runs", sample.RUN)
    end_by(way, mounted)
    check_gone(mounted)


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "umount"])
def test_a_mount_in_use_ends_as_well(way: str, mounted: Mount) -> None:
    """5.6: with a working directory and an open directory in it the mount ends all the same."""
    with in_use(mounted) as held:
        end_by(way, mounted)
        wait_until(lambda: mount_type(mounted.point) is None, "the unmount", END_S)
        wait_until(lambda: set(mounted.shell.processes()) <= {held.pid}, "the end of the process", END_S)
    check_gone(mounted)


def test_fusermount3_refuses_a_mount_in_use(mounted: Mount) -> None:
    """5.6: `fusermount3 -u` says that a mount is busy while something is open, and the mount lives on."""
    with in_use(mounted):
        done = mounted.sh('fusermount3 -u "$M"')
        assert done.code != 0
        assert mounted.sh('ls "$M"').text.endswith("search\n")


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "umount"])
def test_a_mount_in_front_exits_with_zero(way: str, shell: Shell, lab: Lab) -> None:
    """5.6: `-f` stays in front, and however it is asked to end it exits with 0 and leaves nothing."""
    mounted = shell.expected_mount()
    with shell.background("mount", "-f", "--api-url", lab.url, mounted.point) as process:
        wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE, "the mount")
        assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
        assert process.poll() is None
        end_by(way, mounted)
        out, err = process.communicate(timeout=END_S)
        assert process.returncode == 0, err
        assert out == b""
        assert b"Traceback" not in err
        assert b"WARNING" not in err
    check_gone(mounted)


@pytest.mark.parametrize("way", ["SIGTERM", "umount"])
def test_a_mount_that_waits_for_a_stalled_server_ends(way: str, lab: Lab, mounting: Mounting) -> None:
    """5.6: a lookup that waits for a stalled server does not hold up the end, and its caller gets an error."""
    run_id = lab.new_run()
    mounted = mounting()
    mounted.log.announce("", optional=True)  # what a lookup that is cut off says is not this test's matter
    lab.fault("any", {"stall": True})
    code = (
        "import os, sys\n"
        "print('ready', flush=True)\n"
        "try: os.stat(sys.argv[1] + '/runs/' + sys.argv[2])\n"
        "except OSError as e: print(e.errno)"
    )
    with holding(mounted.python_command(code, run_id)) as held:
        wait_until(lambda: lab.stats()["in_flight"] >= 1, "the request")
        end_by(way, mounted)
        assert held.line(END_S).strip() != b""
    check_gone(mounted)


@pytest.mark.parametrize("way", ["umount", "mount"])
def test_a_killed_mount_heals(way: str, lab: Lab, mounting: Mounting) -> None:
    """5.6: after a SIGKILL the next mount at that place works, and so does `umount` of what is left."""
    mounted = mounting()
    mounted.tree(sample.RUN)
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: not mounted.shell.processes(), "the process's end")
    if way == "umount":
        mounted.umount()
        check_gone(mounted)
    assert mounting().tree(sample.RUN) == lab.truth(sample.RUN)


def test_a_killed_mount_in_use_heals(lab: Lab, mounting: Mounting) -> None:
    """5.6: a mount that was killed heals also while a process still stands in the dead one."""
    mounted = mounting()
    with in_use(mounted):
        os.kill(mounted.pid, signal.SIGKILL)
        wait_until(lambda: len(mounted.shell.processes()) == 0, "the process's end")
        assert mounting().tree(sample.RUN) == lab.truth(sample.RUN)


@pytest.mark.parametrize(
    "script",
    ['touch "$M/x"', 'mkdir "$M/runs/x"', 'touch "$M/runs/$1/x"', 'rm "$M/runs/$1/a.txt"', 'rmdir "$M/runs/$1/sub"',
     'mv "$M/runs/$1/a.txt" "$M/runs/$1/b"', 'ln -s a "$M/runs/$1/l"', 'ln "$M/runs/$1/a.txt" "$M/runs/$1/l"',
     'chmod 777 "$M/runs/$1/a.txt"', 'chown 1 "$M/runs/$1/a.txt"', 'touch "$M/runs/$1/a.txt"',
     'echo > "$M/runs/$1/a.txt"', 'truncate -s 0 "$M/runs/$1/a.txt"', 'mkfifo "$M/runs/$1/fifo"'],
)  # fmt: skip
def test_all_writing_is_refused(script: str, lab: Lab, standing: Mount) -> None:
    """5.7: every attempt to write fails with "Read-only file system" (EROFS)."""
    run_id = lab.new_run()
    done = standing.sh(script, run_id)

    assert done.code != 0
    assert "Read-only file system" in done.err
    assert standing.tree(run_id) == lab.truth(run_id)


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ({"status": 401}, ExitCode.KEYS_REJECTED),
        ({"status": 403}, ExitCode.KEYS_REJECTED),
        ({"status": 500}, ExitCode.SERVICE_FAILED),
        ({"status": 503, "html": True}, ExitCode.SERVICE_FAILED),
        ({"rate_limit": {"reset_s": 600, "period": 600}}, ExitCode.SERVICE_FAILED),
        ({"reset_after": 0}, ExitCode.SERVICE_FAILED),
        ({"stall": True}, ExitCode.UNREACHABLE),
        ({"html": True}, ExitCode.NOT_MODEL_LAB),
        ({"status": 404}, ExitCode.NOT_MODEL_LAB),
    ],
    ids=str,
)
def test_a_service_in_trouble_fails_the_mount(then: dict[str, object], code: ExitCode, lab: Lab, shell: Shell) -> None:
    """5.8: rejected keys, a network error, 429 or 5xx at that moment fail the mount, in one line; nothing is left."""
    mounted = shell.expected_mount()
    mounted.log.announce("")
    lab.fault("any", then)
    done = shell.cli("mount", "--deadline", "2s", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point)

    assert done.code == code, done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("artifactfs: ")
    assert "Traceback" not in done.err
    check_gone(mounted)


def test_a_mount_that_waits_for_the_service(own_lab: Lab, shell: Shell) -> None:
    """5.8: with `--wait` a mount goes on trying while no server answers, or only with 5xx; then it is there."""
    shell.lab = own_lab
    mounted = shell.expected_mount()
    mounted.log.announce("refuses connections.*trying again")
    mounted.log.announce("answered 503.*trying again")
    # So that what is reached first fails: a service that is only started would be asked before a fault is told.
    own_lab.fault("any", {"status": 503})
    with held_port() as held:
        port = held.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        options = ("--wait", "--deadline", "2s", "--api-url", url, "--log-file", mounted.log_file)
        with shell.background("mount", *options, mounted.point) as process:
            wait_until(lambda: mounted.log.has("refuses connections"), "the first try")
            with tcp_proxy(own_lab.port, port):
                wait_until(lambda: mounted.log.has("answered 503"), "a later try")
                assert process.poll() is None
                own_lab.faults()
                out, err = process.communicate(timeout=30)
                assert (process.returncode, out, err.count(b"\n")) == (0, b"", 1), err
                waits = rb"^artifactfs: .* refuses connections.*; waiting until it answers, Ctrl-C gives up\n"
                assert re.search(waits, err)
                assert mounted.tree(sample.RUN) == own_lab.truth(sample.RUN)
                mounted.umount()


@pytest.mark.parametrize(("then", "code"), [({"status": 403}, 4), ({"html": True}, 12)], ids=str)
def test_a_lasting_failure_is_not_waited_for(then: dict[str, object], code: int, lab: Lab, shell: Shell) -> None:
    """5.8: rejected keys fail a mount that waits as well, and so does what is no Model Lab."""
    mounted = shell.expected_mount()
    mounted.log.announce("")
    lab.fault("any", then)
    done = shell.cli("mount", "--wait", "--api-url", lab.url, "--log-file", mounted.log_file, mounted.point)
    assert (done.code, done.err.count("\n")) == (code, 1)
    check_gone(mounted)


def test_a_mount_that_waits_is_ended(own_lab: Lab, shell: Shell) -> None:
    """5.6, 5.8: Ctrl-C ends a mount that waits for its service, and leaves nothing."""
    shell.lab = own_lab
    mounted = shell.expected_mount()
    mounted.log.announce("trying again")
    own_lab.stop()
    options = ("--wait", "--api-url", own_lab.url, "--log-file", mounted.log_file)
    with shell.background("mount", *options, mounted.point) as it:
        wait_until(lambda: mounted.log.has("trying again"), "the first try")
        it.send_signal(signal.SIGINT)
        assert it.wait(END_S) == 130
    check_gone(mounted)
