"""Every form in which the emulator can tell a tree: the listing's and the index's switches."""

from typing import Any

import httpx
import pytest

from artifactfs.emulator.model import Lab
from artifactfs.emulator.switches import SwitchError, Switches, assignment
from tests.unit.test_emulator_middleware import PROJECT, RUN, Api

ROOT = ["big.bin", "dir/", "dir.txt", "dirx/", "empty/", "zero.bin"]
BELOW_DIR = ["dir/a.txt", "dir/sub/"]


def sizes(rows: list[dict[str, Any]]) -> dict[str, object]:
    return {row["path"]: row.get("file_size", "absent") for row in rows if not row["is_dir"]}


async def index(api: Api) -> httpx.Response:
    return await api.get(f"/projects/{PROJECT}/artifacts")


async def index_rows(api: Api) -> Any:
    return (await index(api)).json()["data"]["attributes"].get("files")


async def test_by_default_a_listing_is_one_level_as_recorded() -> None:
    """Directories end in a slash and have no size; paths are the run's."""
    async with Api() as api:
        assert sorted(await api.paths()) == sorted(ROOT)
        rows = await api.files("dir/")
        assert rows == [
            {"path": "dir/a.txt", "is_dir": False, "file_size": 10},
            {"path": "dir/sub/", "is_dir": True},
        ]
        assert await api.files("empty") == []


async def test_slash_any_takes_both_forms() -> None:
    """slash=any: `dir` and `dir/` give the same children."""
    async with Api() as api:
        assert await api.paths("dir") == await api.paths("dir/") == BELOW_DIR


async def test_slash_required_answers_a_bare_prefix_like_object_storage() -> None:
    """slash=required: `dir` gives itself and its namesakes, `dir/` the children, a file's path the file."""
    async with Api(slash="required") as api:
        assert await api.paths("dir") == ["dir/", "dir.txt", "dirx/"]
        assert await api.paths("dir/") == BELOW_DIR
        assert await api.paths("dir/a.txt") == ["dir/a.txt"]
        assert await api.paths("dir/su") == ["dir/sub/"]
        assert await api.paths("none") == []
        assert sorted(await api.paths()) == sorted(ROOT)


async def test_slash_refused_knows_no_slash() -> None:
    """slash=refused: `dir/` is an empty answer, `dir` gives the children."""
    async with Api(slash="refused") as api:
        assert (await api.paths("dir/"), await api.paths("dir")) == ([], BELOW_DIR)


@pytest.mark.parametrize(("slash", "flag"), [(True, False), (False, True), (True, True)])
async def test_a_directory_is_marked_by_slash_or_flag(slash: bool, flag: bool) -> None:
    """dir_slash and dir_flag decide each on its own how a directory can be recognised."""
    async with Api(dir_slash=slash, dir_flag=flag) as api:
        assert {"path": "dir/" if slash else "dir", "is_dir": flag} in await api.files()


async def test_base_relative_names_below_the_directory_asked_for() -> None:
    """base=relative: paths start at the queried directory; the root's stay."""
    async with Api(base="relative") as api:
        assert await api.paths("dir") == ["a.txt", "sub/"]
        assert sorted(await api.paths()) == sorted(ROOT)
        await api.order("switches", {"slash": "required"})
        assert await api.paths("dir/su") == ["sub/"]


async def test_depth_recursive_holds_everything_below() -> None:
    """depth=recursive: the whole subtree, with the directories' rows or, dir_rows=false, without."""
    async with Api(depth="recursive") as api:
        assert await api.paths("dir") == ["dir/a.txt", "dir/sub/", "dir/sub/b.bin"]
        assert len(await api.paths()) == 10
        await api.order("switches", {"dir_rows": False, "base": "relative"})
        assert await api.paths("dir") == ["a.txt", "sub/b.bin"]


@pytest.mark.parametrize(("form", "shown"), [("slash", "dir/sub/"), ("bare", "dir/sub"), ("true", "dir/sub/")])
async def test_self_marker(form: str, shown: str) -> None:
    """self_marker: the directory asked for is the first row, a file of no bytes; the root has none."""
    async with Api(self_marker=form) as api:
        first, *others = await api.files("dir/sub")
        assert first == {"path": shown, "is_dir": False, "file_size": 0}
        assert [row["path"] for row in others] == ["dir/sub/b.bin"]
        assert sorted(await api.paths()) == sorted(ROOT)


@pytest.mark.parametrize(
    ("form", "zero", "full"),
    [
        ("int", 0, 30),
        ("string", "0", "30"),
        ("null_when_zero", None, 30),
        ("absent_when_zero", "absent", 30),
        ("absent", "absent", "absent"),
        ("null", None, None),
    ],
)
async def test_size_form(form: str, zero: object, full: object) -> None:
    """size_form and index_size_form: how zero and other sizes are reported, each in its own listing."""
    async with Api(size_form=form) as api:
        told = sizes(await api.files())
        assert (told["zero.bin"], told["dir.txt"]) == (zero, full)
        assert {row["file_size"] for row in await index_rows(api)} == {0, 10, 20, 30, 40, (3 << 20) + 5}
    async with Api(index_size_form=form) as api:
        told = {row["filename"]: row.get("file_size", "absent") for row in await index_rows(api)}
        assert (told["zero.bin"], told["dir.txt"]) == (zero, full)
        assert sizes(await api.files())["zero.bin"] == 0


@pytest.mark.parametrize(("form", "attributes"), [("list", {"files": []}), ("null", {"files": None}), ("absent", {})])
async def test_empty_form(form: str, attributes: dict[str, object]) -> None:
    """empty_form: an empty `files` is a list, null or not there, in listing and index; path_in_project stays."""
    async with Api(empty_form=form, index="empty") as api:
        data = (await api.get(f"/runs/{RUN}/artifacts", path="empty")).json()["data"]
        assert data["attributes"] == attributes | {"path_in_project": api.run.prefix}
        assert (await index(api)).json()["data"]["attributes"] == attributes


@pytest.mark.parametrize("slash", ["any", "required"])
@pytest.mark.parametrize("how", ["400", "404", "500"])
async def test_a_listing_of_what_is_no_directory_can_be_an_error(how: str, slash: str) -> None:
    """path_of_file and path_missing: an error with the status that they name."""
    async with Api(path_of_file=how, slash=slash) as api:
        assert (await api.get(f"/runs/{RUN}/artifacts", path="dir.txt")).status_code == int(how)
        assert await api.files("none") == []
    async with Api(path_missing=how, slash=slash) as api:
        assert (await api.get(f"/runs/{RUN}/artifacts", path="none")).status_code == int(how)
        assert (await api.get(f"/runs/{RUN}/artifacts", path="dir.txt/")).status_code == int(how)


async def test_a_listing_of_a_file_can_be_the_file() -> None:
    """path_of_file: empty by default, or the file's own row."""
    async with Api() as api:
        assert await api.files("dir/a.txt") == []
        await api.order("switches", {"path_of_file": "self"})
        assert await api.files("dir/a.txt") == [{"path": "dir/a.txt", "is_dir": False, "file_size": 10}]


async def test_the_path_is_decoded_exactly_once() -> None:
    """`%25` is a percent sign, `+` and `%20` are spaces, `%2B` is a plus; nothing is normalised."""
    names = ("100%.d", "a+b", "a b", "%41", "cafe\u0301", "caf\u00e9")
    async with Api() as api:
        await api.order("files", {"run": RUN, "add": {f"{name}/x": 1 for name in names}})
        for name in names:
            assert await api.paths(name) == [f"{name}/x"]
        raw = await api.client.get(f"/api/v2/model-lab-api/runs/{RUN}/artifacts?path=a+b")
        assert [row["path"] for row in raw.json()["data"]["attributes"]["files"]] == ["a b/x"]
        assert await api.paths("A") == []


async def test_extra_fields_are_beside_the_known_ones() -> None:
    """extra_fields: unknown fields at every level, and the known ones unchanged."""
    async with Api() as api:
        plain = (await api.get(f"/runs/{RUN}/artifacts", path="dir")).json()
        await api.order("switches", {"extra_fields": True})
        more = (await api.get(f"/runs/{RUN}/artifacts", path="dir")).json()
        assert plain.items() <= (more | {"data": plain["data"]}).items()
        assert set(more) > set(plain)
        assert set(more["data"]) > set(plain["data"])
        assert set(more["data"]["attributes"]) > set(plain["data"]["attributes"])
        pairs = zip(plain["data"]["attributes"]["files"], more["data"]["attributes"]["files"], strict=True)
        assert all(one.items() < other.items() for one, other in pairs)


async def test_the_index_is_the_tree_of_every_run_of_the_project() -> None:
    """index=full: all files, no directories, with the path that the content endpoint takes."""
    async with Api() as api:
        other = api.emulator.lab.create(2, PROJECT)
        api.emulator.lab.create(3, PROJECT + 1)
        await api.order("files", {"run": 2, "add": {"x": 1}})
        await api.order("files", {"run": 3, "add": {"y": 1}})
        paths = {row["artifact_path"] for row in await index_rows(api)}
        expected = {"big.bin", "dir.txt", "dir/a.txt", "dir/sub/b.bin", "dirx/c.txt", "zero.bin"}
        assert paths == {f"{api.run.prefix}/{path}" for path in expected} | {f"{other.prefix}/x"}


async def test_index_404() -> None:
    """index=404: the recorded refusal."""
    async with Api(index="404") as api:
        assert (await index(api)).status_code == 404


async def test_index_partial_lacks_every_tenth_file() -> None:
    """index=partial: nine of ten files, the listings are whole."""
    async with Api(index="partial") as api:
        await api.order("files", {"run": RUN, "add": {f"many/{i:03d}": 1 for i in range(94)}})
        assert len(await index_rows(api)) == 90
        assert len(await api.files("many")) == 94


async def test_index_ghosts() -> None:
    """index=ghosts: all files, and in every directory of files one that no listing has."""
    async with Api(index="ghosts") as api:
        paths = [row["artifact_path"].removeprefix(f"{api.run.prefix}/") for row in await index_rows(api)]
        ghosts = [path for path in paths if path.endswith("gone.bin")]
        assert sorted(ghosts) == ["dir/gone.bin", "dir/sub/gone.bin", "dirx/gone.bin", "gone.bin"]
        assert len(paths) == 6 + 4
        assert sorted(await api.paths()) == sorted(ROOT)


async def test_index_other() -> None:
    """index=other: a right listing, but of another project; empty where there is no other."""
    async with Api(index="other") as api:
        assert await index_rows(api) == []
        await api.order("files", {"run": 3, "project": PROJECT + 1, "add": {"y": 1}})
        assert [row["filename"] for row in await index_rows(api)] == ["y"]


async def test_index_html() -> None:
    """index=html: a login page in place of the listing."""
    async with Api(index="html") as api:
        answer = await index(api)
        assert answer.status_code == 200
        assert answer.text.startswith("<!DOCTYPE html>")


async def test_index_empty_and_no_sizes() -> None:
    """index=empty has no rows, index=no_sizes no sizes."""
    async with Api(index="empty") as api:
        assert await index_rows(api) == []
        await api.order("switches", {"index": "no_sizes"})
        assert not [row for row in await index_rows(api) if "file_size" in row]


async def test_index_cut_ends_before_its_length() -> None:
    """index=cut: half of the promised body (in process the body just ends)."""
    async with Api(index="cut") as api:
        answer = await index(api)
        assert len(answer.content) == int(answer.headers["content-length"]) // 2


async def test_a_run_can_hide_its_sizes() -> None:
    """A run whose files have no sizes tells none, in listing and index, and serves content all the same."""
    async with Api() as api:
        api.run.tells_sizes = False
        assert set(sizes(await api.files()).values()) == {"absent"}
        assert not [row for row in await index_rows(api) if "file_size" in row]
        assert len((await api.content("dir.txt")).content) == 30


async def test_rows_that_no_tree_holds_are_sent_raw() -> None:
    """Hostile rows, lone surrogates among them, arrive as they were made."""
    async with Api() as api:
        row = {"path": "lone\ud800\0/..", "is_dir": False, "file_size": -1}
        api.run.raw_rows["dir"] = [row]
        assert (await api.files("dir"))[-1] == row
        assert row not in await api.files()


async def test_an_unknown_run_is_the_recorded_404() -> None:
    """The listing of a run that is not there is `run not found`; an id that is no number is 400."""
    async with Api(Lab()) as api:
        answer = await api.get("/runs/1/artifacts")
        assert answer.json() == {"errors": [{"title": "Generic Error", "detail": "run not found"}]}
        assert (await api.get("/runs/x/artifacts")).status_code == 400
        assert (await index(api)).json()["errors"][0]["detail"] == "project not found"


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [
        ("slash", "required", "required"),
        ("dir_slash", "false", False),
        ("dir_slash", "Off", False),
        ("extra_fields", True, True),
        ("page_base", "1", 1),
        ("page_base", 0, 0),
        ("path_missing", 404, "404"),
        ("latency_s", "0.25", 0.25),
        ("latency_s", 1, 1.0),
        ("bytes_per_s", "1000", 1000),
        ("self_marker", False, "none"),
        ("content_type", "text/plain", "text/plain"),
    ],
)
def test_a_switch_takes_text_and_json(name: str, value: object, held: object) -> None:
    """A value may be the text of the command line or what JSON has for it."""
    assert vars(Switches().changed({name: value}))[name] == held


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"slush": "any"}, "no switch 'slush'"),
        ({"slash": "sometimes"}, "any, required, refused"),
        ({"dir_slash": "perhaps"}, "true or false"),
        ({"latency_s": "soon"}, "a number"),
        ({"latency_s": True}, "a number"),
        ({"latency_s": -1}, "negative"),
        ({"page_base": True}, "0, 1"),
        ({"dir_slash": False, "dir_flag": False}, "cannot both be off"),
    ],
)
def test_a_wrong_switch_says_what_there_is(values: dict[str, object], said: str) -> None:
    """SwitchError names the switch and its values."""
    with pytest.raises(SwitchError, match=said):
        Switches().changed(values)


def test_an_assignment_has_a_sign_of_equality() -> None:
    """NAME=VALUE is split at the first sign; without one it is an error."""
    assert assignment("redirect_to = http://x/?a=b") == ("redirect_to", "http://x/?a=b")
    with pytest.raises(SwitchError):
        assignment("slash")


def test_every_switch_is_documented() -> None:
    """Each field of Switches has a docstring of its own."""
    import ast
    import inspect

    (body,) = ast.parse(inspect.getsource(Switches)).body
    assert isinstance(body, ast.ClassDef)
    for node, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(following, ast.Expr), ast.unparse(node)
