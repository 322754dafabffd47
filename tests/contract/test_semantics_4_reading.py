"""Section 4 of the contract, and 2.2: every byte is the server's, whatever the server does and however one reads."""

import errno
import json
import subprocess
import urllib.request

import pytest

from tests.contract.reading import WAYS, read
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, holding, run
from tests.pairwise import Row, pairwise

# Blocks, extents and odd ends: 512 KiB and 8 MiB are the reader's units.
SIZE = (9 << 20) + 12_345
SMALL = 1_389

# What the content endpoint may be like: model-lab-api.md, 9 to 13.
SERVER: dict[str, list[object]] = {
    "ranges": ["granted", "ignored"],
    "length": ["content-length", "chunked"],
    "etag": ["none", "strong", "changing"],
    "redirect": ["none", "same", "other"],
}
UNKNOWN_SIZES: dict[str, list[object]] = {
    "ranges": ["granted", "ignored"],
    "etag": ["none", "strong"],
    "shared": [False, True],
}


def name_of(row: Row) -> str:
    return ",".join(f"{name}={value}" for name, value in row.items())


# Two ways to a mount: each way still meets each form of a server.
TWO_WAYS = list(zip(*[iter(WAYS)] * 2, strict=True))


@pytest.mark.parametrize("row", pairwise({"ways": TWO_WAYS, **SERVER}), ids=name_of)
def test_every_way_of_reading_gets_the_servers_bytes(row: Row, lab: Lab, mounting: Mounting) -> None:
    """4.2: any access pattern works, with ranges or without, and 4.1: every byte is the server's."""
    lab.switch(**{name: row[name] for name in SERVER})
    mounted = mounting()
    ways = row["ways"]
    assert isinstance(ways, tuple)
    for way in ways:
        run_id = lab.new_run({"model/weights.bin": SIZE, "model/small.txt": SMALL})
        for name in ("model/weights.bin", "model/small.txt"):
            assert read(mounted, way, "runs", run_id, name) == lab.sha256(run_id, name), way


@pytest.mark.parametrize("row", pairwise(UNKNOWN_SIZES), ids=name_of)
def test_a_size_that_the_listing_lacks_is_found_by_open(row: Row, lab: Lab, mounting: Mounting) -> None:
    """2.2: a size that the listing does not give is found by `open` before it answers: cp, tar and mmap are right.
    Other users' access makes no difference, though GNU tar goes by the permission to read."""
    lab.switch(size_form="absent", ranges=row["ranges"], etag=row["etag"])
    mounted = mounting("--allow-other") if row["shared"] else mounting()
    for way in ("whole", "mmap", "cp --sparse", "tar", "eight threads at random"):
        run_id = lab.new_run({"big.bin": SIZE, "small.txt": SMALL, "empty": 0})
        for name in ("big.bin", "small.txt", "empty"):
            assert read(mounted, way, "runs", run_id, name) == lab.sha256(run_id, name), way


def test_a_body_without_any_length_is_read_to_its_end(lab: Lab, mounting: Mounting) -> None:
    """2.2: where no answer tells the length, a reader gets all bytes all the same."""
    lab.switch(size_form="absent", ranges="ignored", length="chunked")
    run_id = lab.new_run({"big.bin": SIZE, "small.txt": SMALL})
    mounted = mounting()
    for name in ("big.bin", "small.txt"):
        assert read(mounted, "whole", "runs", run_id, name) == lab.sha256(run_id, name)


@pytest.mark.parametrize("cut", [1, 100_000, 3_000_001])
def test_an_answer_that_breaks_off_is_resumed(cut: int, lab: Lab, mounting: Mounting) -> None:
    """4.1: bodies that are cut, each after so many bytes, are put together to the whole file."""
    run_id = lab.new_run({"big.bin": 4 << 20})
    mounted = mounting()
    lab.fault("content", {"cut_after": cut}, times=12)
    assert read(mounted, "whole", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")


def test_a_connection_that_is_reset_in_a_body_is_resumed(lab: Lab, mounting: Mounting) -> None:
    """4.1: a reset in the middle of a body costs a request, not the read."""
    run_id = lab.new_run({"big.bin": SIZE})
    mounted = mounting()
    lab.fault("content", {"reset_after": 300_000}, times=3)
    assert read(mounted, "whole", "runs", run_id, "big.bin") == lab.sha256(run_id, "big.bin")


@pytest.mark.parametrize(
    ("wrong", "failures"),
    [
        ({"wrong_content": "html"}, {errno.EBADMSG}),
        ({"encoding": "gzip"}, {errno.EBADMSG}),
        ({"wrong_content": "wrong_range"}, {errno.EBADMSG}),
        ({"wrong_content": "wrong_total"}, {errno.ESTALE, errno.EIO}),
        ({"wrong_content": "short", "ranges": "ignored"}, {errno.EIO}),
        ({"redirect": "loop"}, {errno.EBADMSG}),
        ({"missing_content": 404, "ranges": "granted"}, set()),
    ],
    ids=str,
)
def test_a_wrong_body_fails_the_read(
    wrong: dict[str, object], failures: set[int], lab: Lab, mounting: Mounting
) -> None:
    """4.1: what is not the file fails with its errno: never a wrong byte, never a short file. Then it reads again."""
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = mounting()
    mounted.log.announce("content|read of|changed while it was read", optional=True)
    lab.switch(**wrong)
    found = read(mounted, "whole", "runs", run_id, "model.bin")
    assert found in failures if failures else found == lab.sha256(run_id, "model.bin")
    lab.switch(wrong_content="none", encoding="identity", redirect="none", ranges="granted")
    if "wrong_total" in wrong.values():
        # The wrong length was trusted against the listing (4.1), so the first right answer looks like a change.
        assert read(mounted, "whole", "runs", run_id, "model.bin") == errno.ESTALE
    assert read(mounted, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")


def test_a_body_with_more_bytes_than_it_announces(lab: Lab, mounting: Mounting) -> None:
    """4.1: it ends what is open, whose programs may have some of it; that stays nowhere, not in the kernel either."""
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = mounting()
    mounted.log.announce("more bytes came than")
    lab.switch(wrong_content="surplus", bytes_per_s=SIZE)
    assert read(mounted, "whole", "runs", run_id, "model.bin") == errno.EBADMSG
    lab.switch(wrong_content="none", bytes_per_s=0)
    assert read(mounted, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")


def test_a_body_that_always_breaks_off_at_half_is_an_error(lab: Lab, mounting: Mounting) -> None:
    """4.1: without ranges, a body that never gets past its middle fails the read with EIO."""
    lab.switch(ranges="ignored")
    run_id = lab.new_run({"big.bin": SIZE})
    mounted = mounting()
    mounted.log.announce("content|read of")
    lab.fault("content", {"cut_after": SIZE // 2})
    assert read(mounted, "whole", "runs", run_id, "big.bin") == errno.EIO


@pytest.mark.parametrize("etag", ["none", "strong"])
def test_another_version_under_an_open_file_is_stale(etag: str, lab: Lab, mounting: Mounting) -> None:
    """4.1: a file that changes under its reader fails with ESTALE, and opening it again shows the new one."""
    lab.switch(etag=etag)
    size = 40 << 20
    run_id = lab.new_run({"log.bin": size})
    mounted = mounting()
    mounted.log.announce("changed while it was read")
    code = """
import json, os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
assert len(os.pread(fd, 4096, 0)) == 4096
print("opened", flush=True)
input()
try:
    while os.read(fd, 1 << 20): pass
    print("read on", flush=True)
except OSError as error:
    print(error.errno, flush=True)
"""
    command = mounted.python_command(code, mounted.path("runs", run_id, "log.bin"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"opened\n"
        # With a validator the same size will do; without one the size has to tell.
        lab.files(run_id, change={"log.bin": {"size": size if etag == "strong" else size + 1}})
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{errno.ESTALE}\n".encode()
    assert read(mounted, "whole", "runs", run_id, "log.bin") == lab.sha256(run_id, "log.bin")


def test_a_length_that_the_listing_gets_wrong(lab: Lab, mounting: Mounting) -> None:
    """4.1: where a fresh listing still disagrees with the content's length, the content's counts."""
    run_id = lab.new_run({"model.bin": 100_000})
    mounted = mounting()
    mounted.log.announce("changed while it was read")
    listing = {
        "data": {
            "id": str(run_id),
            "type": "artifacts",
            "attributes": {
                "files": [{"path": "model.bin", "is_dir": False, "file_size": 60_000}],
                "path_in_project": path_in_project(lab, run_id),
            },
        }
    }
    lab.faults(
        {
            "match": {"kind": "listing", "path_contains": str(run_id)},
            "then": {"status": 200, "body": json.dumps(listing)},
        }
    )
    assert read(mounted, "whole", "runs", run_id, "model.bin") == errno.ESTALE
    assert read(mounted, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")


def path_in_project(lab: Lab, run_id: int) -> str:
    """Ask the service itself where a run's artifacts are."""
    url = f"{lab.url}/api/v2/model-lab-api/runs/{run_id}/artifacts"
    request = urllib.request.Request(url, headers={"DD-API-KEY": lab.api_key, "DD-APPLICATION-KEY": lab.app_key})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        found: str = json.load(answer)["data"]["attributes"]["path_in_project"]
    return found


def test_a_deleted_file_is_stale_for_its_open_handle(lab: Lab, mounting_patiently: Mounting) -> None:
    """4.1: reading a file that was deleted on the server fails with ESTALE, and looking it up again with ENOENT."""
    run_id = lab.new_run({"gone.bin": SIZE, "stays": 1})
    mounted = mounting_patiently("--listing-ttl", "0", "--finished-ttl", "0")
    mounted.log.announce("content of /runs/")
    with_open = """
import json, os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
print("opened", flush=True)
input()
try: os.pread(fd, 4096, 1 << 20); print(0)
except OSError as error: print(error.errno)
"""
    command = mounted.python_command(with_open, mounted.path("runs", run_id, "gone.bin"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"opened\n"
        lab.files(run_id, remove=["gone.bin"])
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{errno.ESTALE}\n".encode()
    assert mounted.error_of("runs", run_id, "gone.bin") == errno.ENOENT


def test_no_key_reaches_another_origin(lab: Lab, mounting: Mounting) -> None:
    """6.1: a redirect's other origin gets the request, and no credentials."""
    lab.switch(redirect="other")
    run_id = lab.new_run({"model.bin": SIZE})
    mounted = mounting()
    assert read(mounted, "whole", "runs", run_id, "model.bin") == lab.sha256(run_id, "model.bin")
    storage = [entry for entry in lab.stats()["log"] if entry["kind"] == "storage"]
    assert storage
    assert not any(entry["keys"] for entry in storage)


def test_programs_of_every_day(lab: Lab, mounting: Mounting) -> None:
    """4.2: cp -r, grep -r, diff and cmp work on a tree."""
    run_id = lab.new_run({"a/one.json": 5_000, "a/two.bin": 700_000, "a/b/three.md": 20_000, "a/empty": 0})
    mounted = mounting()
    mounted.sh(
        'd=$(mktemp -d) && cp -r "$M/runs/$1" "$d/copy" && diff -r "$M/runs/$1" "$d/copy" && rm -r "$d"', run_id
    ).ok()
    assert mounted.sh('grep -rlc note "$M/runs/$1"', run_id).text.endswith("three.md\n")
    assert run("df", mounted.point).ok()


def test_a_file_that_is_empty_by_now(lab: Lab, mounted: Mount) -> None:
    """4.1: a caller that has a file open that was emptied gets ESTALE, and not an error that says nothing of it."""
    run_id = lab.new_run({"a": 7})
    mounted.log.announce("ended after|body of 0 bytes|changed while|came for 7")
    code = (
        "import os, sys\n"
        "held = os.open(sys.argv[1] + '/runs/' + sys.argv[2] + '/a', os.O_RDONLY)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: print(len(os.read(held, 10)))\n"
        "except OSError as error: print(error.errno)"
    )
    with holding(mounted.python_command(code, run_id)) as held:
        lab.files(run_id, change={"a": {"size": 0}})
        assert int(held.go_on()) == errno.ESTALE
    assert mounted.sh('cat "$M/runs/$1/a" | wc -c', run_id).ok().text == "0\n"
