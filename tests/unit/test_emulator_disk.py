"""A directory on the disk as the emulator's runs."""

import os
from functools import partial
from pathlib import Path

import pytest

from artifactfs.emulator.disk import PROJECT, Disk
from artifactfs.emulator.model import Lab, Run
from tests.unit.test_emulator_middleware import Api


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two runs, things that are no run, and links that lead in and out."""
    served = tmp_path / "served"
    for path, text in (("7/a.txt", "hello"), ("7/sub/b.txt", "b"), ("8/c.txt", ""), ("notes/x", "x"), ("007/x", "x")):
        (served / path).parent.mkdir(parents=True, exist_ok=True)
        (served / path).write_text(text)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/deep.txt").write_text("secret")
    (served / "7/out.txt").symlink_to(tmp_path / "secret.txt")
    (served / "7/outdir").symlink_to(tmp_path / "outside")
    (served / "7/loop").symlink_to(".")
    (served / "7/in.txt").symlink_to("a.txt")
    (served / "7/nowhere").symlink_to("missing")
    (served / "9").symlink_to(tmp_path / "outside")
    os.mkfifo(served / "7/pipe")
    return served


def run_of(directory: Path, run_id: int = 7) -> Run:
    run = Disk(str(directory)).run(run_id)
    assert run is not None
    return run


def test_runs_are_the_decimal_directories(directory: Path) -> None:
    """A link, a leading zero and any other name are no run."""
    assert sorted(run.id for run in Disk(str(directory)).runs()) == [7, 8]
    assert Disk(str(directory)).run(9) is None


def test_a_run_that_changes_is_running(directory: Path) -> None:
    """A change of any file below it within ten minutes makes a run running; else it has ended with its last change."""
    began, changed = 1_700_000_000.0, 1_700_000_100.0
    for path in (directory / "7", *(directory / "7").rglob("*")):
        os.utime(path, (began, began), follow_symlinks=False)
    os.utime(directory / "7/sub/b.txt", (changed, changed))
    for age_s, status, ended in ((599, "running", None), (600, "completed", "2023-11-14T22:15:00")):
        run = Disk(str(directory), clock=partial(float, changed + age_s)).run(7)
        assert run is not None
        facts = run.attributes
        assert facts["status"] == status
        assert str(facts["created_at"]).startswith("2023-11-14T22:13:20")
        assert str(facts["updated_at"]).startswith("2023-11-14T22:15:00")
        assert (str(facts["completed_at"])[:19] if "completed_at" in facts else None) == ended


def test_a_change_shows_in_the_status_within_a_second(directory: Path) -> None:
    """The time of the last change is remembered for a second, so that contents cost no traversal each."""
    now = 1_700_000_000.0
    disk = Disk(str(directory), clock=lambda: now)
    for path in (directory / "7", *(directory / "7").rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)

    def status() -> object:
        run = disk.run(7)
        assert run is not None
        return run.attributes["status"]

    assert status() == "completed"
    os.utime(directory / "7/a.txt", (now, now))
    assert status() == "completed"
    now += 1
    assert status() == "running"


def test_nothing_outside_shows(directory: Path) -> None:
    """Links to files are followed inside the directory only, links to directories never, and pipes are left out."""
    assert [name for name, _ in run_of(directory).tree.children("")] == ["a.txt", "in.txt", "sub"]


@pytest.mark.parametrize(
    "path", ["out.txt", "outdir/deep.txt", "../../secret.txt", "../8/c.txt", "sub/../a.txt", "a\0"]
)
def test_nothing_outside_is_found(directory: Path, path: str) -> None:
    """A path that leads out, or is no plain path, names nothing."""
    tree = run_of(directory).tree
    assert tree.find(path) is None
    assert not tree.is_dir(path)


async def test_a_changed_file_shows_at_the_next_request(directory: Path) -> None:
    """Size and bytes are those on the disk at the time of the request."""
    async with Api(Lab(Disk(str(directory)))) as api:
        run = run_of(directory)
        query = {"project_id": str(PROJECT), "artifact_path": f"{run.prefix}/a.txt"}
        assert (await api.get("/artifacts/content", **query)).text == "hello"
        (directory / "7/a.txt").write_text("hello again")
        assert (await api.get("/artifacts/content", **query)).text == "hello again"
        answer = await api.get("/runs/7/artifacts")
        assert {"path": "a.txt", "is_dir": False, "file_size": 11} in answer.json()["data"]["attributes"]["files"]


async def test_a_new_run_shows_at_the_next_request(directory: Path) -> None:
    """A directory that appears is a run at once, in the pages too."""
    async with Api(Lab(Disk(str(directory)))) as api:
        (directory / "12").mkdir()
        assert (await api.get("/runs/12")).status_code == 200
        ids = [row["id"] for row in (await api.get("/runs")).json()["data"]]
        assert sorted(ids) == ["12", "7", "8"]
        assert [row["id"] for row in (await api.get("/projects")).json()["data"]] == [str(PROJECT)]


async def test_the_index_is_the_tree(directory: Path) -> None:
    """The project's flat listing names every file of every run."""
    async with Api(Lab(Disk(str(directory)))) as api:
        rows = (await api.get(f"/projects/{PROJECT}/artifacts")).json()["data"]["attributes"]["files"]
        paths = [row["artifact_path"].partition("/artifacts/")[2] for row in rows]
        assert paths == ["a.txt", "in.txt", "sub/b.txt", "c.txt"]


async def test_the_control_plane_does_not_write_to_the_disk(directory: Path) -> None:
    """A change of a run on the disk is refused."""
    async with Api(Lab(Disk(str(directory)))) as api:
        answer = await api.order("files", {"run": 7, "remove": ["a.txt"]})
        assert answer.status_code == 400
        assert (directory / "7/a.txt").exists()


def test_a_file_that_shrinks_gives_what_is_left(directory: Path) -> None:
    """Reading past the new end ends early, and raises nothing."""
    tree = run_of(directory).tree
    file = tree.find("a.txt")
    assert file is not None
    (directory / "7/a.txt").write_text("he")
    assert b"".join(tree.read("a.txt", file, 0, file.size)) == b"he"
