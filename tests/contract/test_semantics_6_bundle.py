"""Statement 6.6 of the contract: what `artifactfs doctor --bundle` writes holds nothing private."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from artifactfs.errors import ExitCode
from tests import leaks
from tests.harness import Lab, Shell

PROJECT, RUN, FILE, DIRECTORY = "Zq-Fraud détection/für", "Zq run Ωmega", "zqweights ß%1.bin", "zqcheckpoints"
ACCOUNT, PROFILE, POINT, TAG = "zqaccount", "zqprofile", "zqmountpoint", "zqtag"
NUMBER = 918273645546


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_private_is_in_a_bundle(log_format: str, shell: Shell, lab: Lab) -> None:
    """6.6: names, ids, paths, hosts and keys are in no form in the file: with a mount, its failures and its log."""
    project = lab.new_project()
    run_id = lab.new_run(
        {f"{DIRECTORY}/{FILE}": 5000, FILE: 10},
        project=project,
        name=RUN,
        tags=[{"key": TAG, "value": TAG}],
        params=[{"key": TAG, "value": TAG}],
        description=RUN,
    )
    lab.change_project(project, set={"name": PROJECT})
    config = Path(shell.make_directory("config/artifactfs")) / "config.toml"
    config.write_text(f'profile = "{PROFILE}"\n[profiles.{PROFILE}]\naccount = "{ACCOUNT}"\n')
    config.chmod(0o600)
    point = shell.directory_for_mount(POINT)
    shell.cli("mount", "-v", "--log-format", log_format, "--api-url", lab.url, point).ok()
    mounted = shell.expected_mount(POINT)
    mounted.sh('ls -R "$M"/runs/$1; cat "$M"/runs/$1/"$2"; ls "$M"/names/* "$M"/runs/$3', run_id, FILE, NUMBER)
    for kind in ("listing", "content"):
        lab.fault(kind, {"status": 500, "body": json.dumps({"errors": [f"{FILE} of {RUN} at {TAG}"]})}, 20)
    mounted.sh('cat "$M"/runs/$1/$2/"$3"; artifactfs refresh "$M"/runs/$1', run_id, DIRECTORY, FILE)
    lab.faults()
    (log,) = Path(shell.path("state/artifactfs/log")).glob("*.log")
    assert all(word in log.read_text() for word in (DIRECTORY, TAG, POINT, str(run_id), str(NUMBER)))
    file = shell.path("bundle.json")
    done = shell.cli(
        "doctor",
        "--bundle",
        file,
        point,
        "--api-url",
        lab.url,
        "--run",
        str(run_id),
        "--proxy",
        f"http://u:{TAG}@{TAG}.example:1",
    )
    assert done.code in (ExitCode.OK, ExitCode.UNHEALTHY)
    text = Path(file).read_bytes()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    found = json.loads(text)
    row = found["mounts"][0]
    assert row["log"]
    assert row["status"]["failures"] >= 1
    assert len(found["answers"]) > 12
    # What a reader needs is there: in the log, the requests and the failure.
    assert any("answered 500" in line for line in row["errors"])
    words = [PROJECT, RUN, FILE, DIRECTORY, ACCOUNT, PROFILE, POINT, TAG, lab.api_key, lab.app_key]
    words += [shell.directory, os.path.basename(shell.directory), *RUN.split(), *FILE.split(), "Fraud"]
    for form in (
        text,
        text.lower(),
        json.dumps(found, ensure_ascii=False).encode(),
        json.dumps(found, ensure_ascii=False).lower().encode(),
    ):
        for cased in (words, [word.lower() for word in words]):
            assert leaks.found({"bundle": form}, [word for word in cased if len(word) > 3]) == []
    # A digit more, and it is a size or a time.
    assert not any(re.search(rf"\b{number}\b".encode(), text) for number in (run_id, project, NUMBER))
    mounted.umount()


def test_an_existing_file_stays(shell: Shell, lab: Lab) -> None:
    """6.6: no file is written over, and none through a link."""
    Path(shell.path("mine")).write_text("mine")
    os.symlink(shell.path("elsewhere"), shell.path("link"))
    for name in ("mine", "link"):
        assert shell.cli("doctor", "--offline", "--bundle", shell.path(name)).code == ExitCode.NOT_WRITABLE
    assert Path(shell.path("mine")).read_text() == "mine"
    assert not os.path.lexists(shell.path("elsewhere"))
    assert lab is not None
