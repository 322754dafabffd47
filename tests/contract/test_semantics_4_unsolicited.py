"""Section 4.1 of the contract: bytes that follow an answer, or that come before a request, belong to no request."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.answers import listing, ok
from tests.attacked import KEYS, Attacked, mount
from tests.harness import Shell
from tests.hostile import HostileServer, hostile_server
from tests.tlsproxy import certificate, tls_proxy

SIZE = 10_000
BODIES = {name: bytes([number]) * SIZE for number, name in enumerate(("a", "b", "c"), start=65)}
KIND = "Content-Type: application/octet-stream"
HOST = "api.datadoghq.eu"


def kept(answer: bytes) -> bytes:
    """Return an answer without the end of its connection."""
    return answer.replace(b"Connection: close\r\n", b"", 1)


def foreign_content(size: int) -> bytes:
    return kept(ok(b"x" * size, KIND, f"Content-Range: bytes 0-{size - 1}/{size}", status="206 Partial Content"))


FOREIGN_LISTING = kept(ok(listing([{"path": "foreign", "is_dir": False, "file_size": 1}])))
# What comes behind each answer. Of large ones a part is in the parser's hands, and the rest in the socket's.
FOREIGN = {
    "206": foreign_content(SIZE),
    "206 with an early head": b"HTTP/1.1 103 Early Hints\r\n\r\n" + foreign_content(SIZE),
    "206 large": foreign_content(1 << 20),
    "206 cut": foreign_content(SIZE)[:100],
    "200": kept(ok(b"x" * SIZE, KIND)),
    "a listing": FOREIGN_LISTING,
    "404": kept(ok(b'{"errors":["no"]}', status="404 Not Found")),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no HTTP": b"\0",
}


@contextlib.contextmanager
def _route(name: str, shell: Shell, server: HostileServer, directory: Path) -> Iterator[Attacked]:
    """Mount a server directly, behind TLS, or by way of a proxy."""
    if name == "plain":
        yield Attacked(server, mount(shell, server.url))
        return
    cert, key = certificate(str(directory), HOST, "127.0.0.1")
    with tls_proxy(server.port, cert, key, connect=name == "a proxy") as front, contextlib.closing(shell):
        if name == "TLS":
            yield Attacked(server, mount(shell, f"https://127.0.0.1:{front.port}", "--ca-file", cert))
        else:
            proxy = f"http://127.0.0.1:{front.port}"
            yield Attacked(server, mount(shell, f"https://{HOST}", "--proxy", proxy, "--ca-file", cert))


# By a way all of FOREIGN, or half of it. Any bytes, on both: tests/simulated/test_unsolicited_property.py.
BY_WAY = {"plain": slice(None), "TLS": slice(0, None, 2), "a proxy": slice(1, None, 2)}


@pytest.fixture(params=BY_WAY)
def attack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attacked]:
    """A server that can send more than answers, and a mount of it."""
    shell = Shell(str(tmp_path), None, more_env=dict(KEYS))
    with hostile_server() as server, contextlib.closing(shell), _route(request.param, shell, server, tmp_path) as each:
        yield each


def check_reads(attack: Attacked, after_each: Callable[[], None] = lambda: None) -> None:
    """List and read runs and files one after the other, which are their own and stay so."""
    server, mounted = attack.server, attack.mounted
    runs = {name: server.plant(files={f"{name}.bin": body}) for name, body in BODIES.items()}
    for _ in range(2):
        for name, run_id in runs.items():
            assert mounted.sh('ls "$M/runs/$1"', run_id).ok().text == f"{name}.bin\n"
            after_each()
            assert mounted.sh('cat "$M/runs/$1/$2.bin"', run_id, name).ok().out == BODIES[name]
            after_each()


def test_answers_behind_answers(attack: Attacked, request: pytest.FixtureRequest) -> None:
    """4.1: a second answer behind the first, in the same segment, is trusted by no request, and never cached."""
    with attack.survives():
        for foreign in list(FOREIGN.values())[BY_WAY[request.node.callspec.params["attack"]]]:
            attack.server.behind = lambda _, foreign=foreign: iter([foreign])
            check_reads(attack)
        attack.server.behind = None


def test_answers_on_idle_connections(own_attack: Attacked) -> None:
    """4.1: the same where the second answer comes after the client has read the first."""
    server = own_attack.server
    server.behind = lambda _: iter([b""])
    with own_attack.survives():
        for foreign in FOREIGN.values():
            check_reads(own_attack, lambda foreign=foreign: server.interject(foreign))  # type: ignore[misc]
        server.behind = None


def test_connections_are_used_again(own_attack: Attacked) -> None:
    """4.1, 7: where nothing follows an answer, a connection serves the next request."""
    own_attack.server.behind = lambda _: iter([b""])
    with own_attack.survives():
        before = own_attack.server.accepted
        check_reads(own_attack)
        # Two for a run's listing and its project's, which are requested side by side, and one for contents.
        assert own_attack.server.accepted - before <= 3
        own_attack.server.behind = None
