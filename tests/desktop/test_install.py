"""`artifactfs desktop install`, `uninstall` and `status`, with the real update-mime-database."""

import json
import os
import stat
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from artifactfs.desktop import desktop_files
from artifactfs.errors import ExitCode
from tests.harness import Done, Shell, run

# What the issue names, and what else is often in a run, by a name of it.
TYPES = {
    "model.safetensors": "application/x-safetensors",
    "last.ckpt": "application/x-checkpoint",
    "__0_0.distcp": "application/x-checkpoint",
    "optimizer.pt": "application/x-pytorch",
    "model.PTH": "application/x-pytorch",
    "model.onnx": "application/x-onnx",
    "q4.gguf": "application/x-gguf",
    "train.parquet": "application/vnd.apache.parquet",
    "x.npy": "application/x-numpy-array",
    "x.npz": "application/x-numpy-archive",
    "data.arrow": "application/vnd.apache.arrow.file",
    "data.feather": "application/vnd.apache.arrow.file",
    "log.jsonl": "application/jsonl",
    "events.out.tfevents.1715768461.host.1234.0": "application/x-tfevents",
    "rng_state.pkl": "application/x-python-pickle",
    "tokenizer.model": "application/x-sentencepiece",
    "config.json": "application/json",
    "model.safetensors.index.json": "application/json",
}


@pytest.fixture
def at_desk(shell: Shell) -> Shell:
    """A shell whose data directory is its own and not there yet."""
    shell.more_env["XDG_DATA_HOME"] = shell.path("data/share")
    return shell


def everything(top: str) -> dict[str, tuple[int, bytes]]:
    """Return all that is below a directory: mode and content by path."""
    found = {}
    for path in sorted(Path(top).rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(top))] = (stat.S_IFMT(path.lstat().st_mode), content)
    return found


def type_of(shell: Shell, name: str) -> str:
    """Return the type that GLib gives a file of this name, whose content says that it is a picture."""
    path = Path(shell.path("files")) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    done = run("gio", "info", "-a", "standard::content-type", str(path), env=shell.env).ok()
    return done.text.rpartition("content-type: ")[2].strip()


def assert_one_line(done: Done, code: ExitCode, *words: str) -> None:
    assert done.code == code, done
    assert done.err.startswith("artifactfs: ")
    assert done.err.count("\n") == 1
    assert [word for word in words if word not in done.err] == []


def test_names_decide(at_desk: Shell) -> None:
    """Each name that the package knows decides alone, whatever is in the file; *.bin does with --bin only."""
    assert type_of(at_desk, "model.safetensors") == "image/png"
    at_desk.cli("desktop", "install").ok()
    assert {name: type_of(at_desk, name) for name in TYPES} == TYPES
    assert type_of(at_desk, "pytorch_model.bin") == "image/png"
    at_desk.cli("desktop", "install", "--bin").ok()
    assert type_of(at_desk, "pytorch_model.bin") == "application/x-binary-data"
    at_desk.cli("desktop", "install").ok()
    assert type_of(at_desk, "pytorch_model.bin") == "image/png"
    assert type_of(at_desk, "model.safetensors") == "application/x-safetensors"


def test_what_is_text_opens_as_text(at_desk: Shell) -> None:
    """Editors open JSON lines, and archive managers what is a ZIP archive."""
    at_desk.cli("desktop", "install").ok()
    with open(at_desk.path("data/share/mime/subclasses"), encoding="utf-8") as file:
        assert set(file.read().split("\n")) - {""} == {
            "application/jsonl text/plain",
            "application/x-keras application/zip",
            "application/x-numpy-archive application/zip",
        }


def test_nothing_is_left(at_desk: Shell) -> None:
    """`uninstall` leaves no file and no directory, however often and in whatever order; nothing else is touched."""
    before = everything(at_desk.directory)
    for options in ((), ("--bin",), (), ("--bin",)):
        at_desk.cli("desktop", "install", *options).ok()
    installed = everything(at_desk.path("data/share"))
    assert {place for place, (_, content) in installed.items() if desktop_files.MARK in content} == set(
        desktop_files.PLACES
    )
    assert at_desk.cli("desktop", "uninstall").ok().text.count("removed ") == len(desktop_files.PLACES)
    assert everything(at_desk.directory) == before
    assert at_desk.cli("desktop", "uninstall").ok().text == "nothing is installed\n"
    assert everything(at_desk.directory) == before


def test_what_others_have_stays(at_desk: Shell) -> None:
    """Files, empty directories and MIME packages of others stay as they were, before and after."""
    share = Path(at_desk.path("data/share"))
    (share / "applications").mkdir(parents=True)
    (share / "icons/hicolor/scalable/apps").mkdir(parents=True)
    (share / "icons/hicolor/scalable/apps/other.svg").write_text("<svg/>")
    (share / "mime/packages").mkdir(parents=True)
    (share / "mime/packages/other.xml").write_text(
        '<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info"><mime-type type="application/x-mine">'
        '<comment>mine</comment><glob pattern="*.mine"/></mime-type></mime-info>'
    )
    run("update-mime-database", str(share / "mime"), env=at_desk.env).ok()
    before = everything(str(share))
    at_desk.cli("desktop", "install", "--bin").ok()
    assert type_of(at_desk, "x.mine") == "application/x-mine"
    at_desk.cli("desktop", "uninstall").ok()
    assert everything(str(share)) == before


def test_what_came_since_stays(at_desk: Shell) -> None:
    """What others put into directories that we made stays when our files go, and so does the cache that it needs."""
    at_desk.cli("desktop", "install").ok()
    share = Path(at_desk.path("data/share"))
    (share / "applications/other.desktop").write_text("[Desktop Entry]\n")
    package = (
        (share / desktop_files.TYPES).read_text(encoding="utf-8").replace("desktop install", "").replace("onnx", "mine")
    )
    (share / "mime/packages/other.xml").write_text(package, encoding="utf-8")
    at_desk.cli("desktop", "uninstall").ok()
    assert (share / "applications/other.desktop").read_text() == "[Desktop Entry]\n"
    assert not (share / "icons").exists()
    assert not (share / desktop_files.TYPES).exists()
    assert type_of(at_desk, "x.mine") == "application/x-mine"
    assert type_of(at_desk, "x.onnx") == "image/png"


@pytest.mark.parametrize("place", sorted(desktop_files.PLACES))
def test_a_foreign_file_is_in_the_way(place: str, at_desk: Shell) -> None:
    """A file of that name that is not ours is neither replaced nor removed; nothing is half done."""
    foreign = Path(at_desk.path("data/share")) / place
    foreign.parent.mkdir(parents=True)
    foreign.write_text("not yours")
    before = everything(at_desk.path("data"))
    assert_one_line(at_desk.cli("desktop", "install", "--bin"), ExitCode.DESKTOP_FAILED, str(foreign), "move it away")
    assert "not ours" in at_desk.cli("desktop", "status").ok().text
    at_desk.cli("desktop", "uninstall").ok()
    assert everything(at_desk.path("data")) == before


def test_without_the_tool(at_desk: Shell) -> None:
    """Where update-mime-database is missing: one line with the package, its own exit code, nothing half done."""
    before = everything(at_desk.directory)
    empty = at_desk.make_directory("empty")
    done = at_desk.cli("desktop", "install", env={"PATH": empty})
    assert_one_line(done, ExitCode.DESKTOP_FAILED, "update-mime-database", "apt-get install shared-mime-info")
    os.rmdir(empty)
    assert everything(at_desk.directory) == before


def a_tool_that(does: str, shell: Shell) -> dict[str, str]:
    """Return an environment whose update-mime-database is a script."""
    tool = Path(shell.make_directory("tools")) / "update-mime-database"
    tool.write_text(f"#!/bin/sh\n{does}\n")
    tool.chmod(0o755)
    return {"PATH": f"{tool.parent}:{os.environ['PATH']}"}


def test_a_tool_that_fails(at_desk: Shell) -> None:
    """Where update-mime-database fails: one line with what it said; what was installed before is there as before."""
    broken = a_tool_that('echo "no space" >&2; echo broken >"$1/globs2"; exit 3', at_desk)
    failed = at_desk.cli("desktop", "install", env=broken)
    assert_one_line(failed, ExitCode.DESKTOP_FAILED, "update-mime-database", "no space")
    assert not os.path.exists(at_desk.path("data"))

    at_desk.cli("desktop", "install", "--mountpoint", "/one").ok()
    before = everything(at_desk.path("data"))
    failed = at_desk.cli("desktop", "install", "--bin", "--mountpoint", "/two", env=broken)
    assert failed.code == ExitCode.DESKTOP_FAILED
    after = everything(at_desk.path("data"))
    # The cache is the tool's to write, and it failed: everything else is as it was.
    assert [path for path in {*before, *after} if before.get(path) != after.get(path)] == ["share/mime/globs2"]
    assert "run `artifactfs desktop install` again" in at_desk.cli("desktop", "status").ok().text


def test_an_uninstall_that_fails_can_go_on(at_desk: Shell) -> None:
    """Where update-mime-database fails in `uninstall`: one line; called again when it works, nothing is left."""
    at_desk.cli("desktop", "install").ok()
    failed = at_desk.cli("desktop", "uninstall", env=a_tool_that("exit 3", at_desk))
    assert_one_line(failed, ExitCode.DESKTOP_FAILED, "update-mime-database", "exit code 3")
    at_desk.cli("desktop", "uninstall").ok()
    assert not os.path.exists(at_desk.path("data"))


def test_a_place_that_cannot_be_written(at_desk: Shell) -> None:
    """Where a directory cannot be made: one line with the path, nothing half done."""
    share = Path(at_desk.make_directory("data/share"))
    (share / "icons").write_text("a file")
    done = at_desk.cli("desktop", "install")
    assert_one_line(done, ExitCode.DESKTOP_FAILED, str(share / "icons"), "not a directory", "move it away")
    assert everything(str(share)) == {"icons": (stat.S_IFREG, b"a file")}


def test_a_link_that_leads_nowhere(at_desk: Shell) -> None:
    """A data directory that is a link to what is not there: one line that says so, and nothing is made."""
    link = Path(at_desk.make_directory("data")) / "share"
    link.symlink_to("../elsewhere")
    done = at_desk.cli("desktop", "install")
    assert_one_line(done, ExitCode.DESKTOP_FAILED, str(link), at_desk.path("elsewhere"), "remove the link")
    assert "exists" not in done.err
    assert list(everything(at_desk.path("data"))) == ["share"]


def test_a_note_that_lies(at_desk: Shell) -> None:
    """The note of what was made is trusted no further than needed: it removes no file and no full directory."""
    at_desk.cli("desktop", "install").ok()
    precious = Path(at_desk.make_directory("precious"))
    (precious / "file").write_text("mine")
    note = Path(at_desk.path("data/share/artifactfs/desktop.json"))
    made = json.loads(note.read_text())["made"]
    note.write_text(json.dumps({"made": [*made, str(precious), str(precious / "file"), 7, "file"]}))
    at_desk.cli("desktop", "uninstall").ok()
    assert (precious / "file").read_text() == "mine"
    assert not os.path.exists(at_desk.path("data"))


@pytest.mark.parametrize("text", ["", "[]", "7", '{"made": 7}', "{"])
def test_a_note_that_is_broken(text: str, at_desk: Shell) -> None:
    """Without a readable note our files go all the same; what was made for them stays."""
    at_desk.cli("desktop", "install").ok()
    share = at_desk.path("data/share")
    Path(share, "artifactfs/desktop.json").write_text(text)
    at_desk.cli("desktop", "uninstall").ok()
    assert at_desk.cli("desktop", "status").ok().text.count("not installed") == len(desktop_files.PLACES)
    assert [place for place, (_, content) in everything(share).items() if desktop_files.MARK in content] == []


def test_status_shows_the_mounts(at_desk: Shell) -> None:
    """`status`: what is installed, what is of another version, and where the launcher mounts."""

    def states() -> list[str]:
        lines = at_desk.cli("desktop", "status").ok().text.splitlines()
        return [line[10:].strip().partition("  ")[0] for line in lines[:4]]

    assert states() == ["not installed"] * 4
    at_desk.cli("desktop", "install", "--mountpoint", "/srv/my lab").ok()
    assert states() == ["installed", "installed", "installed", "not installed"]
    assert at_desk.cli("desktop", "status").ok().text.endswith("the launcher opens /srv/my lab\n")
    with open(at_desk.path("data/share/" + desktop_files.ICON), "a", encoding="utf-8") as file:
        file.write("<!-- changed -->")
    assert states()[1].startswith("of another version or place: run `artifactfs desktop install`")
    at_desk.cli("desktop", "install", "--bin").ok()
    assert states() == ["installed"] * 4


@pytest.mark.parametrize("place", ["", "/", "/tmp", "/proc/x"])
def test_a_place_where_nothing_is_mounted(place: str, at_desk: Shell) -> None:
    """5.8: what `mount` refuses whatever is there, the launcher is not given; nothing is installed."""
    done = at_desk.cli("desktop", "install", "--mountpoint", place)
    assert (done.code, done.err.count("\n")) == (ExitCode.MOUNT_REFUSED, 1)
    assert "is no place for a mount" in done.err
    assert everything(at_desk.path("data")) == {}


def test_a_relative_data_directory_is_ignored(at_desk: Shell) -> None:
    """A relative XDG_DATA_HOME counts as none, as its specification says: ~/.local/share it is."""
    at_desk.cli("desktop", "install", env={"XDG_DATA_HOME": "share"}).ok()
    assert os.path.exists(at_desk.path("home/.local/share/" + desktop_files.LAUNCHER))
    at_desk.cli("desktop", "uninstall", env={"XDG_DATA_HOME": "share"}).ok()
    assert os.listdir(at_desk.path("home")) == []


@pytest.mark.parametrize("name", ["lab", "my lab", 'we"ird $d`b\\s % 100%%', "caf\u00e9"])
def test_the_files_are_valid(name: str, at_desk: Shell) -> None:
    """What is installed passes the validators of the desktop, whatever the mount point is called."""
    at_desk.cli("desktop", "install", "--bin", "--mountpoint", at_desk.path(name)).ok()
    share = at_desk.path("data/share/")
    run("desktop-file-validate", "--no-hints", share + desktop_files.LAUNCHER, env=at_desk.env).ok()
    done = run("update-mime-database", "-V", share + "mime", env=at_desk.env).ok()
    assert "error" not in (done.text + done.err).lower()
    for place in (desktop_files.TYPES, desktop_files.BIN, desktop_files.ICON):
        ElementTree.parse(share + place)
    launcher = Path(share + desktop_files.LAUNCHER).read_bytes()
    assert desktop_files.mountpoint_in(launcher) == at_desk.path(name)


@pytest.mark.parametrize("name", ["two\nlines", "tab\t", b"\xff".decode(errors="surrogateescape")])
def test_a_path_that_no_launcher_holds(name: str, at_desk: Shell) -> None:
    """A mount point that cannot be in a launcher is refused in one line, and nothing is installed."""
    done = at_desk.cli("desktop", "install", "--mountpoint", at_desk.path(name))
    assert_one_line(done, ExitCode.USAGE, "launcher")
    assert not os.path.exists(at_desk.path("data"))
