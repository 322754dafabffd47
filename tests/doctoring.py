"""`artifactfs doctor --json` as tests ask for it: its report, by check."""

import json
from collections.abc import Mapping
from typing import Any

from artifactfs.errors import ExitCode
from tests.harness import Done, Shell, wait_until


class Told:
    """What the doctor reported as JSON."""

    def __init__(self, done: Done) -> None:
        assert "Traceback" not in done.err
        self.code = done.code
        self.err = done.err
        report: dict[str, Any] = json.loads(done.out)
        self.rows: list[dict[str, Any]] = report["checks"]
        self.checks: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            assert row["mark"] in ("good", "warning", "fault", "skipped")
            assert row["check"] not in self.checks or row["check"] in ("mounts", "settings")
            # A fault says what fixes it.
            assert row["fix"] or row["mark"] != "fault", row
            # Of several the first, and a fault before all.
            if row["check"] not in self.checks or row["mark"] == "fault":
                self.checks[row["check"]] = row
        self.requests = report["requests"]
        assert report["healthy"] == (done.code == 0)

    def marks(self, *checks: str) -> dict[str, str]:
        return {check: self.checks[check]["mark"] for check in checks}

    def says(self, check: str, mark: str, *texts: str) -> None:
        row = self.checks[check]
        assert row["mark"] == mark, row
        for text in texts:
            assert text in f"{row['fact']} → {row['fix']}", row


def ask(shell: Shell, *arguments: str, env: Mapping[str, str | None] | None = None, code: int | None = None) -> Told:
    assert shell.lab is not None
    shell.lab.reset()
    done = shell.run_forked("doctor", "--json", "--api-url", shell.lab.url, *arguments, env=env)
    for key in (shell.lab.api_key, shell.lab.app_key):
        assert key not in done.text + done.err
    told = Told(done)
    assert told.code in (ExitCode.OK, ExitCode.UNHEALTHY)
    if code is not None:
        assert told.code == code, told.checks
    # What it says of its requests is what was sent.
    wait_until(lambda: shell.lab is None or shell.lab.total() == sum(told.requests.values()), "its requests", 5)
    return told
