"""`artifactfs search`, by the real command: the runs that words choose, without a mount (docs/semantics.md 1.8)."""

import json

import pytest

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.harness import Lab, Shell
from tests.terminal import check_safe, terminal


@pytest.fixture
def service(shell: Shell, lab: Lab) -> Shell:
    """Where `artifactfs` finds the lab by the environment."""
    shell.more_env["ARTIFACTFS_API_URL"] = lab.url
    return shell


def test_a_table(lab: Lab, service: Shell) -> None:
    """1.8: number, name, status, project and times, the last updated first; a request to check the keys, one a page."""
    done = service.cli("search", "sweep-7", "status:failed", f"project:{sample.MANY_PROJECT}").ok()
    head, *rows = done.text.splitlines()
    assert head.split() == ["run", "name", "status", "project", "updated", "created", "duration"]
    assert [row.split()[:5] for row in rows] == [
        [str(run_id), "sweep-7", "failed", "many-runs", "(3006)"] for run_id in (60208, 60158, 60108, 60058, 60008)
    ]
    assert lab.requests() == {"runs": 2, "project": 1}


def test_a_table_on_a_terminal(lab: Lab, service: Shell) -> None:
    """1.8, 6.5: the same runs, drawn for a terminal; a name in rich's own markup is shown as it is."""
    run_id = lab.new_run(name="[red]markup[/red] \x1b[2J")
    with terminal(*service.program, "search", "markup", env=service.env) as screen:
        assert screen.ends() == 0
    head, row = check_safe(screen.text).splitlines()
    assert head.split()[:3] == ["run", "name", "status"]
    assert row.split()[:4] == [str(run_id), "[red]markup[/red]", "\\x1b[2J", "completed"]


def test_json(lab: Lab, service: Shell) -> None:
    """1.8: --json has all that is known of each run; -n says how many."""
    done = service.cli("search", "--json", "-n", "3", "param:learning_rate>=0.01", "tag:dataset=c4, en").ok()
    found = json.loads(done.text)
    assert len(found) == 3
    for run in found:
        assert run["project_name"] == "many-runs"
        assert {"key": "dataset", "value": "c4, en"} in run["tags"]
        assert float(next(each["value"] for each in run["params"] if each["key"] == "learning_rate")) >= 0.01
    assert lab.total() > 0


def test_a_name_that_is_meant_for_a_terminal(lab: Lab, service: Shell) -> None:
    """6.5: control characters of names are escaped, and break no line."""
    run_id = lab.new_run(name="evil\x1b[2J\nname")
    done = service.cli("search", "evil").ok()
    assert "\x1b" not in done.text
    assert [line.split()[0] for line in done.text.splitlines()[1:]] == [str(run_id)]
    assert service.cli("search", "--json", "nothing is called so").ok().text == "[]\n"
    assert "no run matches" in service.cli("search", "nothing is called so").ok().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["colour:red"], "colour: is no term; there are status:, tag:, param:, project:, owner:, parent:"),
        (["param:lr"], "put words with < or > into quotes"),
        (["status:done"], "a status is one of"),
        ([""], "there are no words"),
    ],
)
def test_an_unknown_term(words: list[str], reason: str, lab: Lab, service: Shell) -> None:
    """1.8: a term that means nothing is one line that says what does, and costs nothing."""
    done = service.cli("search", *words)
    assert done.code == ExitCode.USAGE
    assert len(done.err.splitlines()) == 1
    assert reason in done.err
    assert lab.total() == 0


def test_a_service_that_fails_or_ignores(lab: Lab, service: Shell) -> None:
    """5.3, 1.7: a failure is one line; a service that ignores a filter is said to, and no wrong run is shown."""
    lab.fault("runs", {"status": 500})
    done = service.cli("search", "x")
    assert done.code != 0
    assert len(done.err.splitlines()) == 1
    lab.faults()
    row = {"id": "1", "type": "runs", "attributes": {"project_id": 1, "name": "other", "status": "completed"}}
    lab.fault("runs", {"status": 200, "body": json.dumps({"data": [row]})})
    done = service.cli("search", "lora").ok()
    assert done.text == ""
    assert "does not choose runs by all of filter 'lora'" in done.err
