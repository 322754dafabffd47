"""5.3 and 5.4: what goes wrong with a run, a file or a walk gives the errno of the table, and leaves nothing behind.

Listings have their rows in test_semantics_5_failure.py.
"""

import errno
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.reading import read
from tests.contract.test_semantics_5_outage import Clock, clock
from tests.fixtures import Mounting
from tests.harness import CHECKOUT, Lab, Mount, Shell, wait_until
from tests.launch import tell
from tests.tlsproxy import certificate, tls_proxy

__all__ = ["clock"]
# Past what one answer brings, so that something may come before the trouble.
SIZE = 3 << 20
NAME = "model-lab.test"


@pytest.fixture(scope="module")
def _hasty_mount(_shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    shell = Shell(str(tmp_path_factory.mktemp("hasty")), _shared_lab)
    yield shell.mount("--deadline", "25s", "--listing-ttl", "0", "--negative-ttl", "0", "--stale-max", "0")
    shell.close()


@pytest.fixture
def hasty(_hasty_mount: Mount, lab: Lab) -> Iterator[Mount]:
    """One mount for all rows, with a deadline past all retries, that serves nothing old."""
    with _hasty_mount.log.watched():
        yield _hasty_mount


def named(code: int) -> str:
    """Return an errno's name: a failed test then says which came."""
    return errno.errorcode.get(code, str(code))


@pytest.mark.parametrize(
    ("then", "expected", "said"),
    [
        ({"status": 404}, "ENOENT", None),
        ({"status": 403, "html": True}, "EACCES", "answered 403"),
        ({"status": 400}, "EINVAL", "answered 400"),
        ({"status": 408}, "ETIMEDOUT", "answered 408"),
        ({"status": 501, "html": True}, "EIO", "answered 501"),
        ({"cut_after": -1}, "EIO", "was lost"),
        ({"html": True}, "EBADMSG", "not JSON"),
        ({"body": '{"data": {"attributes": {"project'}, "EBADMSG", "not JSON"),
    ],
    ids=str,
)
def test_errors_of_a_run(then: dict[str, object], expected: str, said: str | None, lab: Lab, hasty: Mount) -> None:
    """5.3: what happens to the GET of a run itself gives the errno of the table; afterwards the run is there."""
    run_id = lab.new_run()
    if said is not None:
        hasty.log.announce(said)
    lab.fault("run", then)
    assert named(hasty.error_of("runs", run_id)) == expected
    lab.faults()

    assert hasty.tree(run_id) == lab.truth(run_id)


@pytest.mark.parametrize(
    ("then", "expected", "said"),
    [
        ({"status": 401}, "EACCES", "answered 401"),
        ({"status": 403}, "EACCES", "answered 403"),
        # The file is still listed, so these do not mean that it is gone.
        ({"status": 404}, "EIO", "answered 404"),
        ({"status": 400}, "EIO", "answered 400"),
        ({"status": 500}, "EIO", "answered 500"),
        ({"cut_after": 0}, "EIO", "was lost"),
        ({"reset_after": 0}, "EIO", "was lost"),
        ({"status": 504}, "ETIMEDOUT", "answered 504"),
        ({"html": True}, "EBADMSG", "HTML page"),
        ({"body": '{"errors": [{"title": "Gener'}, "EBADMSG", "JSON came"),
    ],
    ids=str,
)
def test_errors_of_a_content(then: dict[str, object], expected: str, said: str, lab: Lab, hasty: Mount) -> None:
    """5.3: what happens to a file gives its reader the errno of the table; then the file reads as it is."""
    run_id = lab.new_run({"model.bin": SIZE})
    hasty.log.announce(said)
    lab.fault("content", then)
    assert named(read(hasty, "whole", "runs", run_id, "model.bin")) == expected
    lab.faults()

    assert read(hasty, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")


def test_a_content_behind_a_time_out(lab: Lab, mounting: Mounting) -> None:
    """5.3: a time-out that the service, or a proxy in front of it, reports of a file is ETIMEDOUT."""
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = mounting("--deadline", "1s")
    mounted.log.announce("answered 504|no content came")
    mounted.tree(run_id)
    lab.fault("content", {"status": 504, "html": True})
    assert named(read(mounted, "whole", "runs", run_id, "model.bin")) == "ETIMEDOUT"
    lab.faults()

    truth = lab.sha256(run_id, "model.bin")
    wait_until(lambda: read(mounted, "whole", "runs", run_id, "model.bin") == truth, "the bytes")


@pytest.mark.parametrize(
    ("status", "now", "expected"),
    [
        (404, "nothing", "ENOENT"),
        (400, "nothing", "ENOENT"),
        (500, "nothing", "ENOENT"),
        (404, "a directory", "EISDIR"),
        (400, "a directory", "EISDIR"),
        (404, "a file", "EIO"),
        (400, "a file", "EIO"),
    ],
)
def test_a_content_that_is_not_there(status: int, now: str, expected: str, lab: Lab, standing: Mount) -> None:
    """5.3: where `open` has to ask for the content, a fresh listing decides what 400, 404 and 500 mean."""
    lab.switch(size_form="absent", index_size_form="absent")
    run_id = lab.new_run({"model.bin": SIZE, "stays": 1})
    standing.log.announce(f"answered {status}")
    lab.fault("content", {"status": status})
    # A lookup that cannot learn the size shows the name, and leaves it to `open` to ask again.
    assert standing.error_of("runs", run_id, "model.bin") == 0
    if now != "a file":
        lab.files(run_id, remove=["model.bin"])
    if now == "a directory":
        lab.files(run_id, add={"model.bin/f": 1})
    assert named(read(standing, "whole", "runs", run_id, "model.bin")) == expected


def test_pages_of_runs(lab: Lab, hasty: Mount) -> None:
    """5.3: what happens to `ls /runs` gives the errno of the table, each time; then it lists them."""
    rows: dict[str, dict[str, object]] = {
        "Permission denied": {"status": 403},
        "Connection timed out": {"status": 504},
        "Bad message": {"html": True},
        "Input/output error": {"status": 501},
    }
    for said, then in rows.items():
        hasty.log.announce("answered|not JSON")
        lab.fault("runs", then)
        done = hasty.sh('ls "$M/runs"')
        assert done.code == 2
        assert said in done.err
    lab.faults()
    shown = hasty.sh('ls "$M/runs"').ok().text.split()
    assert sorted(map(int, shown)) == sorted(lab.newest_runs(200))


@pytest.mark.parametrize("kind", ["run", "listing", "content"])
def test_a_rate_limit_within_the_deadline_is_waited_for(kind: str, lab: Lab, hasty: Mount) -> None:
    """5.3, 5.4: a 429 whose reset lies inside the deadline is waited for, asked once more after it, and answered."""
    run_id = lab.new_run({"model.bin": SIZE})
    reset_s = 1
    lab.fault(kind, {"rate_limit": {"reset_s": reset_s, "period": 60, "name": kind}}, times=1)
    lab.reset()
    start = time.monotonic()
    assert read(hasty, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")

    assert time.monotonic() - start >= reset_s
    asked = [entry for entry in lab.stats()["log"] if entry["kind"] == kind]
    assert [entry["status"] for entry in asked].count(429) == 1


def test_a_rate_limit_past_the_deadline_fails_at_once(lab: Lab, shell: Shell, clock: Clock) -> None:
    """5.3, 5.4: a 429 whose reset lies past the deadline is EBUSY at once, and not asked again before it."""
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = shell.mount("--deadline", "8s")
    mounted.log.announce("rate-limiting|answered 429")
    mounted.tree(run_id)
    lab.fault("content", {"rate_limit": {"reset_s": 600, "period": 600, "name": "content"}}, times=1)
    lab.reset()
    for _ in range(3):
        assert named(read(mounted, "whole", "runs", run_id, "model.bin")) == "EBUSY"
    assert lab.requests() == {"content": 1}
    clock.advance(601)
    wait_until(lambda: read(mounted, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin"), "bytes")


@pytest.mark.parametrize("prefetch", ["auto", "off"])
def test_a_directory_that_is_forbidden(prefetch: str, lab: Lab, mounting: Mounting) -> None:
    """5.3: a 403 in the middle of a walk is said by `find` of that directory alone, and it goes on."""
    run_id = lab.new_run({f"d{i}/sub/f{j}": 10 * i + j for i in range(8) for j in range(3)})
    mounted = mounting("--prefetch", prefetch)
    mounted.log.announce("answered 403")
    lab.faults(
        {"match": {"kind": "index"}, "then": {"status": 403}},
        {"match": {"kind": "listing", "query_contains": "path=d3/sub"}, "then": {"status": 403}},
    )
    done = mounted.sh('cd "$M/runs/$1" && find . -mindepth 1', run_id)
    lab.faults()

    everything = {f"./{path.decode()}" for path in lab.truth(run_id)}
    assert done.code == 1
    assert re.fullmatch(r"find: \W\./d3/sub\W: Permission denied\n", done.err)
    assert set(done.text.splitlines()) == {path for path in everything if not path.startswith("./d3/sub/")}
    again = mounted.sh('cd "$M/runs/$1" && find . -mindepth 1', run_id).ok()
    assert set(again.text.splitlines()) == everything


@pytest.mark.parametrize("kind", ["run", "listing", "content"])
def test_a_short_burst_of_errors(kind: str, lab: Lab, hasty: Mount) -> None:
    """5.3: a burst of 500s that is shorter than the retries is not seen."""
    run_id = lab.new_run({"model.bin": SIZE})
    lab.fault(kind, {"status": 500}, times=3)
    assert read(hasty, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")


@pytest.mark.parametrize("kind", ["run", "listing"])
def test_a_long_burst_of_errors(kind: str, lab: Lab, hasty: Mount) -> None:
    """5.3: a burst of 500s that is longer than the retries is EIO once; a caller that comes then finds all well."""
    run_id = lab.new_run({"model.bin": SIZE})
    hasty.log.announce("answered 500")
    lab.fault(kind, {"status": 500}, times=4)
    assert named(hasty.error_of("runs", run_id, "model.bin")) == "EIO"
    assert read(hasty, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")


_READ_ON = """
import errno, hashlib, json, os, sys, time
fd = os.open(sys.argv[2], os.O_RDONLY)
found, longest, error = b"", 0.0, 0
while True:
    start = time.monotonic()
    try:
        piece = os.read(fd, 65536)
    except OSError as failed:
        error = failed.errno
    longest = max(longest, time.monotonic() - start)
    if error or not piece:
        break
    found += piece
print(json.dumps([len(found), hashlib.sha256(found).hexdigest(), errno.errorcode.get(error, ""), longest]))
"""


@pytest.mark.parametrize("ranges", ["granted", "ignored"])
def test_a_stall_inside_a_body(ranges: str, lab: Lab, mounting: Mounting) -> None:
    """5.1, 5.3: where a body stops coming, what came is read, then ETIMEDOUT within the deadline."""
    deadline_s = 2.0
    came = SIZE // 2 + 1000
    lab.switch(ranges=ranges)
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = mounting("--deadline", f"{deadline_s:g}s")
    mounted.log.announce("no content came|did not answer|does not answer")
    path = mounted.path("runs", run_id, "model.bin")
    mounted.tree(run_id)
    # The first answer brings this much, and those that should bring the rest bring nothing.
    lab.faults(
        {"match": {"kind": "content"}, "then": {"stall_after": came}, "times": 1},
        {"match": {"kind": "content"}, "then": {"stall": True}},
    )
    count, digest, error, longest_s = mounted.python(_READ_ON, path)
    lab.faults()

    assert error == "ETIMEDOUT"
    assert longest_s < 2 * deadline_s
    # The kernel reads in pieces of its own, and drops the result of the last one.
    assert 0 < count <= came
    wait_until(lambda: mounted.python(_READ_ON, path)[:2] == [SIZE, lab.sha256(run_id, "model.bin")], "the whole file")
    prefix = "import hashlib, json, sys\nfile = open(sys.argv[2], 'rb')\n"
    prefix += "print(json.dumps(hashlib.sha256(file.read(int(sys.argv[3]))).hexdigest()))"
    assert mounted.python(prefix, path, count) == digest


def test_a_certificate_that_is_no_longer_trusted(lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """5.3, 6.1: a server whose certificate is another one after the mount is EPROTO, and gets no request."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for directory in (right, wrong):
        directory.mkdir()
    cert, key = certificate(str(right), "127.0.0.1")
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = shell.expected_mount()
    mounted.log.announce("TLS to .* failed")
    with tls_proxy(lab.port, cert, key, connect=False) as server:
        url = f"https://127.0.0.1:{server.port}"
        shell.cli("mount", "--ca-file", cert, "--api-url", url, "--log-file", mounted.log_file, mounted.point).ok()
        assert mounted.error_of("runs", run_id, "model.bin") == 0
        server.present(*certificate(str(wrong), "127.0.0.1"))
        server.drop()
        lab.reset()
        assert named(mounted.error_of("runs", lab.new_run())) == "EPROTO"
        assert named(read(mounted, "whole", "runs", run_id, "model.bin")) == "EPROTO"
        assert lab.total() == 0
        server.present(cert, key)

        assert read(mounted, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")
        mounted.umount()


@pytest.mark.parametrize(("state", "expected"), [("down", "EHOSTUNREACH"), ("stalls", "ETIMEDOUT")])
def test_a_host_name_that_no_longer_resolves(state: str, expected: str, lab: Lab, shell: Shell, tmp_path: Path) -> None:
    """5.1, 5.3: a name that stops resolving is EHOSTUNREACH, or ETIMEDOUT where its resolver stalls; then all works."""
    resolver = str(tmp_path / "resolver")
    tell(resolver, "up")
    shell.program = (sys.executable, "-m", "tests.launch", "names")
    shell.more_env |= {"PYTHONPATH": CHECKOUT, "TEST_NAME": NAME, "TEST_RESOLVER": resolver}
    cert, key = certificate(str(tmp_path), NAME)
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = shell.expected_mount()
    mounted.log.announce("cannot reach|did not answer|does not answer|no content came|no answer within")
    with tls_proxy(lab.port, cert, key, connect=False) as server:
        options = ("--ca-file", cert, "--api-url", f"https://{NAME}:{server.port}", "--deadline", "2s")
        shell.cli("mount", *options, "--log-file", mounted.log_file, mounted.point).ok()
        assert mounted.tree(run_id) == lab.truth(run_id)
        tell(resolver, state)
        server.drop()
        assert named(read(mounted, "whole", "runs", run_id, "model.bin")) == expected
        assert mounted.error_of("runs", run_id, "model.bin") == 0
        tell(resolver, "up")

        truth = lab.sha256(run_id, "model.bin")
        wait_until(lambda: read(mounted, "whole", "runs", run_id, "model.bin") == truth, "the bytes")
        mounted.umount()
