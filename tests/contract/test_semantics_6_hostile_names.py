"""Sections 1.2 to 1.4 and 6.4 of the contract: names, paths and ids as no server should tell them."""

import errno
import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest

from tests.answers import FILES, listing, ok, page, raw, told_run
from tests.attacked import Attacked, attacked, check_failed

BODY = FILES["a.bin"]
JSON = "Content-Type: application/json"


# --- names --------------------------------------------------------------------------------------------

# As they stand in JSON, broken UTF-8 and all: each is left out, and counted.
IMPOSSIBLE = [
    b".", b"..", b"../", b"./", b"../up.txt", b"ok/../../up.txt", b"sub/..", b"./../a.bin", b"/../passwd", b"//",
    b"/..", b"sub//b.txt", b"\\u0000", b"nul\\u0000byte", b"nul\\u0000/b.txt", b"sub/nul\\u0000", b"\\u002e\\u002e",
    b"\\u002e\\u002e\\u002fup", b"\\/etc\\/..\\/passwd", b"\\ud800", b"\\udfff\\ud800", b"sub/\\ud800", b"\xed\xa0\x80",
    b"\xff\xfe", b"latin-\xe9", b"\xc0\xaf", b"\xc0\xae\xc0\xae", b"\xf5\x80\x80\x80", b"cut-\xe2\x82",
    b"x" * 256, "\u65e5".encode() * 86, b"sub/" + b"y" * 256, b"z" * 100_000, b"../" * 10_000,
]  # fmt: skip
# What only looks like them.
POSSIBLE = [
    "...", "..a", "a..", ".hidden", "%2e%2e", "%2F", "\u2024\u2024", "\u2215etc", "\uff0e\uff0e", "\ufffd", "\\..\\",
    "C:", "~", "x" * 255, "\u65e5" * 85, "\u2400", "\ue000", "\ufeff", "\U0010ffff",
]  # fmt: skip


def test_impossible_names(tmp_path: Path) -> None:
    """1.3: what no filesystem can hold is left out, counted and logged once per directory; all around it is seen."""
    good = [json.dumps(name, ensure_ascii=False).encode() for name in POSSIBLE]
    # One good name between any two bad ones: none takes its neighbour along.
    rows = [
        each for pair in itertools.zip_longest([b'"%b"' % bad for bad in IMPOSSIBLE], good) for each in pair if each
    ]
    body = b'{"data":{"id":"1","attributes":{"path_in_project":"p","files":[%b]}}}' % b",".join(
        b'{"path":%b,"is_dir":false,"file_size":3}' % row for row in rows
    )
    with attacked(str(tmp_path), "--listing-ttl", "0", "--finished-ttl", "0") as attack, attack.survives():
        run_id = attack.server.plant(listing=raw(ok(body)))
        for _ in range(3):
            found = attack.mounted.tree(run_id)
            assert found == {name.encode(): 3 for name in POSSIBLE}
        assert len(attack.server.asked(f"/runs/{run_id}/artifacts")) >= 3
        # Some only name the directory itself.
        counted = len([each for each in IMPOSSIBLE if each not in (b"./", b"//")])
        said = [line for line in attack.mounted.log.lines() if "left out" in line]
        assert len(said) == 1
        assert f"run {run_id}, directory /: left out {counted} entries" in said[0]


def odd_names(count: int) -> list[str]:
    """Return legal names that are as odd as can be, the same each time."""
    chosen = random.Random(13)
    letters = (
        "\n\t\r\x01\x1b\x7f'\"`\\$&;|<>*?[]{}()!#%~ .-"
        "\u05e9\u0627\u202e\u2066\u200f\u0301\u0327\u200d\u200b\ufeff\u00a0\u2028"
        "e\u00e9\u00dfI\u0130\u65e5\U0001f600\U0001f469\U0001f3fd\U000e0041\ufffd\ufffe\U0010ffff"
    )
    names: dict[str, None] = {}
    while len(names) < count:
        name = "".join(chosen.choices(letters, k=chosen.choice((1, 2, 3, 8, 30, 120))))
        # Every tenth as long as a name can be.
        if chosen.random() < 0.1:
            name = (name * 255).encode()[:255].decode("utf-8", "ignore")
            name += "x" * (255 - len(name.encode()))
        if name not in (".", "..") and len(name.encode()) <= 255:
            names[name] = None
    return list(names)


def test_odd_names(attack: Attacked) -> None:
    """1.4: 10,000 odd names, newlines, quotes, right to left, emoji, combining, 255 bytes, are shown byte for byte."""
    names = odd_names(10_000)
    files = {name: name.encode() for name in names}
    run_id = attack.server.plant(files=files)

    found = attack.mounted.sh(r'cd "$M/runs/$1" && find . -mindepth 1 -printf "%P\0%s\0"', run_id).ok().out.split(b"\0")
    assert dict(zip(found[::2], found[1::2], strict=False)) == {n.encode(): b"%d" % len(n.encode()) for n in names}
    assert sorted(attack.mounted.sh('ls -f "$M/runs/$1"', run_id).ok().out[:-1].split(b"\n")) == sorted(
        [b".", b"..", *b"\n".join(name.encode() for name in names).split(b"\n")]
    )
    for name in names[::200]:
        done = attack.mounted.sh('cat -- "$M/runs/$1/$2"', run_id, name).ok()
        assert done.out == name.encode()
    asked = [
        each.query["artifact_path"] for each in attack.server.asked("artifact_path=") if f"{run_id:032x}" in each.target
    ]
    assert asked == [f"{run_id:032x}/artifacts/{name}" for name in names[::200]]


# --- paths and ids ------------------------------------------------------------------------------------

PREFIXES = [
    "../../../etc",
    "/etc",
    "..",
    ".",
    "",
    "/",
    "a\0b",
    "a b#?%2e%2e&project_id=1+",
    "http://127.0.0.1:1/",
    "\r\nX: y",
]
PROJECTS = ["../../x?y#z", "..", ".", "a/b", "%2e%2e", "1&artifact_path=x", "\r\nX: y", "\0", " ", "\u00e9", "x" * 1000]


def only_known_files(attack: Attacked) -> None:
    """Check that nothing came to be but what a mount keeps, where it keeps it."""
    place = attack.mounted.shell.directory
    kept = {
        os.path.relpath(os.path.join(top, name), place)
        for below in sorted(os.listdir(place))
        if below != "mnt"
        for top, _, names in os.walk(os.path.join(place, below))
        for name in names
    }
    kept |= {name for name in os.listdir(place) if os.path.isfile(os.path.join(place, name))}
    blocks = r"[a-z0-9-]+/(usage|[0-9a-f]{2}/[0-9a-f]{30}/[\w.-]+)"
    cached = rf"cache/artifactfs/(CACHEDIR\.TAG|metadata-1\.(lock|sqlite(-wal|-shm)?)|{blocks})"
    known = rf"mnt\.log|state/artifactfs/mounts/[0-9a-f]{{16}}\.json|{cached}"
    assert not [name for name in kept if not re.fullmatch(known, name)]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_path_in_project_is_opaque(prefix: str, attack: Attacked) -> None:
    """1.3: a run's path in its project, whatever it is, goes back as it came, as one value; it names no file here."""
    run_id = attack.server.plant(prefix=prefix)

    done = attack.mounted.sh('cd "$M/runs/$1" && find . -mindepth 1 | sort && cat a.bin sub/b.txt', run_id).ok()
    assert done.out == b"./a.bin\n./sub\n./sub/b.txt\n" + BODY + FILES["sub/b.txt"]
    asked = [each.query for each in attack.server.asked(f"content?project_id={run_id}&")]
    start = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    assert asked == [{"project_id": str(run_id), "artifact_path": start + name} for name in ("a.bin", "sub/b.txt")]
    only_known_files(attack)


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_id_is_opaque(project: str, attack: Attacked) -> None:
    """1.3, 6.4: a project's id, whatever it is, goes back as it came, as one value, and leads to no other endpoint."""
    files = {f"d{i}/e{j}/f/g.txt": b"g" for i in range(5) for j in range(2)}
    run_id = attack.server.plant(project=project, files=files)
    before = len(attack.server.received)

    assert attack.mounted.tree(run_id).keys() >= {name.encode() for name in files}
    assert attack.mounted.sh('cat "$M/runs/$1/d0/e0/f/g.txt"', run_id).ok().out == b"g"
    for each in attack.server.received[before:]:
        kind = re.fullmatch(
            r"/api/v2/model-lab-api/(runs/\d+(/artifacts)?|artifacts/content|projects/[^/]+/artifacts)", each.path
        )
        assert kind, each.target
        if kind[1] == "artifacts/content":
            assert each.query == {"project_id": project, "artifact_path": f"{run_id:032x}/artifacts/d0/e0/f/g.txt"}
    only_known_files(attack)


@pytest.mark.parametrize("what", ["path in project", "project", "path"])
def test_too_long_for_a_url(what: str, attack: Attacked) -> None:
    """6.4: of a path that no URL can hold (1 MB) nothing is asked; its content is an error, its name can be seen."""
    long = "x/" * (1 << 19)
    run_id = attack.server.plant(
        prefix=long if what == "path in project" else None, project=long if what == "project" else None
    )
    before = len(attack.server.received)

    if what == "path":
        attack.server.of(run_id).listing = raw(ok(listing([{"path": long + "a", "is_dir": False, "file_size": 1}])))
        assert attack.mounted.sh('ls "$M/runs/$1"', run_id).ok().text == "x\n"
    else:
        check_failed(attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id), errno.EIO)
        assert attack.mounted.sh('ls "$M/runs/$1"', run_id).ok().text == "a.bin\nsub\n"
    assert all(len(each.target) < 1000 for each in attack.server.received[before:])


@pytest.mark.parametrize(
    "told",
    [
        "5",
        '"5"',
        "-RUN",
        '"-RUN"',
        "0",
        "RUN.0",
        "null",
        "true",
        "1e3",
        "1.0",
        "[]",
        "{}",
        '"../x"',
        '"\u0665"',
        f'"{"9" * 5000}"',
        str(10**30),
    ],
    ids=lambda told: told[:20],
)
def test_a_run_of_another_id(told: str, attack: Attacked) -> None:
    """1.2: a run that says that it is another one, or none at all, is no answer: EBADMSG, and is not shown."""
    run_id = attack.server.plant()
    planted = attack.server.of(run_id)
    planted.run = raw(
        ok(told_run(planted).replace(b'"id": "%d"' % run_id, b'"id": ' + told.replace("RUN", str(run_id)).encode()))
    )

    check_failed(attack.mounted.sh('ls "$M/runs/$1"', run_id), errno.EBADMSG)


def test_ids_in_a_page_of_runs(tmp_path: Path) -> None:
    """1.2, 1.3: of a page's runs those are shown whose id is one: of 1 to 2^63-1, number or text; once each."""
    odd: list[object] = [
        0, -6, 2**63, 10**30, "0", "-11", "1e3", "../../etc", "a/b", "", " 8", "\n9", "12\0", "\u0666\u0667",
        "9" * 5000, 1.5, 13.0, None, True, [], {},
    ]  # fmt: skip
    with attacked(str(tmp_path)) as attack, attack.survives():
        attack.server.runs = raw(ok(page([5, *odd, 5, "5", 2**63 - 1, "70158"])))
        assert attack.mounted.sh('ls -f "$M/runs"').ok().text.split() == [".", "..", "5", str(2**63 - 1), "70158"]
