"""artifactfs.modellab.client and the emulator in process: forms of a server, learned at one extra request at most."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.emulator.app import create_app
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Lab
from artifactfs.emulator.switches import Switches
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.client import ModelLab
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from tests.unit.test_client import connect

RUN = 7
KEYS = Credentials(Secret("demo-api-key"), Secret("demo-app-key"))
# What is in the run: by directory, names to sizes (None: a directory).
TRUTH: dict[str, dict[bytes, int | None]] = {
    "": {b"dir": None, b"dir.txt": 30, b"dirx": None, b"other": None, b"zero.bin": 0, "é%20 +#&?".encode(): None},
    "dir": {b"a.txt": 10, b"sub": None, b"other.txt": 4},
    "dir/sub": {b"b.bin": 20, b"deep": None},
    "dir/sub/deep": {b"c": 1},
    "dirx": {b"c.txt": 40},
    "other": {b"dir": None},
    "other/dir": {b"a": 1, b"x": 2},
    "é%20 +#&?": {b"100%25": 3},
}


def lab() -> Lab:
    made, tree = Lab(), MemoryTree("test")
    for directory, names in TRUTH.items():
        for name, size in names.items():
            if size is not None:
                tree.add(f"{directory}/{name.decode()}" if directory else name.decode(), size)
    made.create(RUN, 10, tree)
    return made


class Connected:
    """A client, and the emulator that it asks."""

    def __init__(
        self, script: object = (), keys: Credentials = KEYS, policy: RetryPolicy | None = None, **switches: Any
    ) -> None:
        parsed = Script.parse(list(script) if isinstance(script, tuple) else script)
        app = create_app(lab(), Switches().changed(switches), script=parsed)
        self.emulator: Emulator = app.state.emulator
        sender = Transport(
            "http://127.0.0.1",
            keys,
            clock=trio.current_time,
            transport=httpx.ASGITransport(app=app),
            retry_policy=policy,
        )
        self.client = ModelLab(sender, deadline_s=30.0)

    async def children(self, path: str) -> dict[bytes, int | None]:
        found = await self.client.list_directory(RUN, path)
        return {child.name: None if child.is_dir else child.size_bytes for child in found.children.by_name.values()}

    async def walk(self, path: str = "") -> dict[str, dict[bytes, int | None]]:
        """List everything from a directory on, parents first."""
        found: dict[str, dict[bytes, int | None]] = {}
        todo = [path]
        while todo:
            at = todo.pop(0)
            listing = await self.client.list_directory(RUN, at)
            children = listing.children.by_name.values()
            found[at] = {child.name: None if child.is_dir else child.size_bytes for child in children}
            todo += [f"{at}/{c.name.decode()}" if at else c.name.decode() for c in children if c.is_dir]
        return found

    def asked(self) -> list[str]:
        """The `path` of each listing since the last look."""
        log: object = self.emulator.stats.told()["log"]
        assert isinstance(log, list)
        self.emulator.stats.reset()
        return [entry["args"].get("path", "") for entry in log if entry["kind"] == "listing"]


def combinations() -> Iterator[dict[str, Any]]:
    """Every combination of the switches that shape a run's listing, except those that leave no sign of a directory."""
    forms: dict[str, tuple[object, ...]] = {
        "slash": ("any", "required", "refused"), "base": ("root", "relative"), "depth": ("one", "recursive"),
        "dir_slash": (True, False), "dir_flag": (True, False), "dir_rows": (True, False),
        "self_marker": ("none", "slash", "bare"),
    }  # fmt: skip
    for values in product(*forms.values()):
        form = dict(zip(forms, values, strict=True))
        if not (form["dir_slash"] or form["dir_flag"]) or (form["depth"] == "one" and not form["dir_rows"]):
            continue
        # Relative to the directory, a bare marker is a zero-byte file of that name: no caller could tell.
        if form["base"] == "relative" and form["self_marker"] == "bare":
            continue
        # A raw prefix search, relative to the parent, all levels at once, without a slash anywhere: the answer to `dir`
        # looks like its children, so that no request asks for `dir/`.
        raw = (form["slash"], form["base"], form["depth"]) == ("required", "relative", "recursive")
        if raw and not form["dir_slash"] and form["dir_rows"]:
            continue
        yield form


async def test_every_form_of_a_server_shows_the_same_tree(autojump_clock: MockClock) -> None:
    """1.1, forms 1 to 5: whatever the server's form, a walk shows the run, at one request a directory, and one.

    Where paths are relative to the directory, one more: the first such answer is compared with the root.
    """
    for form in combinations():
        server = Connected((), KEYS, **form)
        assert await server.walk() == TRUTH, form
        assert len(server.asked()) <= len(TRUTH) + 1 + (form["base"] == "relative"), form


@pytest.mark.parametrize(("wants", "wrong"), [("required", False), ("refused", True)])
async def test_learning_the_slash_costs_one_request_once(wants: str, wrong: bool, autojump_clock: MockClock) -> None:
    """Form 1: an empty or echoing answer is retried in the other form once; what this server wants is remembered.

    A directory is asked for first in the form that the server itself writes.
    """
    server = Connected(slash=wants, dir_slash=wrong)
    await server.children("")
    server.asked()
    first, second = ("dir/", "dir") if wrong else ("dir", "dir/")
    assert await server.children("dir") == TRUTH["dir"]
    assert server.asked() == [first, second]
    assert await server.children("dir/sub") == TRUTH["dir/sub"]
    assert await server.children("other") == TRUTH["other"]
    assert server.asked() == ["dir/sub" + second[3:], "other" + second[3:]]


@pytest.mark.parametrize("form", ["slash", "dot_slash", "mixed"])
async def test_what_stands_in_front_of_paths(form: str, autojump_clock: MockClock) -> None:
    """1.3, form 3: `/` and `./` in front of paths, in any mixture, change nothing, in whatever form the rest is."""
    for rest in product(("any", "required", "refused"), ("root", "relative"), ("one", "recursive"), (True, False)):
        switches: dict[str, Any] = dict(zip(("slash", "base", "depth", "dir_slash"), rest, strict=True))
        if rest == ("required", "relative", "recursive", False):
            continue  # see `combinations`
        server = Connected((), KEYS, path_start=form, **switches)
        assert await server.walk() == TRUTH, switches
        # It is asked as documented, without; and nothing is tried that was not needed.
        asked = server.asked()
        assert not any(path.startswith(("/", "./")) for path in asked), switches
        assert len(asked) <= len(TRUTH) + 1 + (switches["base"] == "relative"), switches


@pytest.mark.parametrize("lead", ["/", "./", "//"])
@pytest.mark.parametrize("wants_slash", [True, False])
@pytest.mark.parametrize("status", [200, 400, 404])
async def test_a_server_that_wants_its_own_string(
    lead: str, wants_slash: bool, status: int, autojump_clock: MockClock
) -> None:
    """1.3, form 1: object storage whose keys begin so knows them by no other name: found out once, then remembered."""
    rows = {"": ["dir/", "top"], "dir": ["dir/sub/", "dir/f"], "dir/sub": ["dir/sub/g"]}
    known = {"": ""} | {f"{lead}{path}{'/' * wants_slash}": path for path in rows if path}

    def handler(request: httpx.Request) -> httpx.Response:
        found = known.get(request.url.params.get("path", ""))
        if found is None and status != 200:
            return httpx.Response(status)
        files = [{"path": lead + path, "is_dir": path.endswith("/")} for path in rows.get(found or "?", [])]
        files = files if found else [{"path": lead + path, "is_dir": path.endswith("/")} for path in rows[""]]
        attributes = {"files": files if found is not None else [], "path_in_project": "p"}
        return httpx.Response(200, json={"data": {"attributes": attributes}})

    lab, server = connect(handler)
    for path, names in (("", [b"dir", b"top"]), ("dir", [b"sub", b"f"]), ("dir/sub", [b"g"]), ("dir", [b"sub", b"f"])):
        found = await lab.list_directory(RUN, path)
        assert list(found.children.by_name) == names
    assert len(server.requests) == 4 + (2 if wants_slash else 3)


@pytest.mark.parametrize("status", ["400", "404"])
async def test_the_other_form_may_be_the_known_one(status: str, autojump_clock: MockClock) -> None:
    """Forms 1 and 7: a server that refuses the form that it does not know with an error is asked in the other, once."""
    script = [{"match": {"kind": "listing", "query_contains": "dir%2F"}, "then": {"status": int(status)}}]
    server = Connected(script)
    assert await server.children("dir") == TRUTH["dir"]
    assert server.asked() == ["dir/", "dir"]


async def test_once_learned_an_error_is_an_error(autojump_clock: MockClock) -> None:
    """Form 7: on a server whose form is known, a 404 is that directory's, at one request."""
    server = Connected(path_missing="404")
    await server.children("")
    await server.children("dir")
    server.asked()
    with pytest.raises(errors.NotFound):
        await server.children("nothing")
    assert server.asked() == ["nothing/"]


async def test_a_directory_that_is_in_neither_form(autojump_clock: MockClock) -> None:
    """Forms 1 and 7: while nothing is known, a directory that is gone costs two requests and is NotFound."""
    server = Connected(path_missing="404")
    await server.children("")
    server.asked()
    with pytest.raises(errors.NotFound):
        await server.children("nothing")
    assert server.asked() == ["nothing/", "nothing"]


async def test_an_empty_directory_teaches_nothing(autojump_clock: MockClock) -> None:
    """Form 1: an empty directory is empty in both forms: the next one that is not decides."""
    server = Connected(slash="required", dir_slash=False)
    run = server.emulator.lab.run(RUN)
    assert run is not None
    assert isinstance(run.tree, MemoryTree)
    run.tree.mkdir("empty")
    await server.children("")
    assert await server.children("empty") == {}
    assert await server.children("dir") == TRUTH["dir"]
    server.asked()
    assert await server.children("empty") == {}
    assert server.asked() == ["empty/"]


@pytest.mark.parametrize("form", ["int", "string", "null", "absent", "null_when_zero", "absent_when_zero"])
async def test_sizes_in_every_form(form: str, autojump_clock: MockClock) -> None:
    """2.2, form 5: numbers, text, null, absent: known or unknown, never wrong."""
    found = await Connected(size_form=form).client.list_directory(RUN, "")
    sizes = {name: child.size_bytes for name, child in found.children.by_name.items() if not child.is_dir}
    if form in ("null", "absent"):
        assert sizes == {b"dir.txt": None, b"zero.bin": None}
    else:
        assert sizes == {b"dir.txt": 30, b"zero.bin": None if "zero" in form else 0}


@pytest.mark.parametrize("form", ["list", "null", "absent"])
async def test_an_empty_run_in_every_form(form: str, autojump_clock: MockClock) -> None:
    """Form 6: `files` absent or null is an empty listing."""
    server = Connected(empty_form=form)
    server.emulator.lab.create(8, 10)
    found = await server.client.list_directory(8, "")
    assert found.children.by_name == {}
    assert found.path_in_project


async def test_unknown_fields_and_null_params(autojump_clock: MockClock) -> None:
    """All of it is a preview: what the documentation leaves out changes nothing."""
    server = Connected(extra_fields=True, null_params=True)
    assert await server.walk() == TRUTH
    run = await server.client.get_run(RUN)
    assert (run.run_id, run.project_id, run.status) == (RUN, "10", "completed")
    assert [found.run_id for found in await server.client.list_runs(10)] == [RUN]


@pytest.mark.parametrize("form", ["object", "strings", "title_only", "html", "empty", "nonsense"])
async def test_errors_in_every_form(form: str, autojump_clock: MockClock) -> None:
    """5.3: an error is reported by its status, whatever its body."""
    with pytest.raises(errors.NotFound):
        await Connected(error_form=form).client.get_run(99)
    wrong = Credentials(Secret("wrong"), Secret("keys"))
    with pytest.raises(errors.AccessDenied):
        await Connected(error_form=form, keys=wrong).client.check_keys()


async def test_keys_are_checked_with_one_cheap_call(autojump_clock: MockClock) -> None:
    """5.8: right keys pass at the cost of one row; an access token does as well."""
    server = Connected()
    await server.client.check_keys()
    assert server.emulator.stats.told()["requests"] == {"runs": 1}
    await Connected(keys=Credentials(access_token=Secret("demo-access-token"))).client.check_keys()


async def test_a_login_page_is_not_a_model_lab(autojump_clock: MockClock) -> None:
    """Form 13: 200 with HTML is UnexpectedAnswer for every call."""
    server = Connected([{"match": {}, "then": {"html": True}}])
    for call in (server.client.check_keys, lambda: server.client.get_run(RUN), lambda: server.children("")):
        with pytest.raises(errors.UnexpectedAnswer):
            await call()


async def test_a_server_that_recovers(autojump_clock: MockClock) -> None:
    """5.3: two 503s and a rate limit of 3 s on the way to an answer cost time, not the answer."""
    limit = {"reset_s": 3, "period": 60}
    rules = [
        {"match": {}, "then": {"status": 503}, "times": 2},
        {"match": {}, "then": {"rate_limit": limit}, "times": 1},
    ]
    server = Connected(rules, policy=RetryPolicy(backoff_s=lambda _attempt: 1.0))
    assert await server.children("") == TRUTH[""]
    assert trio.current_time() == pytest.approx(5)
    assert len(server.asked()) == 4


async def test_a_stalled_server(autojump_clock: MockClock) -> None:
    """5.1: accepted and never answered: TimedOut at the deadline."""
    server = Connected([{"match": {}, "then": {"stall": True}}])
    with pytest.raises(errors.TimedOut):
        await server.children("")
    assert trio.current_time() == pytest.approx(30)
