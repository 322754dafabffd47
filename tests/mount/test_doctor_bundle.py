"""`artifactfs doctor --bundle FILE`: what is in the file, with a mount and without, and how it is made."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from artifactfs.errors import ExitCode
from tests.harness import Lab, Shell


def bundle(shell: Shell, lab: Lab, *arguments: str) -> dict[str, Any]:
    """Return the bundle that the doctor writes."""
    file = shell.path(f"bundle-{len(os.listdir(shell.path('.')))}.json")
    done = shell.cli("doctor", "--bundle", file, "--api-url", lab.url, *arguments)
    assert done.code in (ExitCode.OK, ExitCode.UNHEALTHY)
    assert "Traceback" not in done.err
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert all(said in done.err for said in (file, "Read it", "SECURITY.md"))
    found: dict[str, Any] = json.loads(Path(file).read_text("ascii"))
    assert sum(found["requests"].values()) <= 5 + 17
    return found


def about(found: dict[str, Any], start: str) -> dict[str, Any]:
    """Return the answer about a question."""
    return next(each for each in found["answers"] if each["about"].startswith(start))


def test_without_a_mount(shell: Shell, lab: Lab) -> None:
    """Versions, findings, settings with their sources, and the forms of answers; no state of a mount of this test."""
    found = bundle(shell, lab, "--run", str(lab.new_run({"d/a.bin": 5000, "b.bin": 10})), "--listing-ttl", "7s")
    assert found["versions"].keys() >= {"artifactfs", "python", "kernel", "libfuse", "trio", "httpx", "pyfuse3"}
    assert {row["check"] for row in found["checks"]} >= {"settings", "keys", "service", "contents"}
    assert found["settings"]["settings"]["listing_ttl"] == {"value": "7s", "source": "--listing-ttl"}
    assert found["settings"]["settings"]["api_key"] == {"value": "set", "source": "DD_API_KEY"}
    assert found["last_log"] is None
    root = about(found, "3 to 6")
    assert root["status"] == 200
    assert root["headers"]["content-type"] == "application/json"
    assert root["body"]["data.attributes.files"] == "1 x list of 2"
    assert about(found, "10: the second byte")["headers"]["content-range"] == "bytes 1-1/10"


def test_with_a_mount(shell: Shell, lab: Lab) -> None:
    """The mount's row, status, failures and log are there, and readable without a name."""
    run_id = lab.new_run({"d/a.bin": 5000})
    mounted = shell.mount()
    mounted.log.announce("answered 500")
    mounted.sh('ls "$M"/runs/$1/d; cat "$M"/runs/$1/d/a.bin | wc -c', run_id)
    lab.fault("listing", {"status": 500})
    mounted.sh('ls "$M"/runs/$1', lab.new_run({"b": 1}))
    found = bundle(shell, lab, mounted.point, "--offline")
    row = found["mounts"][0]
    assert row["status"]["reading"]["fetched_bytes"] == 5000
    assert row["type"] == "fuse.artifactfs"
    assert row["is_mine"] is True
    assert row["status"]["requests"]["by_kind"]["listing"]["ok"] >= 1
    assert row["status"]["mountpoint"] == row["point"]
    assert row["status"]["failures"] >= 1
    assert any("answered 500" in line for line in row["errors"])
    assert any("artifactfs." in line for line in row["log"])
    assert found["answers"] == []


_JOURNALCTL = """#!/bin/sh
echo "$@" >"$0.arguments"
cat "$0.rows"
exit $(cat "$0.code")
"""


@pytest.mark.parametrize(
    ("messages", "code", "expected"),
    [
        (["rate limit of zq.example: waiting 2.5 s", "Traceback:\n  zqhome"], 0,
         ["2026-11-29 20:00:00 WARNING artifactfs.modellab.rate_limits: rate limit of name", "waiting 2.5 s"]),
        ([[1, 2]], 0, None),
        (["no such option"], 1, None),
    ],
    ids=["records", "bytes", "failure"],
)  # fmt: skip
def test_the_journal(
    messages: list[object], code: int, expected: list[str] | None, shell: Shell, lab: Lab, tmp_path: Path
) -> None:
    """6.6: what mounts of this user wrote to systemd's journal is there, redacted as a log is; without one there is
    nothing."""
    tool = tmp_path / "bin/journalctl"
    tool.parent.mkdir()
    tool.write_text(_JOURNALCTL)
    tool.chmod(0o755)
    fields = {"PRIORITY": "4", "LOGGER": "artifactfs.modellab.rate_limits", "__REALTIME_TIMESTAMP": "1795982400000000"}
    rows = [json.dumps(fields | {"MESSAGE": message}) for message in messages]
    Path(f"{tool}.rows").write_text("\n".join(rows) + "\n")
    Path(f"{tool}.code").write_text(str(code))
    shell.more_env["PATH"] = f"{tool.parent}:{os.environ['PATH']}"
    journal = bundle(shell, lab, "--offline")["journal"]
    if expected is None:
        assert journal is None
    else:
        assert all(part in journal[0] for part in expected)
        assert "zq" not in json.dumps(journal)
    asked = Path(f"{tool}.arguments").read_text()
    assert f"_UID={os.getuid()} SYSLOG_IDENTIFIER=artifactfs" in asked


SWITCHES: list[tuple[dict[str, object], str, dict[str, Any]]] = [
    ({"slash": "required"}, "1, 2: a directory without", {"data.attributes.files[].path": "itself"}),
    ({"base": "relative"}, "1, 2: a directory with", {"data.attributes.files[].path": "1 x path of 1"}),
    ({"slash": "refused"}, "1, 2, 4", {"slash": False}),
    ({"base": "relative"}, "1, 2, 4", {"base": "the queried directory"}),
    ({"dir_slash": False}, "3 to 6", {"data.attributes.files[].path": "2 x path of 1"}),
    ({"size_form": "string"}, "3 to 6", {"data.attributes.files[].file_size": "1 x digits"}),
    ({"path_start": "dot_slash"}, "3 to 6", {"data.attributes.files[].path": "starts with ./"}),
    ({"path_of_file": "404"}, "7: a path that names a file", {"status": 404}),
    ({"path_missing": "400"}, "7: a path that names nothing", {"status": 400}),
    ({"page_base": 1}, "runs", {"meta.page.number": "1 x 1"}),
    ({"ranges": "ignored"}, "10: the second byte", {"status": 200}),
    ({"etag": "weak"}, "10: the second byte", {"etag": "weak, quoted"}),
    ({"etag": "changing"}, "10: the ETag", {"is_same": False}),
    ({"etag": "strong"}, "10: the ETag", {"is_same": True}),
    ({"redirect": "same"}, "10: the second byte", {"status": 302}),
    ({"directory_content": "500"}, "10: a directory", {"status": 500}),
    ({"missing_content": "400"}, "10: a file that is not there", {"status": 400}),
    ({"index": "html"}, "the listing of a project", {"not JSON": "HTML or XML"}),
]


@pytest.mark.parametrize(("switches", "question", "expected"), SWITCHES, ids=[str(row[0]) for row in SWITCHES])
def test_the_forms_of_answers(
    switches: dict[str, object], question: str, expected: dict[str, Any], shell: Shell, lab: Lab
) -> None:
    """What the API's documentation leaves open is answered: each switch of the emulator shows in the bundle."""
    run_id = lab.new_run({"d/a.bin": 5000, "b.bin": 10})
    lab.switch(**switches)
    answer = about(bundle(shell, lab, "--run", str(run_id), "--deadline", "5s"), question)
    for name, said in expected.items():
        found = {**answer, **answer.get("headers", {}), **answer.get("body", {})}[name]
        assert said in found if isinstance(said, str) else said == found, answer


def test_a_file_that_exists(shell: Shell, lab: Lab) -> None:
    """An existing file, a link, and a place where no file can be are refused in one line, and nothing is sent."""
    Path(shell.path("there")).write_text("mine")
    os.symlink(shell.path("nowhere"), shell.path("link"))
    lab.reset()
    for name, said in (("there", "exists already"), ("link", "exists already"), ("no/such", "No such file")):
        done = shell.cli("doctor", "--bundle", shell.path(name), "--api-url", lab.url)
        assert done.code == ExitCode.NOT_WRITABLE
        assert said in done.err
        assert done.err.count("\n") == 1
    assert Path(shell.path("there")).read_text() == "mine"
    assert not os.path.exists(shell.path("nowhere"))
    assert lab.total() == 0


def test_a_service_that_is_gone(shell: Shell, lab: Lab) -> None:
    """Without a service, and with settings that cannot be read, the bundle holds the rest."""
    file = shell.path("bundle")
    done = shell.cli("doctor", "--bundle", file, "--api-url", "http://127.0.0.1:1", "--profile", "no-such-profile")
    assert done.code == ExitCode.UNHEALTHY
    found = json.loads(Path(file).read_text("ascii"))
    assert found["answers"] == []
    assert "problem" in found["settings"]
    assert "no-such-profile" not in json.dumps(found)
    assert lab is not None
