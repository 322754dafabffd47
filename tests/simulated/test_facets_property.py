"""Runs by facets, from the tree to a server that is not the emulator, against what is obviously meant (1.7 to 1.9).

Random runs of one project among others; each filter of the server is honoured, ignored, refused or failing; facets are
right, empty, failing, or in another form. Shown is a part of the truth, in order, no run twice; and all of it where the
project has no more runs than are listed, and the server lets it be seen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab.client import ModelLab
from artifactfs.tree.nodes import FacetDir, GeneratedFile, Node, Symlink
from artifactfs.tree.safe_names import facet_name
from artifactfs.tree.tree import Tree
from tests.unit.test_client import connect

Way = Literal["honoured", "ignored", "400", "404", "500"]
REFUSED = ("400", "404", "500")
PROJECT = 10
OWNERS = ["1d45ac49-1e4e-11f1-8c3a-42221ed6388d", "7c9e6679-7425-40de-944b-e07fc1f90ae7"]
KEYS = ["lr", "a/b", "k:k", "", "x" * 300]
VALUES = ["0.1", "1e-3", "a/b", "a,b", "a:b", "", ">1", "é", ".x", "a\nb", "y" * 300]
STATUSES = ["completed", "failed", "running"]
WORDS = ["lora", "base", "Lora/base"]


@dataclass(frozen=True)
class Made:
    """A run of the server. `hides`: whether its row in a list has null for parameters and tags."""

    run_id: int
    project: int
    status: str
    name: str
    owner: str
    parent: int
    params: dict[str, str]
    tags: dict[str, str]
    hides: bool

    def row(self) -> dict[str, Any]:
        shown = [
            None if self.hides else [{"key": key, "value": value} for key, value in pairs.items()]
            for pairs in (self.params, self.tags)
        ]
        attributes = {
            "project_id": self.project, "status": self.status, "name": self.name, "owner_id": self.owner,
            "updated_at": f"2026-05-16T09:00:{self.run_id % 60:02d}Z", "params": shown[0], "tags": shown[1],
        }  # fmt: skip
        return {"id": str(self.run_id), "type": "runs", "attributes": attributes}


@dataclass(frozen=True)
class Choice:
    """A thing that is chosen: a kind, a key for tags and parameters, and a value."""

    kind: str
    key: str
    value: str

    def holds(self, run: Made) -> bool:
        if self.kind == "status":
            return run.status == self.value
        if self.kind == "owner":
            return run.owner == self.value
        if self.kind == "parent":
            return run.parent == (0 if self.value == "none" else int(self.value))
        pairs = run.params if self.kind == "parameter" else run.tags
        if self.kind == "parameter" and self.value == ">0.01":
            return pairs.get(self.key) == "0.1"
        return pairs.get(self.key) == self.value

    @property
    def filter(self) -> str:
        names = {
            "status": "status",
            "owner": "owner_id",
            "parent": "parent_run_id",
            "tag": "tags",
            "parameter": "params",
        }
        return f"filter[{names[self.kind]}]"

    @property
    def can_be_sent(self) -> bool:
        """Whether the documented form has a way to write it."""
        if self.kind not in ("tag", "parameter"):
            return True
        odd = self.kind == "parameter" and self.value.startswith(">") and self.value != ">0.01"
        return bool(self.key) and not ({":", ","} & {*self.key}) and "," not in self.value and not odd

    @property
    def path(self) -> list[bytes]:
        key = [facet_name(self.key)] if self.kind in ("tag", "parameter") else []
        value = self.value.encode() if self.value == ">0.01" else facet_name(self.value)
        return [b".by", self.kind.encode(), *key, value]


@dataclass
class Foreign:
    """A server. `ways`: what becomes of each filter; `facets`: how the facets are answered."""

    runs: list[Made]
    ways: dict[str, Way]
    facets: str
    queries: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        self.queries.append(query)
        if request.url.path.endswith("/runs"):
            return self._list(query)
        if "facet" in request.url.path:
            return self._facets(request.url.path, query)
        if "/projects/" in request.url.path:
            return answer({"data": {"id": str(PROJECT), "type": "projects", "attributes": {"name": "p"}}})
        return httpx.Response(404, json={"errors": ["no"]})

    def _list(self, query: dict[str, str]) -> httpx.Response:
        found = sorted(self.runs, key=lambda run: -run.run_id)
        for name, text in query.items():
            way = self.ways.get(name, "honoured")
            if not name.startswith("filter") or way == "ignored":
                continue
            if way != "honoured":
                return httpx.Response(int(way), json={"errors": [{"title": "Generic Error", "detail": "no"}]})
            found = [run for run in found if all(self._is(run, name, each) for each in text.split(","))]
        size, number = int(query.get("page[size]", "25")), int(query.get("page[number]", "0"))
        page = {"number": number, "size": size, "total": len(found)}
        rows = [run.row() for run in found[number * size : (number + 1) * size]]
        return answer({"data": rows, "meta": {"page": page}})

    @staticmethod
    def _is(run: Made, name: str, text: str) -> bool:
        key, _, value = text.partition(":")
        if name == "filter[project_id]":
            return str(run.project) == text
        if name == "filter[parent_run_id]":
            return run.parent == (0 if text == "null" else int(text))
        if name == "filter[params]" and value.startswith(">"):
            return run.params.get(key) == "0.1"
        plain = {"filter[status]": run.status, "filter[owner_id]": run.owner}
        if name in plain:
            return plain[name] == text
        return (run.tags if name == "filter[tags]" else run.params).get(key) == value

    def _facets(self, path: str, query: dict[str, str]) -> httpx.Response:
        if self.facets in ("400", "404", "500"):
            return httpx.Response(int(self.facets), json={"errors": ["no"]})
        mine = [run for run in self.runs if run.project == PROJECT]
        if path.endswith("/facet-keys"):
            keys = {
                "parameters": sorted({key for run in mine for key in run.params}),
                "tags": sorted({key for run in mine for key in run.tags}),
            }
            return answer(
                {"data": {"id": "1", "type": "facet_keys", "attributes": {k: self._form(v) for k, v in keys.items()}}}
            )
        pairs = [run.params if query["facet_type"] == "parameter" else run.tags for run in mine]
        values = sorted({each[query["facet_name"]] for each in pairs if query["facet_name"] in each})
        return answer({"data": {"id": "1", "type": "facet_values", "attributes": {"values": self._form(values)}}})

    def _form(self, texts: Sequence[str]) -> object:
        forms = {
            "right": texts,
            "objects": [{"value": text} for text in texts],
            "empty": [],
            "null": None,
            "some": texts[::2],
        }
        return forms[self.facets]


def answer(body: object) -> httpx.Response:
    return httpx.Response(200, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


def pairs() -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)


RUNS = st.lists(
    st.builds(
        Made, st.just(0), st.sampled_from([PROJECT, PROJECT, PROJECT, 11]), st.sampled_from(STATUSES),
        st.sampled_from(WORDS), st.sampled_from(OWNERS), st.sampled_from([0, 0, 1, 2]), pairs(), pairs(),
        st.sampled_from([True, *[False] * 5]),
    ),
    max_size=12,
).map(lambda runs: [replace(run, run_id=number) for number, run in enumerate(runs, start=1)])  # fmt: skip
CHOICES = st.lists(
    st.one_of(
        st.builds(Choice, st.sampled_from(["tag", "parameter"]), st.sampled_from(KEYS), st.sampled_from(VALUES)),
        st.builds(Choice, st.just("parameter"), st.sampled_from(KEYS), st.just(">0.01")),
        st.builds(Choice, st.just("status"), st.just(""), st.sampled_from(STATUSES)),
        st.builds(Choice, st.just("owner"), st.just(""), st.sampled_from(OWNERS)),
        st.builds(Choice, st.just("parent"), st.just(""), st.sampled_from(["none", "1", "2"])),
    ),
    min_size=1, max_size=3, unique_by=lambda each: (each.kind, each.key),
)  # fmt: skip
NAMES = [
    "filter[project_id]",
    "filter[status]",
    "filter[owner_id]",
    "filter[parent_run_id]",
    "filter[tags]",
    "filter[params]",
]
WAYS = st.fixed_dictionaries(
    {
        name: st.sampled_from(["honoured", "honoured", "ignored"] + ([*REFUSED] if "project" not in name else []))
        for name in NAMES
    }
)


async def links(tree: Tree, path: Sequence[bytes]) -> list[int] | None:
    """Return the runs that a path leads to; None where it is not there."""
    node: Node = tree.root
    try:
        for name in path:
            node = (await tree.lookup(node, name)).node
        contents = await tree.contents(node)
    except errors.NoSuchEntry:
        return None
    assert isinstance(node, FacetDir)
    names = [entry.name for entry in contents.entries]
    assert len(set(names)) == len(names)
    found = [int(name.rpartition(b"~")[2]) for name in names if b"~" in name]
    for name in names:
        link = contents.node_of(next(entry for entry in contents.entries if entry.name == name))
        assert isinstance(link, Symlink)
        if name.startswith(b"latest"):
            assert int(link.target.rpartition(b"/")[2]) in found
    return found


def check(server: Foreign, choices: Sequence[Choice], listed: int, found: list[int] | None) -> None:
    mine = [run for run in sorted(server.runs, key=lambda run: -run.run_id) if run.project == PROJECT]
    truth = [run for run in mine if all(choice.holds(run) for choice in choices)]
    # Of a filter that is not sent, or not honoured, the row must tell.
    bad = {choice for choice in choices if not choice.can_be_sent or server.ways[choice.filter] != "honoured"}
    refused = any(server.ways[choice.filter] in REFUSED for choice in choices if choice.can_be_sent)
    open_choices = {*choices} if refused else bad
    kinds = {choice.filter for choice in open_choices}
    open_choices |= {choice for choice in choices if choice.filter in kinds}
    telling = [
        run
        for run in truth
        if not any(
            choice.kind == "parent" or (run.hides and choice.kind in ("tag", "parameter")) for choice in open_choices
        )
    ]
    shown = found or []
    assert shown == sorted(set(shown), reverse=True)
    assert set(shown) <= {run.run_id for run in truth}
    assert len(shown) <= listed
    # A key is found if facets or rows name it.
    if found is None and (server.facets == "some" or any(run.hides for run in mine)):
        return
    if len(server.runs) <= listed:
        assert {run.run_id for run in telling} <= set(shown)
    if not bad and not refused and server.ways["filter[project_id]"] == "honoured":
        assert shown == [run.run_id for run in truth][:listed]


@settings(deadline=None)
@given(
    RUNS,
    RUNS,
    CHOICES,
    WAYS,
    st.sampled_from(["right", "objects", "empty", "null", "some", "400", "404", "500"]),
    st.sampled_from([4, 200]),
)
def test_what_is_shown_is_what_is_meant(
    runs: list[Made], later: list[Made], choices: list[Choice], ways: dict[str, Way], facets: str, listed: int
) -> None:
    """1.7: whatever the server makes of filters, before a change and after it, once it was refreshed (3.3)."""
    server = Foreign(runs, ways, facets)
    path = [b"projects", b"%d" % PROJECT, *(name for choice in choices for name in choice.path)]
    fails = any(choice.kind == "parent" for choice in choices) and any(
        ways[choice.filter] in REFUSED for choice in choices if choice.can_be_sent
    )

    async def look() -> None:
        lab: ModelLab = connect(server)[0]
        async with trio.open_nursery() as nursery:
            tree = Tree(lab, site="t", nursery=nursery, clock=trio.current_time, runs_listed=listed)
            for now in (runs, later):
                server.runs = now
                tree.mark_all_stale()
                try:
                    found = await links(tree, path)
                except (errors.BadRequest, errors.ServerFailed):
                    assert fails
                else:
                    check(server, choices, listed, found)
                await trio.sleep(100)
            node: Node = tree.root
            for name in (b"projects", b"%d" % PROJECT, b"runs.jsonl"):
                node = (await tree.lookup(node, name)).node
            table = node
            assert isinstance(table, GeneratedFile)
            rows = [json.loads(line)["id"] for line in tree.contents_of(table).splitlines()]
            mine = [run.run_id for run in sorted(later, key=lambda run: -run.run_id) if run.project == PROJECT]
            assert rows == mine[: len(rows)]
            nursery.cancel_scope.cancel()

    trio.run(look, clock=MockClock(autojump_threshold=0))


def test_a_large_organisation() -> None:
    """1.7, 7: of 70,000 runs in a project, while rows move between pages: those of a choice, each once."""
    runs = [
        Made(
            number, PROJECT, "completed", "lora", OWNERS[0], 0, {"lr": str(number % 5000)}, {"team": "a/b"}, hides=False
        )
        for number in range(1, 70_001)
    ]
    server = Foreign(runs, dict.fromkeys(NAMES, "honoured"), "right")

    def moving(request: httpx.Request) -> httpx.Response:
        found = server(request)
        # Another run is the newest by now: the last row of each page comes again on the next.
        if request.url.path.endswith("/runs"):
            server.runs.append(replace(server.runs[-1], run_id=server.runs[-1].run_id + 1))
        return found

    async def look() -> None:
        lab = connect(moving)[0]
        async with trio.open_nursery() as nursery:
            tree = Tree(lab, site="t", nursery=nursery, clock=trio.current_time)
            found = await links(tree, [b"projects", b"10", b".by", b"tag", b"team", facet_name("a/b")])
            assert found is not None
            assert found == sorted(set(found), reverse=True)
            assert len(found) >= 199
            assert [query for query in server.queries if "sort" in query and "filter[tags]" in query] != []
            server.queries.clear()
            found = await links(tree, [b"projects", b"10", b".by", b"parameter", b"lr", b"77"])
            assert found == [number for number in range(70_000, 0, -1) if number % 5000 == 77]
            assert [query.get("filter[params]") for query in server.queries if "sort" in query] == ["lr:77"]
            nursery.cancel_scope.cancel()

    trio.run(look, clock=MockClock(autojump_threshold=0))
