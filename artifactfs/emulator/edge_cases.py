"""One run for every awkward thing that a service, or a user of it, can put before a filesystem.

    3001 awkward/names          80001 unicode            80002 punctuation        80003 255-byte names
    3002 awkward/shapes         80011 zero bytes         80012 deep               80013 10,000 files in one directory
                                80014 empty directories  80015 exactly 1,000      80016 without sizes    80017 pictures
    3003 awkward/lives          80021 running            80022 failed             80023 soft-deleted     80024 nameless
                                80025 parent of 80026    80027 no artifacts       80028 a name of odd characters
    3004 awkward/hostile        80031 impossible names   80032 doubles
    3005 awkward/large          80041 one file of 64 MiB

Owns these runs. Rows that no tree can hold are raw rows: sent as they are, in the listing and in the index.
"""

from collections.abc import Callable

from artifactfs.emulator.artifact_tree import CREATED_AT, MemoryTree
from artifactfs.emulator.model import Lab, Project, Row, Run, project_attributes

NAMES, SHAPES, LIVES, HOSTILE, LARGE = 3001, 3002, 3003, 3004, 3005

_PROJECTS = {
    NAMES: "awkward/names",
    SHAPES: "awkward/shapes",
    LIVES: "awkward/lives",
    HOSTILE: "awkward/hostile",
    LARGE: "awkward/large",
}

UNICODE = (
    "caf\u00e9.txt",  # NFC
    "cafe\u0301.txt",  # NFD: the same to the eye, another file
    "\U0001f600\U0001f469\u200d\U0001f52c.bin",  # emoji, one of them joined
    "\u05e9\u05dc\u05d5\u05dd.txt",  # right to left
    "\u202egnp.exe",  # an override that turns the rest of the line around
    "\u65e5\u672c\u8a9e/\u5b66\u7fd2.json",
    "\u01c5.txt",  # a letter of three cases
    "\u0130stanbul.txt",  # lower() of which has another length
    "stra\u00dfe.txt",
    "STRASSE.txt",
    "zero\u200bwidth.txt",
    "bom\ufeff.txt",
    "\ufffd.txt",  # the replacement character as a name of its own
    "nbsp\u00a0space.txt",
)

PUNCTUATION = (
    "examples/step%1%loss.webp",  # of the recorded kind
    "100%.txt",
    "%2e%2e%2f.txt",
    "%41.txt",
    "A.txt",
    "a+b.txt",
    "a b.txt",
    "a%20b.txt",
    "a#b.txt",
    "a&b=c.txt",
    "a?b.txt",
    "a;b.txt",
    "a:b.txt",
    "quote'\".txt",
    "back\\slash.txt",
    "back\\slash/inside.txt",
    "new\nline.txt",
    "tab\tand\rreturn.txt",
    "bell\x07.txt",
    "del\x7f.txt",
    " leading.txt",
    "trailing ",
    "trailing.",
    "...",
    "....txt",
    "-rf",
    "--help",
    "~",
    "$HOME",
    "`id`",
    "*",
    "[a-z].txt",
    "{a,b}.txt",
    "<tag>.txt",
    "|pipe",
    "con",
    ".hidden",
    "model.safetensors:0",
    "dir with space/and%percent/and#hash/deep.txt",
)

LONGEST = (
    "a" * 251 + ".bin",
    "\u00e9" * 125 + "x.bin",  # 250 + 5
    "\u65e5" * 85,  # 255
    "\U0001f600" * 63 + "abc",  # 252 + 3
    "d" * 255 + "/" + "f" * 255,
)

# Names that no filesystem can hold, or that lead out of the directory; each would be a file of 5 bytes.
IMPOSSIBLE = (
    "..",
    ".",
    "",
    "/",
    "../escape.txt",
    "ok/../../escape.txt",
    "/../etc/passwd",
    "dir//double.txt",
    "dir/./dot.txt",
    "dir/../up.txt",
    "nul\0byte.txt",
    "x" * 256,
    "\u65e5" * 86,  # 258 bytes
    "lone\ud800surrogate.txt",
    "reversed\udfff\ud800pair.txt",
)


def add_projects(lab: Lab) -> None:
    """Add the projects, oldest first, all of them older than the recorded ones."""
    for project_id, name in _PROJECTS.items():
        lab.add_project(Project(project_id, project_attributes(project_id, name=name)))


def add_runs(lab: Lab) -> None:
    """Add the runs of the table above."""

    def add(run_id: int, project: int, name: str, build: Callable[[MemoryTree], None], **overrides: object) -> Run:
        return lab.create(run_id, project, MemoryTree(f"run {run_id}", build), name=name, **overrides)

    add(80001, NAMES, "unicode", lambda tree: _fill(tree, UNICODE))
    add(80002, NAMES, "punctuation", lambda tree: _fill(tree, PUNCTUATION))
    add(80003, NAMES, "255-byte-names", lambda tree: _fill(tree, LONGEST))
    add(80011, SHAPES, "zero-bytes", _zero_bytes)
    add(80012, SHAPES, "deep", _deep)
    add(80013, SHAPES, "wide", lambda tree: tree.wide(10_000))
    add(80014, SHAPES, "empty-directories", _empty_directories)
    add(80015, SHAPES, "exactly-1000", lambda tree: _fill(tree, tuple(f"part-{i:05d}.bin" for i in range(1000))))
    add(80016, SHAPES, "no-sizes", _no_sizes).tells_sizes = False
    add(80017, SHAPES, "pictures", _pictures)
    add(80021, LIVES, "running", _ordinary, status="running", updated_at="2026-05-16T09:30:00.5Z")
    add(80022, LIVES, "failed", _ordinary, status="failed")
    add(80023, LIVES, "soft-deleted", _ordinary, deleted_at="2026-05-16T12:00:00.25Z")
    add(80024, LIVES, "", _ordinary, params=None)
    add(80025, LIVES, "parent", _ordinary, has_children=True)
    add(80026, LIVES, "child", _ordinary).parent = 80025
    add(80027, LIVES, "no-artifacts", lambda _: None)
    add(80028, LIVES, 'a/b "c"\n%2F \U0001f600 ../..', _ordinary, description="a name of odd characters")
    _add_hostile(add(80031, HOSTILE, "impossible-names", _ordinary))
    _add_doubles(add(80032, HOSTILE, "doubles", _doubles))
    add(80041, LARGE, "large", lambda tree: tree.add("model/weights.safetensors", 64 << 20))


def _fill(tree: MemoryTree, names: tuple[str, ...]) -> None:
    for place, name in enumerate(names):
        tree.add(name, 100 + place)


def _zero_bytes(tree: MemoryTree) -> None:
    for name in ("empty", "empty.txt", "empty.json", "sub/__init__.py", "sub/empty.bin"):
        tree.add(name, 0)
    tree.add("one-byte.bin", 1)


def _deep(tree: MemoryTree) -> None:
    path = ""
    for level in range(40):
        path += f"level{level:03d}/"
        if level % 10 == 9:
            tree.add(path + "here.txt", 20 + level)
    tree.add(path + "leaf.txt", 12)


def _empty_directories(tree: MemoryTree) -> None:
    for path in ("empty", "nested/empty/also-empty", "beside/empty"):
        tree.mkdir(path)
    tree.add("beside/file.txt", 10)


def _no_sizes(tree: MemoryTree) -> None:
    for name, size in (("empty.bin", 0), ("small.txt", 77), ("logs/train.log", 150_000), ("big.bin", 3 << 20)):
        tree.add(name, size)


def _pictures(tree: MemoryTree) -> None:
    for place in range(12):
        tree.add(f"plots/epoch-{place:02d}.png", 400 + place)
    tree.add("plots/notes.md", 500)
    tree.add("samples.csv", 4000)


def _ordinary(tree: MemoryTree) -> None:
    tree.add("config.json", 300)
    tree.add("checkpoints/step-100/model.bin", 70_001)
    tree.add("logs/train.log", 5_000)


def _doubles(tree: MemoryTree) -> None:
    tree.add("both/inside.txt", 10)
    tree.add("dir.txt/inside.txt", 10)
    tree.add("dir/inside.txt", 10)  # `dir` is a prefix of its namesakes
    tree.add("dirx/inside.txt", 10)
    tree.add("dir-x.txt", 10)
    tree.add("twice.txt", 11)


def _raw(path: str, size: int = 5) -> Row:
    return {"path": path, "is_dir": False, "file_size": size}


def _indexed(run: Run, path: str, size: int = 5) -> Row:
    row: Row = {"filename": path.rpartition("/")[2], "artifact_path": f"{run.prefix}/{path}"}
    return row | {"created_at": CREATED_AT, "file_size": size}


def _add_hostile(run: Run) -> None:
    directories = [{"path": name + "/", "is_dir": True} for name in ("..", ".", "nul\0dir", "y" * 256, "../../up", "/")]
    run.raw_rows[""] = [
        *map(_raw, IMPOSSIBLE),
        *directories,
        {"path": "negative.bin", "is_dir": False, "file_size": -1},
    ]
    # Below a directory: a way out of it, and a path that was never asked for.
    run.raw_rows["logs"] = [_raw("logs/../config.json"), _raw("logs/.."), _raw("elsewhere/file.txt")]
    run.raw_index = [_indexed(run, name) for name in IMPOSSIBLE]
    run.raw_index.append({**_indexed(run, "x"), "artifact_path": "0" * 32 + "/artifacts/of-no-run.txt"})


def _add_doubles(run: Run) -> None:
    """Add a file where a directory is, and a second row for a file: the directory and the first row count."""
    run.raw_rows[""] = [_raw("both"), _raw("dir.txt", 9), _raw("twice.txt", 99)]
    run.raw_index = [_indexed(run, "both"), _indexed(run, "twice.txt", 99)]
