"""Sections 1.6, 2.2, 2.3, 4.1 and 6.4 of the contract: times, sizes and a project's listing from a hostile server."""

import errno
import itertools
import json
import os

import pytest

from tests.answers import FILES, Answer, bomb, dripping, endless, gzipped, head, ok, raw, told_run
from tests.attacked import Attacked, check_failed

BODY = FILES["a.bin"]
JSON = "Content-Type: application/json"

# --- times and sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ('"yesterday"', "1970-01-01"), ('""', "1970-01-01"), ("9999999999", "1970-01-01"), ("-1", "1970-01-01"),
        ("null", "1970-01-01"), ("[]", "1970-01-01"), ("1e300", "1970-01-01"), ('"0000-00-00T00:00:00Z"', "1970-01-01"),
        ('"2026-02-30T00:00:00Z"', "1970-01-01"), ('"2026-05-16T09:10:00+99:99"', "1970-01-01"),
        ('"9999-12-31T23:59:59Z"', "9999-12-31"), ('"0001-01-01T00:00:00Z"', "0001-01-01"),
        (f'"2026-05-16T09:10:00.{"9" * 5000}Z"', "2026-05-16"),
    ],
    ids=lambda told: told[:24],
)  # fmt: skip
def test_times(told: str, shown: str, attack: Attacked) -> None:
    """2.3: a run's times that are none are no time, however they are reported; those at the ends of time are shown."""
    run_id = attack.server.plant()
    planted = attack.server.of(run_id)
    planted.run = raw(ok(told_run(planted).replace(b'"2026-05-16T09:10:00.5Z"', told.encode())))

    done = attack.mounted.sh('TZ=UTC stat -c "%y" "$M/runs/$1" "$M/runs/$1/a.bin"', run_id).ok()
    assert [line.split()[0] for line in done.text.splitlines()] == [shown, shown]
    assert attack.mounted.sh('ls -l "$M/runs/$1" && cat "$M/runs/$1/a.bin"', run_id).ok().out.endswith(BODY)


SIZES = [
    "-1",
    "9223372036854775808",
    "1e300",
    "1e400",
    '"NaN"',
    "NaN",
    "-Infinity",
    '"1e3"',
    '"\u0663"',
    "true",
    "[]",
    "{}",
    "1.5",
]


@pytest.mark.parametrize("told", SIZES)
def test_sizes_that_are_none(told: str, attack: Attacked) -> None:
    """2.2: a size that is none is an unknown one: `cp` finds it, and copies the file as it is; its row is shown."""
    rows = b'{"path":"a.bin","is_dir":false,"file_size":%b},{"path":"b","file_size":3}' % told.encode()
    body = b'{"data":{"id":"1","attributes":{"path_in_project":"p","files":[%b]}}}' % rows
    run_id = attack.server.plant(listing=raw(ok(body)), prefix="p")

    done = attack.mounted.sh(
        'cd "$M/runs/$1" && ls && cp a.bin "$2" && cat "$2"', run_id, attack.mounted.shell.path("copy")
    )
    os.unlink(attack.mounted.shell.path("copy"))
    assert done.ok().out == b"a.bin\nb\n" + BODY
    assert attack.mounted.sh('stat -c %s "$M/runs/$1/a.bin"', run_id).ok().text == f"{len(BODY)}\n"


@pytest.mark.parametrize("told", ["9223372036854775807", "1e18", '"12"'])
def test_sizes_that_are_wrong(told: str, attack: Attacked) -> None:
    """4.1: where the listing's size is not the content's, reading is ESTALE once; then the content's counts."""
    rows = b'{"path":"a.bin","is_dir":false,"file_size":%b}' % told.encode()
    body = b'{"data":{"id":"1","attributes":{"path_in_project":"p","files":[%b]}}}' % rows
    run_id = attack.server.plant(listing=raw(ok(body)), prefix="p")

    first = attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id)
    check_failed(first, errno.ESTALE)
    assert first.out == b""
    assert attack.mounted.sh('cat "$M/runs/$1/a.bin"', run_id).ok().out == BODY


# --- a project's listing ------------------------------------------------------------------------------

ROWS = head("200 OK", JSON) + b'{"data":{"id":"1","attributes":{"files":['
FOREIGN = [
    {"artifact_path": f"RUN/artifacts/{path}", "created_at": created, "file_size": size}
    for path in (
        "../x",
        "/etc/passwd",
        "a\0b",
        "d0/../../x",
        "d0/e0/f/g.txt",
        "..",
        "",
        "d0//x",
        "\ud800",
        "x" * 300,
        "d0/e0/new",
    )
    for created in ("yesterday", None, 5, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z")
    for size in (-1, 2**63, 1e300, "NaN", None, True, 3)
]
INDEXES: dict[str, Answer] = {
    "rows without end": endless(ROWS, b'{"artifact_path":"%032x/artifacts/z","file_size":1},' % 7),
    "spaces without end": endless(ROWS, b" "),
    "a text without end": endless(ROWS + b'"', b"a"),
    "depth without end": endless(head("200 OK", JSON), b"["),
    "a row of depth without end": endless(ROWS + b'{"artifact_path":', b'{"a":'),
    "a bomb of spaces": lambda _: itertools.chain([head("200 OK", JSON, "Content-Encoding: gzip")], bomb(2048)),
    "a bomb of depth": lambda _: itertools.chain([head("200 OK", JSON, "Content-Encoding: gzip")], bomb(2048, b"[")),
    "gzip in gzip": raw(head("200 OK", JSON, "Content-Encoding: gzip") + gzipped(gzipped(b"{}"))),
    "no text": raw(ok(b"\xff" * 5000)),
    "UTF-16": raw(ok('{"data":{}}'.encode("utf-16"))),
}


@pytest.mark.parametrize("name", [*INDEXES, "a drip", "names from hell"])
def test_a_projects_listing(name: str, attack: Attacked) -> None:
    """1.6, 1.3, 6.4: a project's listing that is hostile is of no use, and does no harm: the run is walked as it is."""
    files = {f"d{i}/e{j}/f/g.txt": b"g" for i in range(6) for j in range(2)}
    run_id = attack.server.plant(files=files)
    hell = json.dumps({"data": {"id": "1", "attributes": {"files": FOREIGN}}}).replace("RUN", f"{run_id:032x}").encode()
    own = {"a drip": dripping(attack.server.closed, ROWS, b" "), "names from hell": raw(ok(hell))}
    attack.server.of(run_id).index = {**INDEXES, **own}[name]

    for _ in range(2):
        done = attack.mounted.sh(r'cd "$M/runs/$1" && find . -type f -printf "%P %s\n"', run_id).ok()
        assert sorted(done.text.split("\n")) == sorted(["", *(f"{path} 1" for path in files)])
    assert attack.server.asked(f"/projects/{run_id}/artifacts")
    assert attack.mounted.sh('cat "$M/runs/$1/d0/e0/f/g.txt"', run_id).ok().out == b"g"
