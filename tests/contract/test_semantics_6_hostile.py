"""Sections 1.3, 5 and 6.4 of the contract: what a server says of runs and directories, however it says it."""

import contextlib
import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.answers import (
    FILES,
    Answer,
    Asked,
    Halt,
    bomb,
    dripping,
    endless,
    gzipped,
    head,
    listing,
    ok,
    raw,
)
from tests.attacked import Attacked, attacked, check_failed, memory
from tests.harness import LIMIT_S, Done, start_process, wait_until
from tests.hostile import API
from tests.launch import SCALE

JSON = "Content-Type: application/json"
GOOD = listing([{"path": "a.bin", "is_dir": False, "file_size": len(FILES["a.bin"])}])
OPEN = b'{"data":{"id":"1","attributes":{"path_in_project":"p/artifacts","files":['
CLOSE = b"]}}}"
CHUNKED = head("200 OK", JSON, "Transfer-Encoding: chunked")
GZIP = head("200 OK", JSON, "Content-Encoding: gzip")
MIB = 1 << 20
# The bounds of a mount, and of one whose answers are bounded to a part of them (tests/launch.py).
MANY = 1_000_000
BODY_BYTES = 256 * MIB
# What glibc maps, and gives back at once, is from 32 MiB on whatever the program did before: that is scaled, too.
SMALL = ("env", f"MALLOC_MMAP_THRESHOLD_={32 * MIB // SCALE}", sys.executable, "-m", "tests.launch", "small-answers")
MANY_SMALL, BODY_SMALL_BYTES = MANY // SCALE, BODY_BYTES // SCALE
# What a process grows by besides what it holds: pieces under way, modules, the allocator.
BESIDES_BYTES = 16 * MIB
# The deadline of a mount whose server drips, and how long its commands may take: twice that (docs/semantics.md 5.1).
DEADLINE_S = 2.0


def with_length(length: object, body: bytes = GOOD) -> bytes:
    return head("200 OK", JSON, f"Content-Length: {length}") + body


# What each answer to a listing is to the kernel: an errno, or 0 for the listing as it was meant.
ANSWERS: dict[str, tuple[Answer, int]] = {
    "10,000 headers": (raw(head("200 OK", JSON, *[f"A{i}:1" for i in range(10_000)]) + GOOD), 0),
    "gzip": (raw(GZIP + gzipped(GOOD)), 0),
    "gzip in gzip": (raw(GZIP + gzipped(gzipped(GOOD))), errno.EBADMSG),
    "gzip twice": (raw(head("200 OK", JSON, "Content-Encoding: gzip, gzip") + gzipped(GOOD)), errno.EBADMSG),
    "gzip that is none": (raw(GZIP + GOOD), errno.EBADMSG),
    "gzip cut": (raw(GZIP + gzipped(GOOD)[:-20]), errno.EBADMSG),
    "unknown encoding": (raw(head("200 OK", JSON, "Content-Encoding: br") + GOOD), errno.EBADMSG),
    "UTF-16": (raw(ok(GOOD.decode().encode("utf-16"), JSON + "; charset=utf-16")), errno.EBADMSG),
    "UTF-32": (raw(ok(GOOD.decode().encode("utf-32"))), errno.EBADMSG),
    "BOM": (raw(ok(b"\xef\xbb\xbf" + GOOD)), errno.EBADMSG),
    "wrong charset": (raw(ok(GOOD, JSON + "; charset=iso-8859-1")), 0),
    "no text": (raw(ok(b"\xff" * 1000)), errno.EBADMSG),
    "NULs": (raw(ok(bytes(1000))), errno.EBADMSG),
    "length too short": (raw(with_length(len(GOOD) - 10)), errno.EBADMSG),
    "length and chunks": (
        raw(head("200 OK", JSON, "Transfer-Encoding: chunked", "Content-Length: 3"), b"%x\r\n" % len(GOOD), GOOD,
            b"\r\n0\r\n\r\n"), 0),
    "204": (raw(head("204 No Content")), errno.EBADMSG),
    "206 unasked": (raw(ok(GOOD, status="206 Partial Content")), 0),
    "300": (raw(ok(GOOD, status="300 Multiple Choices")), errno.EBADMSG),
    "304 unasked": (raw(head("304 Not Modified")), errno.EBADMSG),
    "10,000 times 1xx": (raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, ok(GOOD)), errno.EIO),
    "unknown version": (raw(b"HTTP/9.9 200 OK\r\n\r\n" + GOOD), 0),
    "status 999": (raw(b"HTTP/1.1 999 X\r\n\r\n" + GOOD), errno.EIO),
    "redirect to a file": (raw(head("302 Found", "Location: file:///etc/passwd")), errno.EBADMSG),
    "redirect without end": (endless(head("302 Found", "Location: /x"), b"abc"), errno.EBADMSG),
    "403 without end": (endless(head("403 Forbidden"), b"abc"), errno.EACCES),
    "404 without end": (endless(head("404 Not Found"), b"abc"), errno.ENOENT),
    "deep lists": (raw(ok(b"[" * 100_000)), errno.EBADMSG),
    "deep objects": (raw(ok(b'{"data":' * 100_000)), errno.EBADMSG),
    "deep beside": (raw(ok(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"," + GOOD[1:])), errno.EBADMSG),
    "deep in a row": (
        raw(ok(OPEN + b'{"path":"a.bin","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}" + CLOSE)), errno.EBADMSG),
    "a number of 5,000 digits": (raw(ok(OPEN + b'{"path":"a.bin","file_size":1%b}' % (b"0" * 5000) + CLOSE)), 0),
    "no number": (raw(ok(OPEN + b'{"path":"a.bin","file_size":NaN,"x":[-Infinity,1e400]}' + CLOSE)), 0),
    "a number of 3 million": (raw(ok(OPEN + b'{"path":"a.bin","file_size":' + b"9" * 3_000_000 + b"}" + CLOSE)), 0),
}  # fmt: skip

# No HTTP at all, or cut off: an I/O error each, after the retries.
BROKEN: dict[str, Answer] = {
    "a header of a megabyte": raw(head("200 OK", JSON, "X: " + "a" * (1 << 20)) + GOOD),
    "a header without end": endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 1000),
    "headers without end": endless(b"HTTP/1.1 200 OK\r\n", b"X-Y: a\r\n"),
    "a status without end": endless(b"HTTP/1.1 200 ", b"a" * 1000),
    "empty lines without end": endless(b"", b"\r\n"),
    "length too long": raw(with_length(len(GOOD) + 10)),
    "length negative": raw(with_length(-1)),
    "length text": raw(with_length("many")),
    "length huge": raw(with_length(10**30)),
    "two lengths": raw(head("200 OK", JSON, "Content-Length: 5", f"Content-Length: {len(GOOD)}") + GOOD),
    "chunks: no number": raw(CHUNKED + b"zz\r\n" + GOOD),
    "chunks: negative": raw(CHUNKED + b"-5\r\n" + GOOD),
    "chunks: 40 digits": raw(CHUNKED + b"f" * 40 + b"\r\n" + GOOD),
    "chunks: 2^60 bytes": raw(CHUNKED + b"fffffffffffffff\r\n" + GOOD),
    "chunks: shorter than announced": raw(CHUNKED + b"5\r\n" + GOOD + b"\r\n0\r\n\r\n"),
    "chunks: extension without end": endless(CHUNKED + b"5;", b"a" * 1000),
    "chunks: trailers without end": endless(CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD), b"X: a\r\n"),
    "unknown transfer encoding": raw(head("200 OK", JSON, "Transfer-Encoding: gzip") + gzipped(GOOD)),
    "no head": raw(GOOD),
    "status 2x0": raw(b"HTTP/1.1 2x0 X\r\n\r\n" + GOOD),
    "status 000": raw(b"HTTP/1.1 000 X\r\n\r\n" + GOOD),
    "status 101": raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + GOOD),
    "another protocol": raw(b"\0\0\x12\x04\0\0\0\0\0"),
    "NUL in a header": raw(b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n" + GOOD),
    "nothing": raw(),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_to_a_listing(name: str, attack: Attacked) -> None:
    """6.4, 5.3: an answer to a listing that is odd is the listing, or the errno of the table; the mount lives on."""
    answer, expected = ANSWERS[name]
    run_id = attack.server.plant(listing=answer)

    done = attack.mounted.sh('ls "$M/runs/$1"', run_id)
    if expected:
        check_failed(done, expected)
        check_failed(attack.mounted.sh('find "$M/runs/$1/a.bin"', run_id), expected)
    else:
        assert done.ok().text == "a.bin\n"


def test_answers_that_are_no_http(attack: Attacked) -> None:
    """6.4, 5.3: what is no HTTP, and a head without end, is an I/O error; it is asked for again a few times only."""
    runs = {name: attack.server.plant(listing=answer) for name, answer in BROKEN.items()}
    with ThreadPoolExecutor(len(runs)) as pool:
        done = dict(
            zip(runs, pool.map(lambda run: attack.mounted.sh('ls "$M/runs/$1"', run), runs.values()), strict=True)
        )

    for name, run_id in runs.items():
        assert os.strerror(errno.EIO) in done[name].err, (name, done[name])
        assert 1 < len(attack.server.asked(f"/runs/{run_id}/artifacts")) < 10, name


def test_an_error_heals(attack: Attacked) -> None:
    """6.4: nothing of a hostile answer is kept: the next one counts."""
    for answer in (ANSWERS["deep lists"][0], ANSWERS["no text"][0], ANSWERS["403 without end"][0]):
        run_id = attack.server.plant(listing=answer)
        assert attack.mounted.sh('ls "$M/runs/$1"', run_id).code != 0
        attack.server.heal(run_id)
        assert attack.mounted.sh('ls "$M/runs/$1"', run_id).ok().text == "a.bin\nsub\n"


# --- size ---------------------------------------------------------------------------------------------


def halfway(halt: Halt, first: bytes, answer: Answer) -> Answer:
    """Send `first`, wait for the test's word, and go on with the rest."""

    def halting(asked: Asked) -> Iterator[bytes]:
        yield first
        halt.here()
        yield from answer(asked)

    return halting


def list_while_others_work(attack: Attacked, halt: Halt, run_id: int) -> Done:
    """List a directory whose answer halts half-way; another one, never seen, is listed and read meanwhile."""
    command = ["ls", "-f", attack.mounted.path("runs", run_id)]
    with start_process(command, env={**os.environ, "LC_ALL": "C.UTF-8"}) as process:
        with halt.reached():
            attack.works()
            assert process.poll() is None
        out, err = process.communicate(timeout=2 * LIMIT_S)
    return Done(command, process.returncode, out, err.decode(), 0.0)


def rows_of(first: int, count: int) -> bytes:
    return b",".join(b'{"path":"f%07d","is_dir":false,"file_size":%d}' % (i, i) for i in range(first, first + count))


@pytest.fixture
def small_attack(tmp_path: Path) -> Iterator[Attacked]:
    """The same, where an answer may be 1/16 as large."""
    with attacked(str(tmp_path), program=SMALL) as each:
        yield each


def test_the_most_entries(small_attack: Attacked) -> None:
    """6.4, 1.1: of as many entries as there may be all are listed; one more is EFBIG. Others are answered meanwhile."""
    half = MANY_SMALL // 2
    halt = Halt()
    start = head("200 OK", JSON) + OPEN
    first, second = rows_of(0, half) + b",", rows_of(half, MANY_SMALL - half)
    most = small_attack.server.plant(listing=halfway(halt, start + first, raw(second + CLOSE)))
    more = small_attack.server.plant(listing=raw(start, first, second, b',{"path":"one more"}', CLOSE))

    with small_attack.survives(growth_bytes=(1 << 30) // SCALE):
        check_failed(small_attack.mounted.sh('ls "$M/runs/$1"', more), errno.EFBIG)
        done = list_while_others_work(small_attack, halt, most)
        assert sorted(done.ok().out.split()) == sorted([b".", b"..", *(b"f%07d" % i for i in range(MANY_SMALL))])
        last = MANY_SMALL - 1
        assert small_attack.mounted.sh('stat -c %s "$M/runs/$1/f$2"', most, f"{last:07d}").ok().text == f"{last}\n"


def test_a_million_entries(own_attack: Attacked) -> None:
    """6.4, 1.1: with the bounds as they are in a mount: of 10^6 entries the last is there, and one more is EFBIG."""
    rows = raw(head("200 OK", JSON) + OPEN, rows_of(0, MANY))
    most = own_attack.server.plant(listing=lambda asked: itertools.chain(rows(asked), [CLOSE]))
    more = own_attack.server.plant(listing=lambda asked: itertools.chain(rows(asked), [b',{"path":"one more"}', CLOSE]))

    with own_attack.survives(growth_bytes=1 << 30):
        check_failed(own_attack.mounted.sh('ls "$M/runs/$1"', more), errno.EFBIG)
        last = f"{MANY - 1:07d}"
        done = own_attack.mounted.sh('cd "$M/runs/$1" && stat -c %s f0000000 f0500000 "f$2"', most, last)
        assert done.ok().text.split() == ["0", "500000", str(MANY - 1)]


def test_a_listing_of_two_gigabytes(own_attack: Attacked) -> None:
    """6.4: a listing without end is EFBIG once it is past the bound of 256 MiB, and no more of it is taken."""
    halt = Halt()
    row = b'{"path":"f","is_dir":false,"file_size":1},'
    run_id = own_attack.server.plant(
        listing=halfway(halt, head("200 OK", JSON) + OPEN + row * 100_000, endless(b"", row))
    )

    with own_attack.survives(growth_bytes=2 * BODY_BYTES):
        check_failed(list_while_others_work(own_attack, halt, run_id), errno.EFBIG)
    # What sockets hold comes on top.
    assert BODY_BYTES < own_attack.server.sent[f"{API}/runs/{run_id}/artifacts"] < 320 * MIB


def test_a_compressed_bomb(small_attack: Attacked) -> None:
    """6.4: a listing of 2 MB that inflates to 2 GiB is EFBIG, and takes no more memory than a plain one."""
    run_id = small_attack.server.plant(listing=lambda _: itertools.chain([GZIP], bomb(2048)))

    with small_attack.survives(growth_bytes=2 * BODY_SMALL_BYTES + BESIDES_BYTES):
        check_failed(small_attack.mounted.sh('ls "$M/runs/$1"', run_id), errno.EFBIG)


# One body at its most, what others may hold beside it, and what goes with them.
TOGETHER_BYTES = (256 + 16 + 64) * MIB // SCALE + BESIDES_BYTES
TOGETHER_S = 300.0


def packed(filler: bytes, count: int) -> list[bytes]:
    """Return the gzip of a listing of so many of these, in two pieces: the end of the gzip comes by itself."""
    body = gzipped(OPEN + filler * count + b"{}" + CLOSE)
    return [GZIP, body[:-8], body[-8:]]


# How listings are made that are refused, at which piece they are nearly all there, with what they are refused, and how
# many of them are enough to go past the bound.
REFUSED: dict[str, tuple[Callable[[], Iterable[bytes]], int, int, int]] = {
    "too long": (lambda: itertools.chain([GZIP], bomb(2048)), 16, errno.EFBIG, 3),
    "no listing": (lambda: itertools.chain([GZIP], bomb(250 // SCALE)), 16, errno.EBADMSG, 3),
    "too many rows": (lambda: packed(b'{"path":"f"},', 5 * MANY_SMALL), 2, errno.EFBIG, 12),
    "too many lists": (lambda: packed(b"[],", 20 * MANY_SMALL), 2, errno.EFBIG, 12),
}


def held(halt: Halt, pieces: Iterable[bytes], nearly_all: int) -> Answer:
    """Send these, and wait for the test's word before that piece."""

    def answer(_: Asked) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == nearly_all:
                halt.here()
            yield piece

    return answer


@pytest.mark.parametrize("name", REFUSED)
def test_refused_listings_side_by_side(name: str, tmp_path: Path) -> None:
    """6.4: several listings at once that are refused take the memory of one, and keep none of it."""
    make, nearly_all, expected, count = REFUSED[name]
    # They are inflated one after the other: time of one processor, which others may need.
    with attacked(str(tmp_path), "--deadline", f"{TOGETHER_S:g}s", program=SMALL) as attack:
        mounted = attack.mounted

        def refused() -> None:
            halts = [Halt() for _ in range(count)]
            runs = [attack.server.plant(listing=held(halt, list(make()), nearly_all)) for halt in halts]
            with ThreadPoolExecutor(count) as pool:
                ended = pool.map(lambda run: mounted.sh('ls "$M/runs/$1"', run, limit_s=2 * TOGETHER_S), runs)
                with contextlib.ExitStack() as all_there:
                    for halt in halts:
                        all_there.enter_context(halt.reached())
                    attack.works()  # others are answered, and the mount has taken what was sent
                for each in list(ended):
                    check_failed(each, expected)

        attack.works()
        with attack.survives(growth_bytes=TOGETHER_BYTES):
            refused()
        # The allocator has what it needs for so many by now: from here on far less than one of them may be left.
        before = memory(mounted.pid, "VmRSS")
        with attack.survives(growth_bytes=TOGETHER_BYTES):
            refused()
            assert memory(mounted.pid, "VmRSS") - before < BODY_SMALL_BYTES // 2


DRIPS: dict[str, bytes] = {
    "before the status": b"",
    "before the headers": b"HTTP/1.1 200 OK\r\n",
    "inside a header": b"HTTP/1.1 200 OK\r\nX: ",
    "before the body": head("200 OK", JSON),
    "inside the body": head("200 OK", JSON) + OPEN,
    "inside an error": head("403 Forbidden", "Content-Length: 1000000"),
    "inside the chunks": CHUNKED + b"5000\r\n" + OPEN,
}


def test_drips(tmp_path: Path) -> None:
    """5.1, 6.4: a byte every now and then is no progress: ETIMEDOUT at the deadline; what is cached does not wait."""
    deadline_s = 2 * DEADLINE_S  # several at once, beside other tests
    with attacked(str(tmp_path), "--deadline", f"{deadline_s:g}s") as attack, attack.survives():
        server, mounted = attack.server, attack.mounted
        cached = server.plant()
        mounted.sh('ls "$M/runs/$1"', cached).ok()
        runs = {name: server.plant(listing=dripping(server.closed, start)) for name, start in DRIPS.items()}
        mounted.sh('cd "$M/runs" && stat "$@"', *runs.values()).ok()
        with ThreadPoolExecutor(len(runs)) as pool:
            ended = pool.map(lambda run: mounted.sh('ls "$M/runs/$1"', run), runs.values())
            wait_until(lambda: all(server.asked(f"/runs/{run}/artifacts") for run in runs.values()), "all requests")
            assert mounted.sh('ls "$M/runs/$1"', cached).ok().text == "a.bin\nsub\n"
            done = dict(zip(runs, ended, strict=True))
        done["a run"] = mounted.sh(
            'stat "$M/runs/$1"', server.plant(run=dripping(server.closed, head("200 OK", JSON) + b"{"))
        )
        for each in done.values():
            check_failed(each, errno.ETIMEDOUT)
            assert each.seconds < 2 * deadline_s
        # Whether the server is alive is tried with whatever is asked next.
        wait_until(lambda: mounted.error_of("runs", server.plant()) == 0, "the next answer")
