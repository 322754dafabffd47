"""Files that change while the emulator serves them: the live script, states that lag, and what they show of it."""

import base64
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from itertools import pairwise

import pytest

from artifactfs.emulator.artifact_tree import CREATED_AT, HISTORY_S, LabError, MemoryTree, moment
from artifactfs.emulator.live import Live, LiveError
from artifactfs.emulator.model import Lab
from tests.unit.test_emulator_middleware import PROJECT, RUN, Api

START_S = 1_000_000.0


class Turned:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Turned:
    return Turned()


@pytest.fixture
def lab(clock: Turned) -> Lab:
    """A lab of one running run with one log of 1,000 bytes."""
    lab = Lab(clock=clock)
    run = lab.create(RUN, PROJECT, status="running")
    assert isinstance(run.tree, MemoryTree)
    run.tree.add("a.log", 1000)
    return lab


def size(lab: Lab, path: str = "a.log", run_id: int = RUN) -> int | None:
    run = lab.run(run_id)
    file = None if run is None else run.tree.find(path)
    return None if file is None else file.size


def read(lab: Lab, path: str = "a.log") -> bytes:
    run = lab.run(RUN)
    assert run is not None
    file = run.tree.find(path)
    assert file is not None
    return b"".join(run.tree.read(path, file, 0, file.size))


def advance(lab: Lab, script: list[dict[str, object]], *after_s: float) -> list[int | None]:
    """Return the sizes of the log at moments after the script's start."""
    live, sizes = Live.parse(script, START_S), []
    for seconds in after_s:
        live.advance(lab, START_S + seconds)
        sizes.append(size(lab))
    return sizes


# --- the script -----------------------------------------------------------------------------------


def test_a_rule_happens_at_its_times_and_no_more_often(lab: Lab) -> None:
    """at_s is the first time, every_s the distance, times the number: however seldom a request comes."""
    rule = {"run": RUN, "path": "a.log", "append": 10, "at_s": 5, "every_s": 2, "times": 3}
    assert advance(lab, [rule], 0, 4.9, 5, 6.9, 7, 100) == [1000, 1000, 1010, 1010, 1020, 1030]


def test_rules_happen_in_the_order_of_their_times(lab: Lab) -> None:
    """What is due by now happens in the order in which it was due, not in the script's."""
    rules: list[dict[str, object]] = [
        {"run": RUN, "path": "a.log", "truncate": 100, "at_s": 3},
        {"run": RUN, "path": "a.log", "append": 10, "at_s": 1, "every_s": 1, "times": 5},
    ]
    assert advance(lab, rules, 10) == [130]  # 3 s: the truncation is the first rule


def test_when_it_is_asked_makes_no_difference(clock: Turned) -> None:
    """The same script makes the same bytes at the same moment, asked a hundred times or once."""
    rules: list[dict[str, object]] = [
        {"run": RUN, "path": "a.log", "append": [1, 1 << 20], "every_s": [0.2, 20]},
        {"run": RUN, "path": "a.log", "replace": [1, 5000], "at_s": 60, "every_s": 60},
        {"run": RUN, "path": "a.log", "truncate": [0, 10000], "at_s": 90, "every_s": [60, 90]},
    ]
    labs = [Lab(clock=clock), Lab(clock=clock)]
    seldom, often = (Live.parse(rules, START_S) for _ in labs)
    for step in range(1, 301):
        often.advance(labs[0], START_S + step)
    seldom.advance(labs[1], START_S + 300)
    assert read(labs[0]) == read(labs[1]) != b""


def test_drawn_numbers_stay_within_their_limits(lab: Lab) -> None:
    """A list of two is the lowest and the highest, and small numbers are as frequent as large ones."""
    sizes = advance(lab, [{"run": RUN, "path": "a.log", "append": [1, 1 << 20], "every_s": 1}], *range(1000))
    known = [1000, *(found for found in sizes if found is not None)]
    steps = [after - before for before, after in pairwise(known)]
    assert min(steps) >= 1
    assert max(steps) <= 1 << 20
    assert 300 < sum(step < 1 << 10 for step in steps) < 700


def test_a_file_and_its_run_begin_with_their_first_rule(lab: Lab) -> None:
    """A rule for a run or a file that is not there makes it; the run is running."""
    Live.parse([{"run": 77, "path": "new/b.log", "append": 7}], START_S).advance(lab, START_S)
    run = lab.run(77)
    assert run is not None
    assert (run.attributes["status"], size(lab, "new/b.log", 77)) == ("running", 7)


def test_text_can_be_appended(lab: Lab) -> None:
    """A string is what is appended, or the new content."""
    rules: list[dict[str, object]] = [
        {"run": RUN, "path": "b.txt", "replace": "one\n"},
        {"run": RUN, "path": "b.txt", "append": "two\n", "every_s": 1, "at_s": 1},
    ]
    Live.parse(rules, START_S).advance(lab, START_S + 2)
    assert read(lab, "b.txt") == b"one\ntwo\ntwo\n"


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ([], "an object"),
        ({"run": 1, "path": "a"}, "one of append, replace, truncate"),
        ({"run": 1, "path": "a", "append": 1, "truncate": 1}, "one of append"),
        ({"run": "1", "path": "a", "append": 1}, "run is the number"),
        ({"run": 1, "path": "", "append": 1}, "path is"),
        ({"run": 1, "path": "a", "append": -1}, "append is 0 or more"),
        ({"run": 1, "path": "a", "append": [2, 1]}, "the lowest first"),
        ({"run": 1, "path": "a", "append": [1, 2, 3]}, "a list of the lowest"),
        ({"run": 1, "path": "a", "truncate": "x"}, "truncate is a number"),
        ({"run": 1, "path": "a", "append": 1, "every_s": 0}, "every_s is 0.001 or more"),
        ({"run": 1, "path": "a", "append": 1, "times": 2}, "times needs every_s"),
        ({"run": 1, "path": "a", "append": 1, "every_s": 1, "times": -1}, "times is a number"),
        ({"run": 1, "path": "a", "append": 1, "evry_s": 1}, "no field 'evry_s'"),
    ],
)
def test_a_wrong_script_is_refused(rule: object, part: str) -> None:
    """The error names the field, and what it may be."""
    with pytest.raises(LiveError, match=part):
        Live.parse([rule], 0.0)


async def test_the_script_runs_by_the_emulators_clock(lab: Lab, clock: Turned) -> None:
    """A script that is set over the control plane counts from then, and each request sees what is due."""
    async with Api(lab) as api:
        rule = {"run": RUN, "path": "a.log", "append": 10, "at_s": 1, "every_s": 1}
        assert (await api.order("live", [rule])).status_code == 200
        assert [row["file_size"] for row in await api.files()] == [1000]
        clock.now_s += 3
        assert [row["file_size"] for row in await api.files()] == [1030]
        clock.now_s += 1
        assert len((await api.content("a.log")).content) == 1040


async def test_a_script_that_cannot_go_on_says_so(lab: Lab) -> None:
    """A rule for a file where a directory is fails the requests, and can be taken back."""
    async with Api(lab) as api:
        await api.order("files", {"run": RUN, "add": {"dir/x": 1}})
        await api.order("live", [{"run": RUN, "path": "dir", "append": 1}])
        answer = await api.get(f"/runs/{RUN}/artifacts")
        assert (answer.status_code, "'dir' is a directory" in answer.text) == (500, True)
        assert (await api.order("live", [])).status_code == 200
        assert (await api.get(f"/runs/{RUN}/artifacts")).status_code == 200


# --- changes of content ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a.log", "b.bin", "c.jsonl"])
def test_what_follows_a_truncation_differs_from_what_was_there(path: str) -> None:
    """A file that is cut keeps its first bytes; grown to its old size again it has other ones behind them."""
    tree = MemoryTree("test")
    tree.add(path, 3000)

    def content() -> bytes:
        file = tree.find(path)
        assert file is not None
        return b"".join(tree.read(path, file, 0, file.size))

    old = content()
    for kept in (1000, 2000, 500):
        tree.truncate(path, kept)
        cut = content()
        assert cut == old[:kept] if kept == 1000 else len(cut) == kept
        tree.append(path, 3000 - kept)
        grown = content()
        assert grown.startswith(cut)
        assert grown != old
        assert len(grown) == 3000
        old = grown


def test_any_span_of_a_cut_file_is_a_slice_of_it() -> None:
    """Ranges across what truncations left are right."""
    tree = MemoryTree("test")
    tree.add("a.bin", 3000)
    for kept in (2000, 1000):
        tree.append("a.bin", 100)
        tree.truncate("a.bin", kept)
    tree.append("a.bin", 5000)
    file = tree.find("a.bin")
    assert file is not None
    whole = b"".join(tree.read("a.bin", file, 0, file.size))
    for start, end in ((0, 10), (990, 1010), (999, 1000), (1000, 1001), (500, 6000), (5999, 6000)):
        assert b"".join(tree.read("a.bin", file, start, end)) == whole[start:end]


def test_a_former_state_keeps_its_bytes() -> None:
    """An answer under way goes on with the state that it began with, whatever happens to the file."""
    tree = MemoryTree("test")
    tree.add("a.bin", text=b"hello")
    states = [tree.find("a.bin")]
    for change in ("append world", "truncate", "append y"):
        if change == "truncate":
            tree.truncate("a.bin", 2)
        else:
            tree.append("a.bin", change.removeprefix("append").encode())
        states.append(tree.find("a.bin"))
    contents = [b"".join(tree.read("a.bin", file, 0, file.size)) for file in states if file is not None]
    assert contents == [b"hello", b"hello world", b"he", b"he y"]


def test_states_are_forgotten_in_time(clock: Turned) -> None:
    """Of a file that changes for ever, only the states of the last minute are kept."""
    tree = MemoryTree("test", clock=clock)
    tree.add("a.bin", 1)
    for _ in range(1000):
        clock.now_s += 1
        tree.append("a.bin", 1)
    state, count = tree.find("a.bin"), 0
    while state is not None:
        state, count = state.before, count + 1
    assert count <= HISTORY_S + 2


@pytest.mark.parametrize(("path", "change"), [("a.log", 2000), ("none", 0)])
def test_an_impossible_truncation_is_refused(lab: Lab, path: str, change: int) -> None:
    """A file cannot be cut to more than it has."""
    run = lab.run(RUN)
    assert run is not None
    assert isinstance(run.tree, MemoryTree)
    with pytest.raises(LabError):
        run.tree.truncate(path, change)


async def test_bytes_travel_as_base64(lab: Lab) -> None:
    """What no JSON string holds is given in base64: content, and what is appended."""
    async with Api(lab) as api:
        for change in ("add", "append"):
            data = {"base64": base64.b64encode(b"\xff\0\n").decode()}
            assert (await api.order("files", {"run": RUN, change: {"raw.bin": data}})).status_code == 200
        assert (await api.content("raw.bin")).content == b"\xff\0\n\xff\0\n"
        wrong = await api.order("files", {"run": RUN, "append": {"raw.bin": {"base64": "?"}}})
        assert wrong.status_code == 400


# --- what is shown of a change --------------------------------------------------------------------


@pytest.mark.parametrize("change", ["append", "replace", "truncate"])
async def test_a_listing_can_lag_behind_the_content(lab: Lab, clock: Turned, change: str) -> None:
    """listing_lag_s: listing and index show the size of so many seconds ago, the content is the present one."""
    async with Api(lab, listing_lag_s=3) as api:
        await api.order("live", [{"run": RUN, "path": "a.log", change: 500, "at_s": 10}])
        for after_s, listed, served in ((9, False, False), (11, False, True), (12.9, False, True), (13, True, True)):
            clock.now_s = START_S + after_s
            rows = (await api.get(f"/projects/{PROJECT}/artifacts")).json()["data"]["attributes"]["files"]
            changed = {"append": 1500}.get(change, 500)
            sizes = {row["file_size"] for row in (*rows, *await api.files())}
            assert sizes == {changed if listed else 1000}
            assert len((await api.content("a.log")).content) == (changed if served else 1000)


async def test_a_listing_can_run_ahead_of_the_content(lab: Lab, clock: Turned) -> None:
    """content_lag_s: the content is that of so many seconds ago, ranges beyond its end included."""
    async with Api(lab, content_lag_s=3, etag="strong") as api:
        old = await api.content("a.log")
        await api.order("live", [{"run": RUN, "path": "a.log", "append": 500}])
        clock.now_s += 2
        assert [row["file_size"] for row in await api.files()] == [1500]
        assert (await api.content("a.log", "bytes=1000-1499")).status_code == 416
        assert (await api.content("a.log")).headers["etag"] == old.headers["etag"]
        clock.now_s += 1
        assert (await api.content("a.log", "bytes=1000-1499")).status_code == 206


async def test_validators_change_with_each_change_of_content(lab: Lab) -> None:
    """ETag and Last-Modified are others after an append, a truncation, and a replacement by as many bytes."""
    async with Api(lab, etag="strong", last_modified=True) as api:
        seen = []
        changes: list[Mapping[str, object]] = [{}, {"append": {"a.log": 1}}, {"truncate": {"a.log": 1000}}]
        for change in (*changes, {"change": {"a.log": {}}}):
            await api.order("files", {"run": RUN, **change})
            head = (await api.content("a.log")).headers
            seen.append((head["etag"], parsedate_to_datetime(head["last-modified"])))
        assert len({tag for tag, _ in seen}) == 4
        assert [(at - moment(CREATED_AT)).total_seconds() for _, at in seen] == [0, 1, 2, 3]


@pytest.mark.parametrize(("form", "shown"), [("kept", CREATED_AT), ("moves", "2026-05-16T09:00:02Z")])
async def test_the_time_in_the_index_moves_or_stays(lab: Lab, form: str, shown: str) -> None:
    """created_at: whether the time that the index tells of a file changes with its content."""
    async with Api(lab, created_at=form) as api:
        for _ in range(2):
            await api.order("files", {"run": RUN, "append": {"a.log": 1}})
        rows = (await api.get(f"/projects/{PROJECT}/artifacts")).json()["data"]["attributes"]["files"]
        assert [row["created_at"] for row in rows] == [shown]
