"""docs/fleets.md: how old a proxy's answers may be, versions in a header, failures behind the proxy."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests.harness import Lab, Shell, wait_until
from tests.mount.fleet import CONTENT, HOST, LONG, RUNS, Fleet, read, running
from tests.nginx import CONFIGURATION, configured
from tests.tcpproxy import tcp_proxy
from tests.tlsproxy import certificate


@pytest.fixture
def fleet(shell: Shell, lab: Lab) -> Iterator[Fleet]:
    with running(shell, lab, LONG) as each:
        yield each


# --- how old, and what of the rate limit ----------------------------------------------------------------


def test_the_rate_limit(fleet: Fleet) -> None:
    """It is reported with what was asked for just now, a 429 too, and not with what was kept."""
    name = "x-ratelimit-remaining"
    first, second = (fleet.get(RUNS, **fleet.keys) for _ in range(2))
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT")
    assert int(first.headers[name]) > 0
    assert not [each for each in second.headers if each.startswith("x-ratelimit")]
    assert first.body == second.body
    fleet.lab.fault("runs", {"rate_limit": {"reset_s": 7, "name": "lab"}}, times=1)
    limited = fleet.get(f"{RUNS}?page[size]=3", **fleet.keys)
    assert (limited.status, limited.headers["x-ratelimit-reset"], limited.headers[name]) == (429, "7", "0")
    assert fleet.get(f"{RUNS}?page[size]=3", **fleet.keys).status == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_no_error_is_kept(status: int, fleet: Fleet) -> None:
    fleet.lab.fault("run", {"status": status}, times=1)
    assert fleet.get(f"{RUNS}/70158", **fleet.keys).status == status
    assert fleet.get(f"{RUNS}/70158", **fleet.keys).status == 200


def test_what_the_service_tells_browsers(fleet: Fleet) -> None:
    """It is kept though the service forbids that to browsers' caches; its cookies go to no client."""
    told = {"Cache-Control": "no-store, private", "Set-Cookie": "who=first", "Vary": "*", "Expires": "0"}
    fleet.lab.fault("runs", {"headers": told})
    first, second = (fleet.get(RUNS, **fleet.keys) for _ in range(2))
    assert second.headers["x-cache"] == "HIT"
    assert "set-cookie" not in first.headers | second.headers


def test_a_listing_gets_old(shell: Shell, lab: Lab) -> None:
    """After its time it is asked for again."""
    with running(shell, lab, {"proxy_cache_valid 200 20s;": "proxy_cache_valid 200 1s;"}) as fleet:
        run_id = lab.new_run()
        target = f"{RUNS}/{run_id}/artifacts"
        fleet.get(target, **fleet.keys)
        lab.files(run_id, add={"new": 1})
        wait_until(lambda: b'"new"' in fleet.get(target, **fleet.keys).body, "the new listing")


def test_a_content_gets_old(shell: Shell, lab: Lab) -> None:
    """After its time it is asked for again by its ETag, and comes from the cache where it is the same."""
    changes = {**LONG, "proxy_cache_valid 206 1h;": "proxy_cache_valid 206 1s;"}
    with running(shell, lab, changes) as fleet:
        lab.switch(etag="strong")
        run_id = lab.new_run({"f.bin": 2_000_000})
        told = read(fleet.mount("one"), run_id)
        (target, version) = kept_content(fleet)
        statuses: list[str] = []

        def revalidated() -> bool:
            got = fleet.get(target, **fleet.keys, Artifactfs_Version=version, Range="bytes=0-9")
            assert (got.status, len(got.body)) == (206, 10)
            statuses.append(got.headers["x-cache"])
            return statuses[-1] == "REVALIDATED"

        wait_until(revalidated, "a question by ETag")
        assert set(statuses) <= {"HIT", "REVALIDATED"}
        assert 304 in [entry["status"] for entry in lab.stats()["log"]]
        assert read(fleet.mount("two"), run_id) == told


def kept_content(fleet: Fleet) -> tuple[str, str]:
    """Return URL and version of a file that nginx has."""
    for content in fleet.proxy.cached().values():
        words = content.split(b"KEY: ")[1].split(b"\n")[0].decode().split(" ")
        if words[2].startswith(CONTENT):
            return words[2], words[1]
    raise AssertionError("no content is kept")


# --- the header that names a version --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["nothing", "false", "--version-header", "variable", "config file", "-o"])
def test_no_version_is_named_unless_it_is_asked_for(way: str, shell: Shell, lab: Lab) -> None:
    """The API gets no header of ours: only a setting has a mount name versions, for the proxy of a fleet."""
    config = Path(shell.path("config.toml"))
    config.write_text("version_header = true\n", "ascii")
    config.chmod(0o600)
    options = {"config file": ["--config", str(config)], "-o": ["-o", "version_header"]}.get(way, [])
    options += [way] if way.startswith("--") else []
    env = {"variable": {"ARTIFACTFS_VERSION_HEADER": "1"}, "false": {"ARTIFACTFS_VERSION_HEADER": "no"}}.get(way, {})
    run_id = lab.new_run({"a.txt": 10, "sub/b.bin": 3_000_000})
    with tcp_proxy(lab.port) as wire:
        mounted = shell.mount("--api-url", wire.url, *options, env=env)
        assert lab.sha256(run_id, "sub/b.bin") in read(mounted, run_id)
        sent = b"".join(wire.sent).lower()
        mounted.umount()
    assert sent.count(CONTENT.encode()) >= 2
    assert (b"artifactfs-version" in sent) == (way not in ("nothing", "false"))


def test_the_header_ends_at_the_proxy(fleet: Fleet) -> None:
    """nginx keeps by the version, and does not send it on to the API: neither for what it keeps nor for the rest."""
    finished, growing = fleet.lab.new_run({"a.bin": 2_000_000}), fleet.lab.new_run({"b.bin": 10}, status="RUNNING")
    mounted = fleet.mount("one")
    assert read(mounted, finished)
    assert read(mounted, growing)
    assert kept_content(fleet)
    sent = b"".join(fleet.front.sent).lower()
    assert CONTENT.encode() in sent
    assert b"artifactfs-version" not in sent


# --- when something is down -----------------------------------------------------------------------------


def test_the_service_is_down(fleet: Fleet) -> None:
    """What nginx has is served, contents and listings; for the rest it says 502, and a mount shows what it knew."""
    run_id = fleet.lab.new_run({"a.txt": 10, "sub/b.bin": 2_000_000})
    first, second = fleet.mount("one"), fleet.mount("two")
    told = read(first, run_id)
    unknown = fleet.lab.new_run({"a": 1})
    fleet.front.close()
    assert read(second, run_id) == told
    second.log.announce("502", optional=True)
    assert second.sh('ls "$M/runs/$1"', unknown).code != 0
    assert fleet.get(f"{RUNS}/{unknown}", **fleet.keys).status == 502
    assert read(second, run_id) == told


def test_a_certificate_that_is_wrong(shell: Shell, lab: Lab) -> None:
    """nginx does not send keys to who has not the site's certificate."""
    other = certificate(shell.make_directory("other"), HOST)
    with running(shell, lab, LONG, trusted=other[0]) as fleet:
        lab.reset()
        assert fleet.get(RUNS, **fleet.keys).status == 502
        assert lab.total() == 0
        done = shell.cli("doctor", "--json", *fleet.options("one"))
        assert done.code == ExitCode.UNHEALTHY
        assert "502" in done.text


# --- other servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches", [{"ranges": "ignored"}, {"ranges": "ignored", "length": "chunked"}, {"redirect": "same"}], ids=str
)
def test_a_server_that_grants_no_parts(switches: dict[str, object], fleet: Fleet) -> None:
    """Contents pass through, right, and are not kept; listings are."""
    fleet.lab.switch(**switches)
    run_id = fleet.lab.new_run({"a.txt": 10, "sub/b.bin": 3_000_000})
    told = read(fleet.mount("one"), run_id)
    assert fleet.lab.sha256(run_id, "sub/b.bin") in told
    assert [c for c in fleet.proxy.cached().values() if CONTENT.encode() in c[:2000]] == []
    assert read(fleet.mount("two"), run_id) == told
    requests = fleet.lab.requests()
    assert requests.get("listing", 0) == 0
    assert requests["content"] >= 2


def test_the_doctor_through_it(fleet: Fleet) -> None:
    """`artifactfs doctor` says that it works: all that a mount needs comes through."""
    done = fleet.shell.cli("doctor", "--json", *fleet.options("one"))
    assert done.code == 0, done.text
    checks = {row["check"]: row for row in json.loads(done.out)["checks"]}
    assert {checks[name]["mark"] for name in ("service", "contents", "directories", "index", "rate limit")} == {"good"}


# --- the file itself ------------------------------------------------------------------------------------


def test_what_is_to_be_changed_is_marked() -> None:
    """What is the user's to change is marked; a part of the file that a test replaces has to be there."""
    text = Path(CONFIGURATION).read_text("utf-8")
    assert text.count("CHANGE") >= 8
    assert "api.datadoghq.com" in text
    with pytest.raises(AssertionError, match="0 times"):
        configured(text, {"no such thing": ""})
