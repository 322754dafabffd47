"""docs/fleets.md and docs/nginx/artifactfs.conf: a real nginx between real mounts and a lab behind TLS."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from artifactfs.errors import ExitCode
from tests.fixtures import PATIENT
from tests.harness import Lab, Mount, Shell
from tests.leaks import found
from tests.mount.fleet import CONTENT, HOST, LONG, RUNS, Fleet, read, running
from tests.nginx import Nginx, nginx

# A second account of the same lab: its access token.
TOKEN = {"DD_API_KEY": None, "DD_APP_KEY": None, "DD_ACCESS_TOKEN": "demo-access-token"}


@pytest.fixture
def fleet(shell: Shell, lab: Lab) -> Iterator[Fleet]:
    with running(shell, lab, LONG) as each:
        yield each


# --- what is shared -------------------------------------------------------------------------------------


def test_two_machines_of_one_account(fleet: Fleet) -> None:
    """What the first has listed and read costs the service nothing for the second, and is the same."""
    run_id = fleet.lab.new_run({"a.txt": 10, "sub/b 100%.bin": 3_000_000, "sub/deep/c#é.bin": 1 << 20, "empty": 0})
    first, second = fleet.mount("one"), fleet.mount("two")
    told = read(first, run_id)
    once = fleet.lab.requests()
    assert once["listing"] == 3
    # One for each MiB that has a byte of a file, one for the empty file at most.
    assert 5 <= once["content"] <= 6
    assert read(second, run_id) == told
    again = fleet.lab.requests()
    # An empty file has no part that could be kept.
    assert {kind: count - once[kind] for kind, count in again.items()}.get("listing") == 0
    assert again["content"] - once["content"] <= 1
    for path in ("a.txt", "sub/b 100%.bin", "sub/deep/c#é.bin"):
        assert fleet.lab.sha256(run_id, path) in told
    # The name that was asked for, by TLS, is the site's.
    assert set(fleet.front.names) == {HOST}


def test_many_at_once(fleet: Fleet) -> None:
    """Of many machines that start on one file at once, one request for each part goes on."""
    run_id = fleet.lab.new_run({"model.bin": 2 << 20})
    machines = [fleet.mount(f"m{number}") for number in range(4)]
    fleet.lab.switch(latency_s=0.3)
    script = " & ".join(f'sha256sum "{mounted.path("runs", run_id, "model.bin")}"' for mounted in machines)
    done = machines[0].sh(f"{script} & wait").ok()
    digest = fleet.lab.sha256(run_id, "model.bin")
    assert done.text.count(digest) == len(machines)
    requests = fleet.lab.requests()
    assert requests["content"] == 2
    assert requests["listing"] == 1
    assert requests["run"] == 1


def test_parts(fleet: Fleet) -> None:
    """Ranges across pieces and at a file's ends are right byte for byte, from the cache as at the first time."""
    sizes = [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000]
    run_id = fleet.lab.new_run({f"{size}.bin": size for size in sizes})
    code = (
        "import hashlib, json, os, sys\n"
        "f = os.open(sys.argv[2], os.O_RDONLY); size = os.fstat(f).st_size\n"
        "places = sorted({p for p in (0, 1, 4095, (1 << 20) - 3, 1 << 20, (3 << 20) - 1, size - 5) if 0 <= p < size})\n"
        "print(json.dumps([size, [[p, n, hashlib.sha256(os.pread(f, n, p)).hexdigest()]"
        " for p in places for n in (1, 7, 70_000, 2_500_000)]]))"
    )

    def parts(mounted: Mount) -> list[Any]:
        return [mounted.python(code, mounted.path("runs", run_id, f"{size}.bin")) for size in sizes]

    told = parts(fleet.mount("one"))
    assert [size for size, _ in told] == sizes
    direct = fleet.shell.mount("--cache-dir", fleet.shell.path("cache of none"), "--prefetch", "off", name="direct")
    assert parts(direct) == told
    fleet.lab.reset()
    assert parts(fleet.mount("two")) == told
    assert fleet.lab.requests().get("content", 0) == 0


def test_a_replaced_file(fleet: Fleet) -> None:
    """What is read is of the version that was asked for: a file of a run that goes on is not kept at all."""
    run_id = fleet.lab.new_run({"f.bin": 5000}, status="running")
    first = fleet.mount("one", "--listing-ttl", "0", "--finished-ttl", "0")
    for _ in range(2):
        assert fleet.lab.sha256(run_id, "f.bin") in read(first, run_id)
        fleet.lab.files(run_id, change={"f.bin": {}})
        # The listing is the same, and the file is another: only a caller that asks the service can know.
        second = fleet.mount("two", "--listing-ttl", "0", "--finished-ttl", "0")
        assert fleet.lab.sha256(run_id, "f.bin") in read(second, run_id)
        second.umount()
        first.umount()
        first = fleet.mount("one", "--listing-ttl", "0", "--finished-ttl", "0", "--cache-size", "0")


def test_the_version_is_part_of_the_key(fleet: Fleet) -> None:
    """A run that is finished once more is another: what was kept of it before is not served."""
    run_id = fleet.lab.new_run({"f.bin": 5000})
    before = read(fleet.mount("one"), run_id)
    fleet.lab.files(run_id, change={"f.bin": {}})
    fleet.lab.change_run(run_id, set={"updated_at": "2026-05-17T00:00:00Z"})
    # As after its 20 s: nginx is asked for a run that it does not have.
    for path, content in fleet.proxy.cached().items():
        if f"/runs/{run_id}".encode() in content[:2000]:
            os.unlink(path)
    after = read(fleet.mount("two"), run_id)
    assert after != before
    assert fleet.lab.sha256(run_id, "f.bin") in after


def test_a_file_of_a_finished_run_with_another_size(fleet: Fleet) -> None:
    """What is of another size than the listing says is not even asked for, though the run's times are the same."""
    run_id = fleet.lab.new_run({"f.bin": 5000})
    read(fleet.mount("one"), run_id)
    fleet.lab.files(run_id, change={"f.bin": {"size": 6000}})
    forget_listings(fleet)
    second = fleet.mount("two")
    assert fleet.lab.sha256(run_id, "f.bin") in read(second, run_id)


def forget_listings(fleet: Fleet) -> None:
    """As after their 20 s: nginx is asked for listings that it does not have."""
    for path, content in fleet.proxy.cached().items():
        if CONTENT.encode() not in content[:2000]:
            os.unlink(path)


def test_a_file_of_a_finished_run_with_another_time(fleet: Fleet) -> None:
    """Who has seen that a file is another, by its own time, gets it, though size and the run's times are the same."""
    files = {f"d{number}/e/f.bin": 5000 for number in range(12)}
    run_id = fleet.lab.new_run(files, project=fleet.lab.new_project())
    fleet.shell.program = PATIENT
    first = fleet.mount("one", "--prefetch", "auto")

    def told(mounted: Mount) -> dict[str, tuple[str, str]]:
        """Return time and digest of each file."""
        script = 'cd "$M/runs/$1" && find . -type f -printf "%P %T@ " -exec sha256sum {} ";"'
        rows = [line.split() for line in mounted.sh(script, run_id).ok().text.splitlines()]
        return {path: (time, digest) for path, time, digest, _ in rows}

    before = told(first)
    fleet.lab.files(run_id, change={path: {"created_at": "2026-05-18T00:00:00Z"} for path in files})
    forget_listings(fleet)
    fleet.shell.cli("refresh", first.path("runs", run_id)).ok()
    after = told(first)
    # Of what was listed before the walk was seen to be one, the mount has never known the time.
    seen = [path for path in files if after[path][0] != before[path][0]]
    assert len(seen) >= len(files) // 2
    assert [path for path in seen if after[path][1] != fleet.lab.sha256(run_id, path)] == []


# --- who gets what --------------------------------------------------------------------------------------


def test_another_account(fleet: Fleet) -> None:
    """A mount of another account gets nothing of the first's, and then has entries of its own."""
    run_id = fleet.lab.new_run({"a.txt": 10, "sub/b.bin": 2_000_000})
    told = read(fleet.mount("one"), run_id)
    once = fleet.lab.requests()
    other = fleet.mount("two", env=TOKEN)
    assert read(other, run_id) == told
    assert fleet.lab.requests() == once
    third = fleet.mount("three", env=TOKEN)
    assert read(third, run_id) == told
    assert fleet.lab.total() == 0
    keys = {content.split(b"KEY: ")[1].split(b" ")[0] for content in fleet.proxy.cached().values()}
    assert keys == {b"research", b"others"}


WRONG: list[tuple[str, dict[str, str]]] = [
    ("no keys", {}),
    ("a wrong application key", {"DD_API_KEY": "demo-api-key", "DD_APPLICATION_KEY": "wrong"}),
    ("a wrong API key", {"DD_API_KEY": "wrong", "DD_APPLICATION_KEY": "demo-app-key"}),
    ("another case", {"DD_API_KEY": "DEMO-API-KEY", "DD_APPLICATION_KEY": "DEMO-APP-KEY"}),
    ("a key and more", {"DD_API_KEY": "demo-api-key", "DD_APPLICATION_KEY": "demo-app-key|"}),
    ("both in one", {"DD_API_KEY": "demo-api-key|demo-app-key"}),
    ("the name of an account", {"DD_API_KEY": "research", "DD_APPLICATION_KEY": "research"}),
    ("a wrong token", {"Authorization": "Bearer wrong"}),
    ("keys and a token",
     {"DD_API_KEY": "demo-api-key", "DD_APPLICATION_KEY": "demo-app-key", "Authorization": "Bearer x"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "headers"), WRONG, ids=[name for name, _ in WRONG])
def test_strangers(name: str, headers: dict[str, str], fleet: Fleet) -> None:
    """Who has not both keys of an account gets what the service says, however much is cached; and nothing is kept."""
    run_id = fleet.lab.new_run({"a.txt": 10})
    read(fleet.mount("one"), run_id)
    (content,) = [c for c in fleet.proxy.cached().values() if CONTENT.encode() in c[:2000]]
    key = content.split(b"KEY: ")[1].split(b"\n")[0].decode().split(" ")
    kept = set(fleet.proxy.cached())
    for target, more in ((f"{RUNS}/{run_id}/artifacts", {}), (key[2], {"Artifactfs_Version": key[1]})):
        # With the right keys it comes from the cache.
        right = fleet.get(target, **fleet.keys, **more, Accept_Encoding="gzip, deflate", Range="bytes=0-9")
        assert (right.status in (200, 206), right.headers["x-cache"]) == (True, "HIT")
        got = fleet.get(target, **headers, **more, Accept_Encoding="gzip, deflate", Range="bytes=0-9")
        assert got.status == 403
        assert got.headers.get("x-cache") != "HIT"
    assert set(fleet.proxy.cached()) == kept


def test_keys_unknown_to_nginx(fleet: Fleet) -> None:
    """They work, each request goes on, and nothing of it is kept."""
    with open(fleet.proxy.path("accounts"), encoding="ascii") as file:
        assert "research" in file.read()
    with running_without_accounts(fleet) as proxy:
        run_id = fleet.lab.new_run({"a.txt": 10, "b.bin": 3_000_000})
        mounted = fleet.shell.mount(
            "--api-url", proxy.url, "--ca-file", proxy.ca_file, "--cache-dir", fleet.shell.path("c"), name="three"
        )
        told = read(mounted, run_id)
        assert fleet.lab.sha256(run_id, "b.bin") in told
        assert proxy.cached() == {}
        # So their parts are as large as the mount asks for, not nginx's.
        assert fleet.lab.requests()["content"] >= 2
        mounted.umount()


@contextlib.contextmanager
def running_without_accounts(fleet: Fleet) -> Iterator[Nginx]:
    with nginx(
        fleet.shell.make_directory("nginx2"),
        upstream=f"127.0.0.1:{fleet.front.port}",
        trusted=fleet.shell.path("upstream/cert.pem"),
        certificate=(fleet.shell.path("own/cert.pem"), fleet.shell.path("own/key.pem")),
        accounts="",
    ) as proxy:
        yield proxy


def test_rejected_keys(fleet: Fleet) -> None:
    """Keys that the service rejects are rejected through the proxy, each time."""
    for _ in range(2):
        point = fleet.shell.directory_for_mount()
        done = fleet.shell.cli("mount", *fleet.options("one"), point, env={"DD_APP_KEY": "wrong"})
        assert done.code == ExitCode.KEYS_REJECTED
    assert fleet.lab.requests() == {"runs": 2}
    fleet.lab.fault("runs", {"status": 403}, times=1)
    assert fleet.get(RUNS, **fleet.keys).status == 403
    assert fleet.get(RUNS, **fleet.keys).status == 200


def test_no_key_is_written(fleet: Fleet) -> None:
    """Neither the logs nor the cache, names of its files included, hold a key."""
    run_id = fleet.lab.new_run({"a.txt": 10, "sub/b.bin": 2_000_000})
    read(fleet.mount("one"), run_id)
    read(fleet.mount("two", env=TOKEN), run_id)
    fleet.get(RUNS, DD_API_KEY="wrong", DD_APPLICATION_KEY=fleet.lab.app_key)
    assert fleet.get("/elsewhere", **fleet.keys).status == 404
    # nginx drops headers of such names; at the level of its main log, "info", it would say which, with the value.
    fleet.get(RUNS, {"DD_API_KEY": fleet.lab.api_key, "DD_APPLICATION_KEY": fleet.lab.app_key})
    fleet.front.close()
    assert fleet.get(f"{RUNS}?page[size]=7", **fleet.keys).status == 502
    places = {path: path.encode() + content for path, content in fleet.proxy.cached().items()}
    assert len(places) >= 6
    written = fleet.proxy.written()
    assert f"/runs/{run_id}/artifacts" in written
    assert "[error]" in written
    places["log"] = written.encode()
    assert found(places, (fleet.lab.api_key, fleet.lab.app_key, fleet.lab.access_token)) == []
    assert oct(os.stat(fleet.proxy.path("accounts")).st_mode & 0o777) == "0o600"
    fleet.shell.mounts[0].log.announce(".", optional=True)
