"""6.1, 6.2: what a mount says of itself holds no keys, and only the owner and root get to hear it."""

import json
import os

from artifactfs.emulator import sample
from artifactfs.errors import ExitCode
from tests.answers import ok, raw
from tests.attacked import Attacked
from tests.fixtures import User
from tests.harness import Lab, Mount, Shell, needs_root, run
from tests.status import report

REPORTS = ("status.json", "metrics", "errors")


def all_that_is_said(mounted: Mount) -> str:
    """Return every word of a mount about itself, and the commands' of it."""
    shell = mounted.shell
    said = [report(mounted, name) for name in REPORTS]
    for command in (
        ("status",), ("status", "--json"), ("status", mounted.point), ("status", "--json", mounted.point),
        ("info", mounted.path("runs")), ("info", "--json", mounted.path("runs", sample.RUN)),
    ):  # fmt: skip
        done = shell.cli(*command)
        said += [done.text, done.err]
    return "\n".join(said)


def test_no_keys_in_messages(lab: Lab, mounted: Mount) -> None:
    """6.1: status, metrics, errors and info of a mount name no key, nor does the process of a command."""
    mounted.log.announce("answered 401|keys")
    mounted.sh('ls "$M/runs/$1"', sample.RUN).ok()
    lab.fault("listing", {"status": 401, "body": f'{{"errors":["bad key {lab.api_key} and {lab.app_key}"]}}'})
    mounted.sh('ls "$M/runs/$1"', lab.new_run())
    said = all_that_is_said(mounted)
    assert "bad key ********" in said
    for key in (lab.api_key, lab.app_key):
        assert key not in said


@needs_root
def test_others_hear_nothing(lab: Lab, open_shell: Shell, user: User) -> None:
    """6.2: with allow_other another user reads artifacts, and neither status nor info, nor can he refresh anything."""
    mounted = open_shell.mount("--allow-other")
    place = mounted.path("runs", sample.RUN)
    assert run(*user.prefix, "ls", place).code == 0
    number = run(*user.prefix, "stat", "-c", "%i", place).ok().text.strip()
    private = [".artifactfs", *(f".artifactfs/{name}" for name in (*REPORTS, f"info/{number}", f"refresh/{number}"))]
    report(mounted)  # the owner has looked: the kernel knows the names
    lab.reset()
    for name in private:
        for command in ("ls", "cat"):
            done = run(*user.prefix, command, mounted.path(name))
            assert done.code != 0, name
            assert "Permission denied" in done.err, name
            assert done.text == ""
    env = {**os.environ, **user.env}
    for asking in (("status", mounted.point), ("refresh", place), ("info", place)):
        done = run(*user.prefix, user.python, "-m", "artifactfs", *asking, env=env)
        assert done.code == ExitCode.NO_ANSWER, done.err
        assert done.err.count("\n") == 1
        assert "answers only root, who mounted it; run `sudo artifactfs …`" in done.err
        assert done.text == ""
    assert run(*user.prefix, user.python, "-m", "artifactfs", "status", env=env).text == ""
    assert lab.total() == 0
    open_shell.cli("status", mounted.point).ok()


@needs_root
def test_root_hears_of_a_users_mount(lab: Lab, user_shell: Shell, user: User) -> None:
    """6.2: an ordinary user's status is his; without allow_other not even root gets in; the error says so."""
    mounted = user_shell.mount()
    assert mounted.point in user_shell.cli("status").ok().text
    assert user_shell.cli("info", mounted.path("runs", sample.RUN)).code == 0
    user_shell.cli("refresh", mounted.path("runs", sample.RUN)).ok()
    place, out = mounted.path("runs"), user_shell.path("out")
    for asking in (
        ("status", mounted.point), ("refresh", place), ("info", place), ("warm", f"{place}/{sample.RUN}"),
        ("download", f"{place}/{sample.RUN}", out),
    ):  # fmt: skip
        run_as_root = run(user.python, "-m", "artifactfs", *asking, env={**os.environ, **user.env})
        assert run_as_root.code == ExitCode.NO_ANSWER
        assert "answers only nobody, who mounted it, and not root either; run `sudo -u nobody" in run_as_root.err


HOSTILE_RUN = (
    '{"data":{"id":"%d","type":"runs","attributes":{"name":"\\u001b[2Jx\\u0007\\u202e\\ud800\\nfake line",'
    '"project_id":1,'
    '"status":"\\u001b]0;t\\u0007","external_url":"javascript:alert(1)//\\u001b","params":[{"key":"\\u001b[31m",'
    '"value":"a\\nb"},7,{"key":5},null,{"value":"x"}],"tags":"none","metric_summaries":[{"key":"m\\u001b","latest":1e999,'
    '"min":"x","count":true},{"key":"n","latest":0.5}],"duration":"long","created_at":5,"owner_id":{"x":1}}}}'
)


def test_a_terminal_is_safe_from_what_a_server_says(own_attack: Attacked) -> None:
    """6.1: what a hostile server says of a run reaches the terminal printable; --json keeps it exact, and parses."""
    server, mounted = own_attack.server, own_attack.mounted
    run_id = server.plant()
    server.of(run_id).run = raw(ok((HOSTILE_RUN % run_id).encode()))
    shell = mounted.shell
    done = shell.cli("info", mounted.path("runs", run_id)).ok()
    assert "".join(done.text.splitlines()).isprintable()
    assert "javascript" not in done.text
    assert "fake line" in next(line for line in done.text.splitlines() if line.startswith("run "))
    exact = json.loads(shell.cli("info", "--json", mounted.path("runs", run_id)).ok().text)["run"]
    assert exact["name"] == "\x1b[2Jx\x07\u202e\ud800\nfake line"
    assert exact["params"] == [{"key": "\x1b[31m", "value": "a\nb"}]
    assert exact["metrics"][0] == dict.fromkeys(exact["metrics"][0]) | {"key": "m\x1b"}
    assert exact["external_url"] == "javascript:alert(1)//\x1b"
    for name in REPORTS:
        assert report(mounted, name).replace("\n", "").isprintable()
