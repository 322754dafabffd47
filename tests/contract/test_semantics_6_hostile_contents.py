"""Sections 4.1, 5, 6.1 and 6.4 of the contract: contents from a server that lies about them, or sends one elsewhere."""

import contextlib
import errno
import itertools
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.answers import FILES, Answer, Asked, bomb, dripping, endless, gzipped, head, ok, part, raw
from tests.attacked import KEYS, Attacked, attacked, check_failed, mount
from tests.harness import Shell, wait_until
from tests.hostile import HostileServer, hostile_server
from tests.processes import Done
from tests.tlsproxy import certificate, tls_proxy

BODY = FILES["a.bin"]
SIZE = len(BODY)
KIND = "Content-Type: application/octet-stream"
WHOLE = f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}"
PARTIAL = "206 Partial Content"
# The deadline of a mount whose server drips, and how long its commands may take: twice that (docs/semantics.md 5.1).
DEADLINE_S = 2.0


def ranged(told: str, *more: str, body: bytes = BODY) -> Answer:
    """Answer with 206 and this Content-Range, whatever range was asked for."""
    return raw(ok(body, KIND, f"Content-Range: {told}", *more, status=PARTIAL))


def told_length(length: object, body: bytes = BODY, status: str = "200 OK", *more: str) -> Answer:
    return raw(head(status, KIND, f"Content-Length: {length}", *more) + body)


def short_range(lacks: int, *, sent_too: bool = True) -> Answer:
    """Answer with the range that was asked for, and a length, or a body too, that lacks some bytes of it."""

    def answer(asked: Asked) -> Iterator[bytes]:
        match = re.search(rb"\r\nRange: bytes=([0-9]+)-([0-9]+)", asked.head)
        first, last = map(int, match.groups()) if match else (0, SIZE - 1)
        body, length = BODY[first : last + 1], last + 1 - first - lacks
        told = head(PARTIAL, KIND, f"Content-Range: bytes {first}-{last}/{SIZE}", f"Content-Length: {length}")
        yield told + (body[:length] if sent_too else body)

    return answer


def to(location: str, status: str = "302 Found") -> Answer:
    return raw(head(status, f"Location: {location}", "Content-Length: 0"))


MULTIPART = b"--x\r\nContent-Range: bytes 0-9/100\r\n\r\n0123456789\r\n--x--\r\n"
EMPTY = "Content-Length: 0"

# What each answer to a request for a file's content is to a reader: an errno, or 0 for the content.
ANSWERS: dict[str, tuple[Answer, int]] = {
    "range: one byte on": (ranged(f"bytes 1-{SIZE}/{SIZE + 1}"), errno.EBADMSG),
    "range: the end": (ranged(f"bytes 100-{SIZE - 1}/{SIZE}", body=BODY[100:]), errno.EBADMSG),
    "range: more than asked": (ranged(f"bytes 0-{SIZE + 50}/{SIZE + 51}", body=BODY + bytes(51)), errno.EBADMSG),
    "range: past its total": (ranged(f"bytes 0-{SIZE - 1}/{SIZE - 100}"), errno.EBADMSG),
    "range: backwards": (ranged(f"bytes 50-10/{SIZE}"), errno.EBADMSG),
    "range: another total": (ranged(f"bytes 0-{SIZE - 1}/{SIZE + 1}"), errno.ESTALE),
    "range: overlapping": (ranged(f"bytes 0-{SIZE - 1}/{SIZE}", body=BODY + BODY[:10]), errno.EBADMSG),
    "range: text": (ranged("bytes a-b/c"), errno.EBADMSG),
    "range: negative": (ranged(f"bytes -1-{SIZE - 2}/{SIZE}"), errno.EBADMSG),
    "range: 2^63": (ranged(f"bytes 0-{2**63 - 1}/{2**63}"), errno.EBADMSG),
    "range: another unit": (ranged(f"items 0-{SIZE - 1}/{SIZE}"), errno.EBADMSG),
    "range: two": (ranged(f"bytes 0-{SIZE - 1}/{SIZE}", f"Content-Range: bytes 5-9/{SIZE}"), errno.EBADMSG),
    "range: none": (raw(ok(BODY, KIND, status=PARTIAL)), errno.EBADMSG),
    "multipart": (raw(ok(MULTIPART, "Content-Type: multipart/byteranges; boundary=x", status=PARTIAL)), errno.EBADMSG),
    "206 without end": (endless(head(PARTIAL, KIND, WHOLE), b"x"), errno.EBADMSG),
    "200": (raw(ok(BODY, KIND)), 0),
    "200, a byte more": (raw(ok(BODY + b"x", KIND)), errno.ESTALE),
    "200 without end": (endless(head("200 OK", KIND), b"x"), errno.ESTALE),
    "204": (raw(head("204 No Content")), errno.EBADMSG),
    "304 unasked": (raw(head("304 Not Modified")), errno.EBADMSG),
    "416": (raw(head("416 X", f"Content-Range: bytes */{SIZE}", EMPTY)), errno.EBADMSG),
    "416 and nothing": (raw(head("416 X", EMPTY)), errno.EBADMSG),
    "416 of no bytes": (raw(head("416 X", "Content-Range: bytes */0", EMPTY)), errno.ESTALE),
    "length of a range too long": (told_length(SIZE + 10, BODY, PARTIAL, WHOLE), errno.EBADMSG),
    "10,000 times 1xx": (
        raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, ok(BODY, KIND, WHOLE, status=PARTIAL)),
        errno.EIO,
    ),
    "10,000 headers": (raw(ok(BODY, KIND, WHOLE, *[f"A{i}:1" for i in range(10_000)], status=PARTIAL)), 0),
    "a refresh": (raw(ok(BODY, KIND, WHOLE, "Refresh: 0; url=http://127.0.0.1:1/", status=PARTIAL)), 0),
    "gzip": (raw(head("200 OK", KIND, "Content-Encoding: gzip") + gzipped(BODY)), errno.EBADMSG),
    "gzip twice": (raw(head(PARTIAL, KIND, WHOLE, "Content-Encoding: gzip, gzip") + gzipped(BODY)), errno.EBADMSG),
    "a bomb": (lambda _: itertools.chain([head("200 OK", KIND, "Content-Encoding: gzip")], bomb(2048)), errno.EBADMSG),
    "a page": (raw(ok(b"<html>", "Content-Type: text/html")), errno.EBADMSG),
    "an error": (raw(ok(b'{"errors":["no"]}')), errno.EBADMSG),
    "redirect to a file": (to("file:///etc/passwd"), errno.EBADMSG),
    "redirect to ftp": (to("ftp://127.0.0.1/a.bin"), errno.EBADMSG),
    "redirect to gopher": (to("gopher://127.0.0.1/0a.bin"), errno.EBADMSG),
    "redirect to data": (to("data:text/plain,hello"), errno.EBADMSG),
    "redirect to a script": (to("javascript:alert(1)"), errno.EBADMSG),
    "redirect to a socket": (to("unix:///run/a.sock"), errno.EBADMSG),
    "redirect to nowhere": (raw(head("302 Found", EMPTY)), errno.EBADMSG),
    "redirect to nothing": (to(""), errno.EBADMSG),
    "redirect to port 0": (to("http://127.0.0.1:0/"), errno.EBADMSG),
    "redirect to port 99999": (to("http://127.0.0.1:99999/"), errno.EBADMSG),
    "redirect to no host": (to("http://[oops/"), errno.EBADMSG),
    "redirect to a long path": (to("/" + "a" * (20 << 10)), errno.EBADMSG),
    "redirect in the clear": (to("http://192.0.2.1/"), errno.EBADMSG),
    "redirect to itself": (lambda asked: iter([head("302 Found", f"Location: {asked.target}", EMPTY)]), errno.EBADMSG),
    "use a proxy": (to("http://127.0.0.1:1/", "305 Use Proxy"), errno.EBADMSG),
}

# What is asked for again before it is an I/O error.
BROKEN: dict[str, Answer] = {
    "a range cut short": short_range(5),
    "a length of a range too short": short_range(10, sent_too=False),
    "a length too short": told_length(SIZE - 10),
    "a byte less": raw(ok(BODY[:-1], KIND)),
    "chunks: a byte less": raw(
        head("200 OK", KIND, "Transfer-Encoding: chunked"), b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE - 1, BODY[:-1])
    ),
    "no bytes": raw(ok(b"", KIND)),
    "multipart and 200": raw(ok(MULTIPART, "Content-Type: multipart/byteranges; boundary=x")),
    "chunks: no number": raw(head("200 OK", KIND, "Transfer-Encoding: chunked"), b"10\r\n", BODY[:16], b"\r\nzz\r\n"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_to_a_reader(name: str, attack: Attacked) -> None:
    """4.1, 6.4, 5.3: what comes in place of a file is the errno of the table, and not one wrong byte is read."""
    answer, expected = ANSWERS[name]
    run_id = attack.server.plant(content=answer)
    copy = attack.mounted.shell.path("copy")

    done = attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id)
    if expected:
        check_failed(done, expected)
        assert BODY.startswith(done.out)
        # Once it is known that the listing's size is wrong, the content's own may count.
        copied = attack.mounted.sh('cp "$M/runs/$1/a.bin" "$2"', run_id, copy)
        assert copied.code or expected == errno.ESTALE
    else:
        assert done.ok().out == BODY
        attack.mounted.sh('cp "$M/runs/$1/a.bin" "$2"', run_id, copy).ok()
        with open(copy, "rb") as file:
            assert file.read() == BODY
    # One more than the few redirects that are followed, for each attempt.
    assert len(attack.server.asked(f"content?project_id={run_id}&")) <= 24


def test_answers_that_break_off(attack: Attacked) -> None:
    """4.1, 5.3: a file that ends early, however it says so, is an I/O error after a few attempts, and no zeros."""
    runs = {name: attack.server.plant(content=answer) for name, answer in BROKEN.items()}
    done: dict[str, Done] = {}
    # After whole bodies the mount asks for no ranges, so one that comes is another fault.
    for names in ([name for name in runs if "range" in name], [name for name in runs if "range" not in name]):
        with ThreadPoolExecutor(len(names)) as pool:
            ended = pool.map(lambda name: attack.mounted.sh('cat "$M/runs/$1/a.bin"', runs[name]), names)
            done |= dict(zip(names, ended, strict=True))

    for name, run_id in runs.items():
        assert os.strerror(errno.EIO) in done[name].err, (name, done[name])
        assert BODY.startswith(done[name].out), name
        assert 1 < len(attack.server.asked(f"content?project_id={run_id}&")) < 40, name


def test_a_smaller_total(attack: Attacked) -> None:
    """4.1: a file that says that it is shorter than listed is ESTALE; then the content's length counts."""
    short = BODY[:-1]
    run_id = attack.server.plant(content=lambda asked: iter([part(short, asked)]))

    check_failed(attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id), errno.ESTALE)
    assert attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id).ok().out == short


def test_206_unasked(own_attack: Attacked) -> None:
    """4.1: where this server was seen to ignore ranges, a part that was not requested is still no whole."""
    server, mounted = own_attack.server, own_attack.mounted
    with own_attack.survives():
        large = BODY * 100
        ignoring = server.plant(files={"a.bin": large}, content=raw(ok(large, KIND)))
        assert mounted.sh('tail -c 1000 "$M/runs/$1/a.bin"', ignoring).ok().out == large[-1000:]
        run_id = server.plant(content=ranged(f"bytes 0-99/{SIZE}", body=BODY[:100]))
        done = mounted.sh('cat "$M/runs/$1/a.bin"', run_id)
        assert done.code != 0
        assert BODY.startswith(done.out)
        other = server.plant(content=ranged(f"bytes 100-{SIZE - 1}/{SIZE}", body=BODY[100:]))
        check_failed(mounted.sh('cat "$M/runs/$1/a.bin"', other), errno.EBADMSG)
        asked = server.asked(f"content?project_id={run_id}&") + server.asked(f"content?project_id={other}&")
        assert {each.header("range") for each in asked} == {None}


# --- elsewhere ----------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[HostileServer]:
    """Another origin, where anything is this content."""
    with hostile_server() as server:
        server.other = lambda asked: iter([part(BODY, asked)])
        yield server


def check_keyless(asked: Asked) -> None:
    """Check that a request holds no key, nor a header where one would be."""
    for name in ("dd-api-key", "dd-application-key", "authorization", "cookie", "proxy-authorization"):
        assert asked.header(name) is None
    assert not [key for key in KEYS.values() if key.encode() in asked.head]


def test_ten_thousand_redirects(attack: Attacked) -> None:
    """6.4: a chain of redirects is left after a few of them: EBADMSG."""
    numbers = itertools.count(1)
    attack.server.other = lambda _: iter([head("302 Found", f"Location: /hop/{next(numbers)}", EMPTY)])
    run_id = attack.server.plant(content=to("/hop/0"))

    check_failed(attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id), errno.EBADMSG)
    assert 1 < next(numbers) <= 24


@pytest.mark.parametrize("status", ["301 X", "302 X", "303 X", "307 X", "308 X"])
def test_a_redirect_to_another_origin(status: str, attack: Attacked, elsewhere: HostileServer) -> None:
    """6.1: a file that is elsewhere is read there, without a key; coming back, keys are sent again."""
    run_id = attack.server.plant(content=to(f"{elsewhere.url}/a?signed=1", status))
    assert attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id).ok().out == BODY
    assert elsewhere.received
    for asked in elsewhere.received:
        check_keyless(asked)

    attack.server.other = lambda asked: iter([part(BODY, asked)])
    elsewhere.other = to(f"{attack.server.url}/back")
    back = attack.server.plant(content=to(f"{elsewhere.url}/a", status))
    assert attack.mounted.sh('cat "$M/runs/$1/a.bin"', back).ok().out == BODY
    assert attack.server.asked("/back")[-1].header("dd-api-key") == KEYS["DD_API_KEY"]


@pytest.mark.parametrize(
    "location", ["http://user:word@127.0.0.1:{port}/", "//user@127.0.0.1:{port}/", "http://\u0131 @127.0.0.1:{port}/"]
)
def test_a_redirect_with_a_user(location: str, attack: Attacked, elsewhere: HostileServer) -> None:
    """6.1: a redirect that brings a user name along is not followed."""
    run_id = attack.server.plant(content=to(location.format(port=elsewhere.port).encode().decode("latin-1")))
    check_failed(attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id), errno.EBADMSG)
    assert elsewhere.received == []


def test_a_redirect_to_a_closed_port(attack: Attacked) -> None:
    """5.3: a redirect to where no server listens is ECONNREFUSED."""
    # Bound and not listening: the port of a server that has gone may be another worker's by now.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        run_id = attack.server.plant(content=to(f"http://127.0.0.1:{bound.getsockname()[1]}/a"))
        check_failed(attack.mounted.sh('head -c 10 "$M/runs/$1/a.bin"', run_id), errno.ECONNREFUSED)


@pytest.mark.parametrize("kind", ["run", "listing"])
def test_other_answers_are_not_redirected(kind: str, attack: Attacked, elsewhere: HostileServer) -> None:
    """6.1: the attributes of a run, and its listing, are had from the API itself: a redirect is EBADMSG."""
    run_id = attack.server.plant(**{kind: to(f"{elsewhere.url}/a", "307 X")})  # type: ignore[arg-type]  # one of two
    check_failed(attack.mounted.sh('ls "$M/runs/$1"', run_id), errno.EBADMSG)
    assert elsewhere.received == []


def test_redirects_from_tls(tmp_path: Path, elsewhere: HostileServer) -> None:
    """6.1: from https nothing leads to http, loopback or not; to another https origin it goes without a key."""
    shell = Shell(str(tmp_path), None, more_env=dict(KEYS))
    cert, key = certificate(str(tmp_path), "127.0.0.1")
    with (
        hostile_server() as server,
        tls_proxy(server.port, cert, key, connect=False) as front,
        tls_proxy(elsewhere.port, cert, key, connect=False) as other_front,
        contextlib.closing(shell),
    ):
        mounted = mount(shell, f"https://127.0.0.1:{front.port}", "--ca-file", cert)
        attack = Attacked(server, mounted)
        with attack.survives():
            for location in (f"{elsewhere.url}/a", f"{server.url}/a", f"http://localhost:{elsewhere.port}/a"):
                run_id = server.plant(content=to(location))
                check_failed(mounted.sh('cat "$M/runs/$1/a.bin"', run_id), errno.EBADMSG)
            assert elsewhere.received == []
            run_id = server.plant(content=to(f"https://127.0.0.1:{other_front.port}/a"))
            assert mounted.sh('cat "$M/runs/$1/a.bin"', run_id).ok().out == BODY
            assert len(elsewhere.received) == 1
            check_keyless(elsewhere.received[0])


DRIPS: dict[str, bytes] = {
    "before the status": b"",
    "inside a header": b"HTTP/1.1 206 Partial Content\r\nX: ",
    "before the body": head("200 OK", KIND, f"Content-Length: {SIZE}"),
    "before the part": head(PARTIAL, KIND, WHOLE, f"Content-Length: {SIZE}"),
    "inside the part": head(PARTIAL, KIND, WHOLE, f"Content-Length: {SIZE}") + BODY[:5000],
    "inside an error": head("403 Forbidden", "Content-Length: 1000000"),
}


def test_drips(tmp_path: Path) -> None:
    """5.1, 6.4: a file that comes a byte every now and then is ETIMEDOUT at the deadline; what is cached is read."""
    deadline_s = 2 * DEADLINE_S  # several at once, beside other tests
    with attacked(str(tmp_path), "--deadline", f"{deadline_s:g}s") as attack, attack.survives():
        server, mounted = attack.server, attack.mounted
        cached = server.plant()
        mounted.sh('cat "$M/runs/$1/a.bin"', cached).ok()
        runs = {name: server.plant(content=dripping(server.closed, start)) for name, start in DRIPS.items()}
        for run_id in runs.values():
            mounted.sh('ls "$M/runs/$1"', run_id).ok()
        with ThreadPoolExecutor(len(runs)) as pool:
            ended = pool.map(lambda run: mounted.sh('cat "$M/runs/$1/a.bin"', run), runs.values())
            wait_until(lambda: len(server.asked("artifact_path=")) > len(runs), "all requests")
            assert mounted.sh('cat "$M/runs/$1/a.bin"', cached).ok().out == BODY
            done = dict(zip(runs, ended, strict=True))
        for each in done.values():
            check_failed(each, errno.ETIMEDOUT)
            assert BODY.startswith(each.out)
            assert each.seconds < 2 * deadline_s
        # Whether the server is alive is tried with whatever is asked next.
        wait_until(lambda: mounted.error_of("runs", server.plant()) == 0, "the next answer")
