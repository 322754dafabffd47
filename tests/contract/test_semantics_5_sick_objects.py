"""5.1 of the contract: one artifact or directory whose answers stall fails its own readers only."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.answers import Answer, Asked, Planted, head, ok, part, raw, well
from tests.attacked import Attacked, attacked
from tests.harness import Holding, holding
from tests.hostile import HostileServer, hostile_server

DEADLINE_S = 2.0
KIND = "Content-Type: application/octet-stream"
SIZE = 300_000
# More than is fetched at once for a first read.
LARGE_SIZE = 8 << 20
# What a form of sickness has besides the deadline, and between two bytes of a drip.
LATE_S = DEADLINE_S * 1.5
DRIP_S = 0.1
ROUNDS = 2
# More at once than there are forms, and still fewer than the kernel lets read at once (12, pitfalls.md).
MANY = 10

# Tries again and again, and says when each try began that failed; the one that succeeds ends it.
TRYING = """
import os, sys, time
path, what = sys.argv[2:]
print("ready", flush=True)
while True:
    began = time.monotonic()
    try:
        if what == "listing":
            os.listdir(path)
        elif what == "run":
            os.stat(path)
        else:
            with open(path, "rb", buffering=0) as file:
                while file.read(65536):
                    pass
        break
    except OSError:
        print(began, flush=True)
"""


def silence(server: HostileServer) -> None:
    server.closed.wait()


def late(server: HostileServer) -> None:
    server.closed.wait(LATE_S)


def late_head(server: HostileServer, answer: bytes) -> Iterable[bytes]:
    late(server)
    yield answer


def no_head(server: HostileServer, _answer: bytes) -> Iterable[bytes]:
    silence(server)
    yield b""


def half(server: HostileServer, answer: bytes) -> Iterable[bytes]:
    yield answer[: len(answer) // 2]
    silence(server)


def only_head(server: HostileServer, answer: bytes) -> Iterable[bytes]:
    yield answer[: answer.index(b"\r\n\r\n") + 4]
    silence(server)


def half_a_head(server: HostileServer, answer: bytes) -> Iterable[bytes]:
    yield answer[:20]
    silence(server)


def drip(server: HostileServer, answer: bytes) -> Iterable[bytes]:
    start = answer.index(b"\r\n\r\n") + 4
    yield answer[:start]
    for at in range(start, len(answer)):
        yield answer[at : at + 1]
        if server.closed.wait(DRIP_S):
            return


def fails(_server: HostileServer, _answer: bytes) -> Iterable[bytes]:
    yield ok(b'{"errors":["no"]}', status="500 Internal Server Error")


FORMS = [late_head, no_head, half, only_head, half_a_head, drip, fails]


def sickly(server: HostileServer, how: Callable[[HostileServer, bytes], Iterable[bytes]], good: Answer) -> Answer:
    """Answer as `good` does, but in this way where what is asked for is called `sick`."""

    def answer(asked: Asked) -> Iterator[bytes]:
        whole = b"".join(good(asked))
        if "sick" in asked.target:
            yield from how(server, whole)
        else:
            yield whole

    return answer


def files(sick: Iterable[str]) -> dict[str, bytes]:
    """Return the files of a run: those that are sick, and in every other directory one that is well."""
    good = {f"good{number}/f": bytes([65 + number]) * SIZE for number in range(ROUNDS + 3)}
    return good | dict.fromkeys(sick, b"s" * SIZE)


@pytest.fixture
def patient(tmp_path: object) -> Iterator[Attacked]:
    with attacked(str(tmp_path), "--deadline", f"{DEADLINE_S:g}s", "--prefetch", "off", "-v") as found:
        found.mounted.log.announce("^\\S+ \\S+ WARNING ", optional=True)
        yield found


def next_failure(sick: Holding) -> None:
    """Wait until a try fails that begins from now on."""
    now = time.monotonic()
    while float(sick.line()) < now:
        continue


def trying(patient: Attacked, run_id: int, name: str, what: str) -> "contextlib.AbstractContextManager[Holding]":
    return holding(patient.mounted.python_command(TRYING, patient.mounted.path("runs", run_id, name), what))


def read_well(patient: Attacked, run_id: int, number: int) -> None:
    """Check that a directory and a file that no caller has asked for yet are there at once."""
    done = patient.mounted.sh('ls "$M/runs/$1/good$2" && cat "$M/runs/$1/good$2/f"', run_id, number).ok()
    assert done.out == b"f\n" + bytes([65 + number]) * SIZE


# The other forms of one sick object are simulated: tests/simulated/test_sick_objects.py.
@pytest.mark.parametrize(("what", "how"), [("content", half), ("listing", drip)])
def test_one_sick_object_fails_its_own_readers_only(
    what: str, how: Callable[[HostileServer, bytes], Iterable[bytes]], patient: Attacked
) -> None:
    """5.1: while one program tries one sick object again and again, others get what they ask for, however rarely."""
    server = patient.server
    run_id = server.plant(files=files(["sick/f"]))
    planted = server.of(run_id)
    setattr(planted, what, sickly(server, how, well(planted, what)))
    path = "sick/f" if what == "content" else "sick"
    with trying(patient, run_id, path, what) as sick:
        for number in range(ROUNDS):
            next_failure(sick)
            read_well(patient, run_id, number)


def test_a_sick_object_that_gets_well(patient: Attacked) -> None:
    """5.1: what stalled is read as soon as the service answers it again."""
    server = patient.server
    run_id = server.plant(files=files(["sick/f"]))
    server.of(run_id).content = sickly(server, no_head, well(server.of(run_id), "content"))
    with trying(patient, run_id, "sick/f", "content") as sick:
        next_failure(sick)
        server.heal(run_id)
        sick.go_on()


def test_a_large_file_that_stalls_first(patient: Attacked) -> None:
    """5.1: while it is not known whether ranges are granted, too, a file that stalls keeps no other from being read."""
    server = patient.server
    run_id = server.plant(files={name: bytes(LARGE_SIZE) for name in ("sick", "a", "b")})
    server.of(run_id).content = sickly(server, no_head, well(server.of(run_id), "content"))
    with trying(patient, run_id, "sick", "content") as sick:
        for name in "ab":
            next_failure(sick)
            done = patient.mounted.sh('head -c 5000 "$M/runs/$1/$2"', run_id, name).ok()
            assert done.out == bytes(5000)


def test_a_run_that_stalls(patient: Attacked) -> None:
    """5.1: a run whose own record does not come is a sick object like any."""
    server = patient.server
    stalled, run_id = server.plant(), server.plant(files=files([]))
    planted = server.of(stalled)
    planted.run = lambda _: no_head(server, b"")
    with trying(patient, stalled, "", "run") as sick:
        for number in range(ROUNDS):
            next_failure(sick)
            read_well(patient, run_id, number)


def test_many_sick_objects(patient: Attacked) -> None:
    """5.1: many of all forms, each tried again and again by a program of its own, take nothing from the others."""
    server = patient.server
    hows = list(itertools.islice(itertools.cycle(FORMS), MANY))
    run_id = server.plant(files=files(f"sick{number}/f" for number in range(MANY)))
    planted = server.of(run_id)
    good = well(planted, "content")

    def answer(asked: Asked) -> Iterable[bytes]:
        name = asked.query["artifact_path"]
        if "sick" in name:
            return hows[int(name.partition("sick")[2].partition("/")[0])](server, b"".join(good(asked)))
        return good(asked)

    planted.content = answer
    with contextlib.ExitStack() as stack:
        sick = [stack.enter_context(trying(patient, run_id, f"sick{n}/f", "content")) for n in range(MANY)]
        for number in range(ROUNDS):
            for each in sick[:ROUNDS]:
                next_failure(each)
            read_well(patient, run_id, number)


@pytest.fixture
def storage() -> Iterator[HostileServer]:
    with hostile_server() as server:
        yield server


@pytest.mark.parametrize("how", [no_head, half])
def test_storage_that_stalls(
    how: Callable[[HostileServer, bytes], Iterable[bytes]], patient: Attacked, storage: HostileServer
) -> None:
    """5.1: object storage that does not answer for one file says nothing of the API, nor of other files."""
    server = patient.server
    run_id = server.plant(files=files(["sick/f"]))
    planted = server.of(run_id)
    planted.content = redirected(storage, planted)
    storage.other = sickly(storage, how, stored(planted))
    with trying(patient, run_id, "sick/f", "content") as sick:
        for number in range(ROUNDS):
            next_failure(sick)
            read_well(patient, run_id, number)


def test_storage_that_is_dead(patient: Attacked, storage: HostileServer) -> None:
    """5.1: object storage that answers nothing costs what is stored there, and no listing."""
    server = patient.server
    run_id = server.plant(files=files(["sick/f", "sick2/f", "sick3/f"]))
    planted = server.of(run_id)
    planted.content = redirected(storage, planted)
    storage.other = lambda _: no_head(storage, b"")
    assert patient.mounted.sh('cat "$M/runs/$1"/sick*/f', run_id).code == 1
    for number in range(ROUNDS):
        patient.mounted.sh('ls "$M/runs/$1/good$2"', run_id, number).ok()
    before = len(storage.received)
    done = patient.mounted.sh('cat "$M/runs/$1"/good*/f', run_id)
    assert done.code == 1
    assert len(storage.received) <= before + 1 + done.seconds // 5  # it is waited for no more, but by a probe in 5 s


def redirected(storage: HostileServer, planted: Planted) -> Answer:
    """Answer a request for content with a link to storage, another one each time, as those that are signed."""
    count = itertools.count()

    def answer(asked: Asked) -> Iterator[bytes]:
        name = asked.query["artifact_path"].removeprefix(planted.prefix + "/")
        yield head(
            "302 Found", f"Location: {storage.url}/bucket/{name}?signature={next(count)}", "Content-Length: 0", KIND
        )

    return answer


def stored(planted: Planted) -> Answer:
    """Answer as object storage does."""
    return lambda asked: raw(part(planted.files[asked.path.removeprefix("/bucket/")], asked))(asked)
