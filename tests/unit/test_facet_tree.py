"""artifactfs.tree.facet_tree: runs by facets, and what each look costs (docs/semantics.md 1.7, 1.9 and 7)."""

import logging
from unittest.mock import Mock

import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.domain import FacetKeys, ParamTest, Project, RunFilter
from artifactfs.tree import facet_tree
from artifactfs.tree.nodes import FacetDir, GeneratedFile, Node, Symlink
from artifactfs.tree.safe_names import facet_name
from artifactfs.tree.tree import Tree
from tests import fakes
from tests.fakes import NOW_NS, FakeService, TurnedClock, described, run

OWNER = "1d45ac49-1e4e-11f1-8c3a-42221ed6388d"
FIELDS = {"parameter": "params", "tag": "tags"}
# Values that are no names, or that look like other names.
AWKWARD = [
    "a/b", "a_b", "a,b", "a:b", "", " ", ".", "..", ".hidden", "<1", ">1", "><", "a\nb", "a\x1bb", "a\x00b", "ä",
    "x" * 255, "x" * 256, "x" * 5000, "é" * 127 + "x", "é" * 128, "a/b~0123456789", "a_b~0123456789", "~", "none", "by",
    "a\u202eb", "-", "*", "1e-05", "True", "日本", "a\\b", "'", "a b ", "\u2028", "a\u0308",
]  # fmt: skip


@pytest.fixture
def service() -> FakeService:
    """A project of four runs: 1 completed, 2 and 3 failed, 4 a child of 1."""
    service = FakeService(
        runs={
            1: run(1, "completed", name="base"),
            2: run(2, "failed", name="odd"),
            3: run(3, "failed", name="odd"),
            4: run(4, name="child"),
        },
        catalogue={10: Project(10, "vision", NOW_NS)},
        parents={4: 1},
        facets={10: FacetKeys(("lr", "opt"), ("team",))},
        facet_texts={(10, "parameter", "lr"): ("0.1", "0.001"), (10, "tag", "team"): ("a/b", "a_b")},
    )
    made = {
        1: described(service.runs[1], params={"lr": "0.1"}, tags={"team": "a/b"}, has_children=True, owner_id=OWNER),
        2: described(service.runs[2], params={"lr": "0.001", "opt": "sgd"}, tags={"team": "a_b"}),
        3: described(service.runs[3], params={"lr": "0.1"}, tags={"team": "a/b"}),
        4: described(service.runs[4], params={"lr": "nan"}),
    }
    service.details = made
    return service


@pytest.fixture
async def tree(service: FakeService, nursery: trio.Nursery) -> Tree:
    return Tree(service, site="test", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS)


async def walk(tree: Tree, path: str) -> Node:
    """Return a node by its path; `by` is followed."""
    return await fakes.walk(tree, "/".join(".by" if name == "by" else name for name in path.split("/")))


async def shown(tree: Tree, path: str) -> list[str]:
    return [entry.name.decode() for entry in (await tree.contents(await walk(tree, path))).entries]


async def runs(tree: Tree, path: str) -> list[int]:
    """Return the ids of the runs that a directory links to, and check the links."""
    node = await walk(tree, path)
    found, contents = [], await tree.contents(node)
    for entry in contents.entries:
        link = contents.node_of(entry)
        if b"~" in entry.name and isinstance(link, Symlink):
            found.append(int(entry.name.rpartition(b"~")[2]))
            assert isinstance(node, FacetDir)
            up = b"../" * (node.path.count(b"/") + 1)
            assert link.target == b"%bruns/%d" % (up, found[-1])
    return found


async def absent(tree: Tree, path: str) -> None:
    with pytest.raises(errors.NoSuchEntry):
        await walk(tree, path)


async def test_the_kinds_cost_nothing(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: entering a project's facets, and those of all projects, sends no request."""
    link = await walk(tree, "projects/10")
    service.asked()
    for parent in (tree.root, link):
        by = (await tree.lookup(parent, b"by")).node
        assert isinstance(by, Symlink)
        assert by.target == b".by"
    assert await shown(tree, "projects/10/by") == ["status", "tag", "parameter", "owner", "parent"]
    assert await shown(tree, "by") == ["project", "status", "owner", "text"]
    assert await shown(tree, "projects/10/by/status") == [
        "pending", "running", "completed", "failed", "killed", "unresponsive", "paused",
    ]  # fmt: skip
    assert service.asked() == []


async def test_projects_whose_runs_are_chosen(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.7, 7: /by/project has a link to the choices in each project, for a request for each 100 projects."""
    assert await shown(tree, "by/project") == ["vision~10"]
    link = await walk(tree, "by/project/vision~10")
    assert isinstance(link, Symlink)
    assert link.target == b"../../names/vision~10/.by"
    assert service.asked() == [("projects", 1000)]
    for name in ("vision", "vision~11", "sight~10", ".hidden"):
        await absent(tree, f"by/project/{name}")
    service.catalogue[10] = Project(10, "sight", NOW_NS)
    await trio.sleep(1)
    tree.refresh(await walk(tree, "by/project"))
    assert await shown(tree, "by/project") == ["sight~10"]


async def test_a_level_costs_a_request(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: keys, values and a choice are one request each, and none while they are fresh; `latest` is none."""
    await walk(tree, "projects/10")
    service.asked()
    for _ in range(2):
        assert await shown(tree, "projects/10/by/parameter") == ["lr", "opt"]
        assert await shown(tree, "projects/10/by/parameter/lr") == ["0.001", "0.1"]
        assert await runs(tree, "projects/10/by/parameter/lr/0.1") == [1, 3]
        assert isinstance(await walk(tree, "projects/10/by/parameter/lr/0.1/latest-failed"), Symlink)
        assert isinstance(await walk(tree, "projects/10/by/parameter/lr/0.1/odd~3"), Symlink)
    chosen = RunFilter(project_id=10, params=(ParamTest("lr", "0.1"),))
    assert service.asked() == [("facet keys", 10), ("facet values", 10, "parameter", "lr"), ("runs", 200, chosen)]
    # What a list has brought is known.
    assert tree.try_lookup(tree.runs, b"3") is not None


async def test_choices_within_choices(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.7: they nest: all that was chosen holds. `by` is found, and not listed; not deeper than 20."""
    assert await runs(tree, "projects/10/by/status/failed/by/parameter/lr/0.1") == [3]
    assert await runs(tree, "projects/10/by/status/failed/by/tag/team/a_b/by/parameter/opt/sgd") == [2]
    assert await shown(tree, "projects/10/by/status/failed/by") == ["tag", "parameter", "owner", "parent"]
    assert await shown(tree, "projects/10/by/parameter/lr/0.001/by/parameter") == ["lr", "opt"]
    for path in ("projects/10", "names/vision~10", "projects/10/by/status/failed", "search/odd"):
        assert "by" not in await shown(tree, path)
    deep = "projects/10" + "/by/parameter/lr/>0.0" * 20
    await walk(tree, deep)
    await absent(tree, f"{deep}/by")


async def test_comparisons_are_found_and_not_listed(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.7: `>0.5` and `<=1e-3` are choices of numbers; what is no number in a run is none of them."""
    for name, found in {
        ">0.05": [1, 3],
        "<=1e-3": [2],
        ">=0.1": [1, 3],
        "<.01": [2],
        ">1": [],
        "<1": [1, 2, 3],
    }.items():
        assert await runs(tree, f"projects/10/by/parameter/lr/{name}") == found, name
    for name in (">", ">x", ">=nan", ">1e", "<>1", "> 1_0"):
        await absent(tree, f"projects/10/by/parameter/lr/{name}")
    await absent(tree, "projects/10/by/tag/team/>1")


async def test_latest(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.9: `latest` is the run that was created last, of all, of the completed, or of the failed."""
    service.runs |= {5: run(5, "completed", created_ns=NOW_NS - 1), 6: run(6, "failed", created_ns=NOW_NS)}
    targets = {}
    for name in ("latest", "latest-completed", "latest-failed"):
        link = await walk(tree, f"projects/10/{name}")
        assert isinstance(link, Symlink)
        targets[name] = link.target
    assert targets == {
        "latest": b"../../runs/6", "latest-completed": b"../../runs/5", "latest-failed": b"../../runs/6",
    }  # fmt: skip
    assert "latest-failed" not in await shown(tree, "projects/10/by/status/completed")
    await absent(tree, "projects/10/by/status/completed/latest-failed")
    await absent(tree, "projects/10/by/status/killed/latest")


async def test_parents_and_owners(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.7: runs that began others are listed; any run's number is found if it began one; so is an owner."""
    assert await shown(tree, "projects/10/by/parent") == ["none", "1"]
    assert await runs(tree, "projects/10/by/parent/1") == [4]
    assert await runs(tree, "projects/10/by/parent/none") == [1, 2, 3]
    assert await shown(tree, "projects/10/by/owner") == [OWNER]
    for path in (
        "parent/2",
        "parent/x",
        "parent/01",
        "owner/x",
        f"owner/{OWNER[:-1]}",
        "owner/autorun.inf",
        "x",
        "status/x",
    ):
        await absent(tree, f"projects/10/by/{path}")


async def test_owners_that_are_none(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.7: an owner that the service could not be asked for is not listed; all others are, each once."""
    for number, owner in enumerate(["a/b", "", OWNER.upper(), OWNER, "1", None], start=1):
        service.runs[number] = run(number)
        service.details[number] = described(service.runs[number], owner_id=owner)
    assert await shown(tree, "projects/10/by/owner") == [OWNER]
    assert [number for number in await runs(tree, f"projects/10/by/owner/{OWNER}") if number in (3, 4)] == [3, 4]


@pytest.mark.parametrize("kind", ["parameter", "tag"])
async def test_awkward_values(kind: str, tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.7: each value has a name of its own, which is one of a file, and leads to the exact value; so does each key."""
    values = tuple(dict.fromkeys(AWKWARD))
    for number, value in enumerate(values, start=1):
        service.runs[number] = run(number)
        pairs = {"k": value, value: "v"} if value != "k" else {}
        service.details[number] = described(service.runs[number], **{FIELDS[kind]: pairs})  # type: ignore[arg-type]
    service.facets[10] = FacetKeys(**{FIELDS[kind]: ("k", *values)})
    service.facet_texts[10, kind, "k"] = values
    by = await walk(tree, f"projects/10/by/{kind}")
    for listed, chosen_by in ((by, "key"), ((await tree.lookup(by, b"k")).node, "value")):
        contents = await tree.contents(listed)
        names = [entry.name for entry in contents.entries]
        assert len(set(names)) == len(names) == len(values) + (chosen_by == "key")
        for name in names:
            assert 0 < len(name) <= 255
            assert not {b"/", b"\0", b"\n"} & {name[at : at + 1] for at in range(len(name))}
            assert name not in (b".", b"..")
            found = (await tree.lookup(listed, name)).node
            assert isinstance(found, FacetDir)
            assert found == contents.node_of(next(entry for entry in contents.entries if entry.name == name))
            if chosen_by == "value":
                (chosen,) = {value for _, value in found.chosen.tags} | {test.value for test in found.chosen.params}
                linked = await tree.contents(found)
                ids = [int(entry.name.rpartition(b"~")[2]) for entry in linked.entries if b"~" in entry.name]
                assert ids == [values.index(chosen) + 1]


@pytest.mark.parametrize(
    "error", [errors.BadRequest("no", 400), errors.NotFound("no", 404), errors.ServerFailed("no", 500), None], ids=str
)
async def test_facets_that_fail_or_are_empty(
    error: Exception | None,
    tree: Tree,
    service: FakeService,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1.7: the keys and values of the rows are shown then, and `errors` says so."""
    service.facets.clear()
    service.facet_texts.clear()
    if error is not None:
        failed = [("facet keys", 10), ("facet values", 10, "parameter", "lr"), ("facet values", 10, "tag", "team")]
        service.refusals = dict.fromkeys(failed, error)
    with caplog.at_level(logging.WARNING):
        assert await shown(tree, "projects/10/by/parameter") == ["lr", "opt"]
        assert await shown(tree, "projects/10/by/parameter/lr") == ["0.001", "0.1", "nan"]
        assert await runs(tree, "projects/10/by/parameter/lr/0.001") == [2]
        assert len(await shown(tree, "projects/10/by/tag/team")) == 2
    assert "names none of the keys or values" in caplog.text
    assert all(getattr(record, "artifactfs_notice", False) for record in caplog.records)


async def test_facets_that_fail_later_stay(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.2: the keys that were seen are served while the service fails, for an hour."""
    service.facets[10] = FacetKeys(("old",), ())
    assert await shown(tree, "projects/10/by/parameter") == ["old"]
    await trio.sleep(61)
    service.refusals = {("facet keys", 10): errors.ServerFailed("no", 500)}
    assert await shown(tree, "projects/10/by/parameter") == ["old"]
    await trio.sleep(2 * 3600)
    assert await shown(tree, "projects/10/by/parameter") == ["lr", "opt"]  # those of the rows


async def test_5000_values(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """7: a facet of 5,000 values is one request, and each of its names is found without another."""
    service.facet_texts[10, "parameter", "lr"] = tuple(
        f"v/{number}" if number % 7 == 0 else f"v{number}" for number in range(5000)
    )
    lr = await walk(tree, "projects/10/by/parameter/lr")
    service.asked()
    names = [entry.name for entry in (await tree.contents(lr)).entries]
    assert len(set(names)) == 5000
    for name in names[::50]:
        await tree.lookup(lr, name)
    assert service.asked() == [("facet values", 10, "parameter", "lr")]


async def test_a_value_that_the_facets_lack(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """1.7: a value that is not listed is found if runs have it; probes of desktops cost nothing."""
    service.runs[7] = run(7)
    service.details[7] = described(service.runs[7], params={"lr": "7"})
    await shown(tree, "projects/10/by/parameter/lr")
    service.asked()
    for name in (".hidden", ".Trash-1000", "autorun.inf"):
        await absent(tree, f"projects/10/by/parameter/lr/{name}")
        await absent(tree, f"search/{name}")
    assert service.asked() == []
    assert await runs(tree, "projects/10/by/parameter/lr/7") == [7]
    await absent(tree, "projects/10/by/parameter/lr/8")


async def test_searches(
    tree: Tree, service: FakeService, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1.8: words are a directory of the runs that they choose; making it costs nothing, an unknown term is a notice."""
    assert await shown(tree, "search") == []
    odd = await walk(tree, "search/odd status:failed")
    assert service.asked() == []
    assert odd == await walk(tree, "search/odd status:failed")
    assert await runs(tree, "search/odd status:failed") == [2, 3]
    assert service.asked() == [("runs", 200, RunFilter(text="odd", status="failed"))]
    assert await runs(tree, "search/project:10 param:lr>0.05 tag:team=a_b") == []
    await absent(tree, "search/colour:red")
    (record,) = [record for record in caplog.records if "colour" in record.getMessage()]
    assert "status:, tag:, param:" in record.getMessage()


async def test_a_refresh_of_a_choice(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """3.3: after a refresh of a choice the next look is fresh, and so it is after one of its project."""
    path = "projects/10/by/parameter/lr/0.1"
    assert await runs(tree, path) == [1, 3]
    for number, at in ((8, path), (9, "projects/10")):
        service.runs[number] = run(number)
        service.details[number] = described(service.runs[number], params={"lr": "0.1"})
        assert number not in await runs(tree, path)
        await trio.sleep(1)
        tree.refresh(await walk(tree, at))
        assert number in await runs(tree, path)


async def test_nothing_of_another_account(tree: Tree, service: FakeService, autojump_clock: MockClock) -> None:
    """6.3: after a change of the account lists, keys, values and tables are asked for again."""
    path = "projects/10/by/parameter/lr/0.1"
    await runs(tree, path)
    table = await walk(tree, "projects/10/runs.csv")
    assert isinstance(table, GeneratedFile)
    await trio.sleep(1)
    tree.switch_account("another")
    with pytest.raises(errors.Superseded):
        tree.contents_of(table)
    service.facet_texts[10, "parameter", "lr"] = ("0.2",)
    assert await shown(tree, "projects/10/by/parameter/lr") == ["0.2"]


async def test_a_table_of_a_list_that_was_refreshed(
    tree: Tree, service: FakeService, autojump_clock: MockClock
) -> None:
    """1.9, 2.4: other contents are another inode: who opens the old one looks the name up again."""
    first = await walk(tree, "projects/10/runs.jsonl")
    assert isinstance(first, GeneratedFile)
    assert len(tree.contents_of(first)) == first.entry.size_bytes
    service.asked()
    assert await walk(tree, "projects/10/runs.jsonl") == first
    assert first.entry in (await tree.contents(await walk(tree, "projects/10"))).entries
    assert (await walk(tree, "names/vision~10/runs.jsonl")).entry.size_bytes == first.entry.size_bytes
    assert service.asked() == []
    service.runs[9] = run(9, name="more")
    await trio.sleep(61)
    second = await walk(tree, "projects/10/runs.jsonl")
    assert isinstance(second, GeneratedFile)
    assert second.entry.number != first.entry.number
    assert len(tree.contents_of(second)) == second.entry.size_bytes
    with pytest.raises(errors.Superseded):
        tree.contents_of(first)
    lines = tree.contents_of(second).splitlines()
    assert [msgspec.json.decode(line)["id"] for line in lines] == [1, 2, 3, 4, 9]


async def test_a_list_that_is_larger_than_the_cache(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """7: 70,000 listed runs are cached, with their table, though they are more than the caches are to hold."""
    count = 70_000
    service = FakeService(runs={n: run(n) for n in range(1, count + 1)}, catalogue={10: Project(10, "vision")})
    text = described(run(1), params={"notes": "x" * 300})
    service.details = dict.fromkeys(service.runs, text)
    tree = Tree(
        service, site="t", nursery=nursery, clock=TurnedClock(), wall_clock_ns=lambda: NOW_NS, runs_listed=count
    )
    assert len(await shown(tree, "projects/10")) == count + 3
    table = await walk(tree, "projects/10/runs.csv")
    assert isinstance(table, GeneratedFile)
    assert tree.contents_of(table).count(b"\n") == count + 1
    assert service.asked() == [("project", 10), ("runs", count, 10)]


async def test_looking_up_thousands_of_values(
    service: FakeService, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.7: a program may look up each value of a key, whose names are digests: no name is made for each and each."""
    values = service.facet_texts[(10, "tag", "team")] = tuple(f"a/{number}" for number in range(300))
    directory = await walk(tree, "projects/10/by/tag/team")
    made = Mock(side_effect=facet_name)
    monkeypatch.setattr(facet_tree, "facet_name", made)
    for value in values:
        found = (await tree.lookup(directory, facet_name(value))).node
        assert isinstance(found, FacetDir)
        assert found.chosen.tags == (("team", value),)
    assert made.call_count == len(values)
