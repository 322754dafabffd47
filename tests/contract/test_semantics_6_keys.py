"""Statement 6.1 of the contract: after every fault, the keys are nowhere but in the headers of requests to the API."""

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.answers import FILES, Answer, Asked, Reset, head, ok, part, raw
from tests.attacked import mount
from tests.harness import (
    CHECKOUT,
    END_S,
    FUSE_TYPE,
    Done,
    Mount,
    Shell,
    mount_type,
    needs_root,
    start_process,
    wait_until,
)
from tests.hostile import hostile_server
from tests.leaks import Watched, found
from tests.tlsproxy import certificate, tls_proxy

# Of the mount that meets all faults: what fails, and is tried again, is over soon.
DEADLINE = ("--deadline", "1s")
CONTENT = FILES["a.bin"]


@contextlib.contextmanager
def watching(directory: str) -> Iterator[Watched]:
    """Set the scene: two servers, a place to type in, and keys in files that are no part of it.

    So no process got the keys in an environment, and none may be in one. Whatever can be written somewhere by an
    environment's word is written where it is looked for.
    """
    # They look otherwise in a URL, in JSON and in a page, and are unique.
    keys = (f'k/+=%&"{uuid.uuid4().hex}', f"K<'>;~{uuid.uuid4().hex}")
    shell_place, key_place = os.path.join(directory, "shell"), os.path.join(directory, "keys")
    os.makedirs(shell_place)
    os.makedirs(key_place)
    shell = Shell(shell_place, None)
    for name, key in zip(("API_KEY", "APP_KEY"), keys, strict=True):
        Path(key_place, name).write_text(key, "ascii")
        shell.more_env[f"ARTIFACTFS_{name}_FILE"] = os.path.join(key_place, name)
    shell.more_env |= {"XDG_RUNTIME_DIR": shell.make_directory("runtime"), "TMPDIR": shell.make_directory("tmp")}
    with hostile_server() as api, hostile_server() as elsewhere:
        elsewhere.other = lambda asked: iter([part(CONTENT, asked)])
        try:
            yield Watched(shell, api, elsewhere, keys)
        finally:
            shell.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """The scene of one test."""
    with watching(str(tmp_path)) as each:
        yield each


@pytest.fixture(scope="module")
def standing_watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, Mount]]:
    with watching(str(tmp_path_factory.mktemp("keys"))) as each:
        yield each, mount(each.shell, each.api.url, "-v", *DEADLINE)


def used(watched: Watched, mounted: Mount, run_id: int | None = None) -> Done:
    """Use a mount, for better or worse: list and read a run, one that is as it should be if nothing else is said."""
    run_id = watched.api.plant() if run_id is None else run_id
    done = mounted.sh('ls -l "$M/runs/$1" && cd "$M/runs/$1" && cat a.bin', run_id)
    watched.said.append(done)
    return done


def check(watched: Watched) -> None:
    """Check that the keys came where they should, and nowhere else."""
    for name, key in zip(("dd-api-key", "dd-application-key"), watched.keys, strict=True):
        assert {asked.header(name) for asked in watched.api.received} == {key}
    assert watched.leaks() == []


# --- what the server does -----------------------------------------------------------------------------


def echo(status: str, before: str = "", after: str = "") -> Answer:
    """Answer with the keys themselves, as an angry gateway might."""

    def answer(asked: Asked) -> Iterator[bytes]:
        keys = f"{asked.header('dd-api-key')} {asked.header('dd-application-key')}"
        yield head(status, before + keys + after) if before else ok(keys.encode(), status=status)

    return answer


def resetting(_: Asked) -> Iterator[bytes]:
    raise Reset


def stalling(watched: Watched) -> Answer:
    def answer(_: Asked) -> Iterator[bytes]:
        watched.api.closed.wait()
        yield b""

    return answer


FAULTS: dict[str, Callable[[Watched], Answer]] = {
    "401": lambda _: raw(ok(b'{"errors":["Unauthorized"]}', status="401 X")),
    "403": lambda _: raw(ok(b'{"errors":["Forbidden"]}', status="403 X")),
    "500": lambda _: raw(ok(b'{"errors":["oops"]}', status="500 X")),
    "429": lambda _: raw(ok(b"{}", "X-RateLimit-Reset: 1", "X-RateLimit-Name: own", status="429 X")),
    "stall": stalling,
    "reset": lambda _: resetting,
    "no HTTP": lambda _: raw(b"\0\1\2"),
    "a bad range": lambda _: raw(ok(CONTENT, "Content-Range: bytes 7-9/3", status="206 X")),
    "redirect elsewhere": lambda watched: raw(head("307 X", f"Location: {watched.elsewhere.url}/a")),
    "keys in a page": lambda _: echo("200 OK"),
    "keys in a 403": lambda _: (
        lambda asked: iter(
            [ok(b'{"errors":["wrong: %b"]}' % str(asked.header("dd-application-key")).encode(), status="403 X")]
        )
    ),
    "keys in a redirect": lambda _: echo("302 X", "Location: ftp://host/"),
    "keys in a header": lambda _: echo("200 OK", "Content-Encoding: "),
    "keys in a range": lambda _: echo("206 X", "Content-Range: "),
    "keys in a limit": lambda _: echo("429 X", "X-RateLimit-Reset: 1\r\nX-RateLimit-Name: "),
    "keys in a broken head": lambda _: echo("200 OK", "X: ", "\0"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_server_does(name: str, standing_watch: tuple[Watched, Mount]) -> None:
    """6.1: whatever the server answers, even the keys themselves, they are nowhere but in headers to the API."""
    watched, mounted = standing_watch
    mounted.log.announce("^\\S+ \\S+ WARNING ", optional=True)
    answer = FAULTS[name](watched)
    listed, read = watched.api.plant(listing=answer), watched.api.plant(content=answer)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda run_id: used(watched, mounted, run_id), (listed, read)))

    # Of a rate limit one may learn before the other has asked.
    asked = watched.api.asked(f"/runs/{listed}/artifacts"), watched.api.asked(f"content?project_id={read}&")
    assert any(asked) if name in ("429", "keys in a limit") else all(asked)
    assert done[0].code != 0
    assert (done[1].code == 0) == (name == "redirect elsewhere")
    check(watched)
    # The next test shall find a mount that takes the server for alive.
    wait_until(lambda: used(watched, mounted).code == 0, "the mount's recovery")


# --- what else happens --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT", "SIGKILL", "SIGSEGV", "SIGABRT"])
def test_signals(way: str, watched: Watched) -> None:
    """6.1: no signal makes a mount write its keys: not what it logs, not a dump of where it stands, not a core."""
    if os.geteuid() == 0:
        # As far as the system is concerned, a core may be written.
        watched.shell.prefix = ("prlimit", "--core=unlimited", "--")
    mounted = mount(watched.shell, watched.api.url, "-v")
    used(watched, mounted).ok()
    os.kill(mounted.pid, getattr(signal, way))
    if way in ("SIGHUP", "SIGUSR1"):
        said = "SIGHUP: the next look" if way == "SIGHUP" else r"most recent call first"
        wait_until(lambda: mounted.log.has(said), "the answer to the signal")
        used(watched, mounted).ok()
    else:
        wait_until(lambda: not watched.shell.processes(), "the end", END_S)
    check(watched)


def test_a_crash_of_a_handler(watched: Watched) -> None:
    """6.1: the traceback of a bug holds no key."""
    watched.shell.program = (sys.executable, "-m", "tests.launch", "lookup-raises")
    watched.shell.more_env["PYTHONPATH"] = CHECKOUT
    run_id = watched.api.plant(files={"boom": b"1", "a.bin": b"2"})
    mounted = mount(watched.shell, watched.api.url, "-v")
    mounted.log.announce("this is a bug")
    watched.said.append(mounted.sh('cat "$M/runs/$1/boom"', run_id))
    assert "Input/output error" in watched.said[-1].err
    assert mounted.log.has("Traceback")
    check(watched)


def test_a_mount_in_front(watched: Watched) -> None:
    """6.1: what a mount in front says on the terminal holds no key."""
    mounted = watched.shell.expected_mount()
    command = ("mount", "-f", "-v", "--api-url", watched.api.url, mounted.point)
    with watched.shell.background(*command) as process:
        wait_until(lambda: mount_type(mounted.point) == FUSE_TYPE, "the mount")
        used(watched, mounted).ok()
        used(watched, mounted, watched.api.plant(listing=raw(ok(b"{}", status="500 X"))))
        os.kill(mounted.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=END_S)
    assert b"answered 500" in err
    watched.said.append(Done(command, process.returncode, out, err.decode(), 0.0))
    check(watched)


def test_keys_in_the_environment(watched: Watched) -> None:
    """6.1: keys that were given in the environment leave it, and are in that of nothing that the mount starts."""
    names = ("DD_API_KEY", "DD_APP_KEY")
    watched.shell.more_env |= dict(zip(names, watched.keys, strict=True))
    mounted = mount(watched.shell, watched.api.url, "-v")
    used(watched, mounted).ok()
    check(watched)


@pytest.mark.parametrize("how", ["not trusted", "no longer trusted"])
def test_a_tls_failure(how: str, watched: Watched, tmp_path: Path) -> None:
    """6.1: where TLS fails, no key was sent, said or written: at the mount, and later."""
    good, bad = (certificate(watched.shell.make_directory(each), "127.0.0.1") for each in ("good", "bad"))
    trusted = ("--ca-file", good[0], "-v", *DEADLINE)
    with (
        tls_proxy(watched.api.port, *(good if how == "no longer trusted" else bad), connect=False) as front,
        contextlib.closing(watched.shell),
    ):
        url = f"https://127.0.0.1:{front.port}"
        if how == "not trusted":
            mounted = watched.shell.expected_mount()
            watched.said.append(watched.shell.cli("mount", "--api-url", url, *trusted, mounted.point))
            assert "TLS" in watched.said[-1].err
            assert watched.leaks() == []
            assert watched.api.received == []
            return
        mounted = mount(watched.shell, url, *trusted)
        mounted.log.announce("TLS")
        used(watched, mounted).ok()
        front.present(*bad)
        before = len(watched.api.received)
        assert "Protocol error" in used(watched, mounted).err
        assert len(watched.api.received) == before
        check(watched)


@needs_root
def test_a_name_that_does_not_resolve(watched: Watched) -> None:
    """6.1: what a mount says of a host that there is not holds no key."""
    watched.shell.prefix = ("unshare", "-n", "--")
    mounted = watched.shell.expected_mount()
    command = ("mount", "--api-url", "https://model-lab.invalid", "--log-file", mounted.log_file, *DEADLINE)
    mounted.log.announce("model-lab.invalid")
    watched.said.append(watched.shell.cli(*command, mounted.point))
    assert "model-lab.invalid" in watched.said[-1].err
    assert watched.leaks() == []


def test_a_proxy(watched: Watched) -> None:
    """6.1: a proxy from the settings sees the host's name, no key; its own password is in no log."""
    cert, key = certificate(watched.shell.make_directory("good"), "api.datadoghq.eu")
    mounted = watched.shell.expected_mount()
    with tls_proxy(watched.api.port, cert, key) as proxy, contextlib.closing(watched.shell):
        watched.shell.more_env["ARTIFACTFS_PROXY"] = f"http://someone:pass-word-of-proxy@127.0.0.1:{proxy.port}"
        options = ("-v", "--site", "datadoghq.eu", "--ca-file", cert, "--log-file", mounted.log_file)
        watched.said.append(watched.shell.cli("mount", *options, mounted.point).ok())
        used(watched, mounted).ok()
        assert proxy.seen
        seen = {f"seen by the proxy {place}": head for place, head in enumerate(proxy.seen)}
        assert found(seen, watched.keys) == []
        assert not mounted.log.has("pass-word")
        check(watched)


def test_a_refusal_at_the_mount(watched: Watched) -> None:
    """6.1: what a mount says of keys that are refused does not hold them."""
    mounted = watched.shell.expected_mount()
    mounted.log.announce("rejected")
    watched.api.runs = raw(ok(b'{"errors":["Forbidden"]}', status="403 X"))
    command = ("mount", "--api-url", watched.api.url, "--log-file", mounted.log_file, mounted.point)
    watched.said.append(watched.shell.cli(*command))
    assert "rejected" in watched.said[-1].err
    check(watched)


# --- that the looking finds ---------------------------------------------------------------------------


PLACES = [
    "log",
    "state",
    "runtime",
    "cache",
    "name",
    "command line",
    "environment",
    "output",
    "elsewhere",
    "URL",
    "header",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_planted_key_is_found(place: str, watched: Watched) -> None:
    """6.1: a key that is put where a fault might put it is found there."""
    key = watched.keys[1]
    directory = watched.shell.path(place if place in ("state", "runtime", "cache") else "home")
    assert watched.leaks() == []
    with contextlib.ExitStack() as stack:
        if place in ("log", "state", "runtime", "cache"):
            Path(directory, "file").write_text(f"a line\nwith {key} in it\n", "ascii")
        elif place == "name":
            Path(directory, key.replace("/", "%2F")).touch()
        elif place == "command line":
            stack.enter_context(start_process([sys.executable, "-c", "input()", key]))
        elif place == "environment":
            stack.enter_context(start_process([sys.executable, "-c", "input()"], env={"ANY": key}))
        elif place == "output":
            watched.said.append(watched.shell.cli("umount", f"/{key.replace('/', '')}/{key}"))
        elif place == "elsewhere":
            watched.elsewhere.received.append(Asked(f"GET / HTTP/1.1\r\nDD-API-KEY: {key}\r\n\r\n".encode(), "/"))
        elif place == "URL":
            watched.api.received.append(Asked(f"GET /?{key} HTTP/1.1\r\nDD-API-KEY: x\r\n\r\n".encode(), "/"))
        else:
            # Of the right name, and with the other key.
            watched.api.received.append(Asked(f"GET / HTTP/1.1\r\nDD-API-KEY: {key}\r\n\r\n".encode(), "/"))
        leaks = watched.leaks()
    assert leaks
