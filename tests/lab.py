"""An emulator in a process of its own, as tests run it, and the truth that a mount is held against."""

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from tests.ports import held_port
from tests.processes import LIMIT_S

Truth = dict[bytes, int | None]  # path below a run's root -> size, None for a directory


class Lab:
    """An emulator in a process of its own, and what a test tells and asks it (emulator/control_route.py)."""

    program = ("-m", "artifactfs.emulator")  # what Python runs; tests/soak has another

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._next_run = 900_001
        self._next_project = 90_000
        self._held = held_port()
        self.port: int = self._held.getsockname()[1]
        self.start()
        self._switches = self._ask("GET", "switches")

    def start(self) -> None:
        """Start it, or start it again at its port."""
        command = [sys.executable, *self.program, "--until-stdin-closes", "--port", str(self.port)]
        process = subprocess.Popen(
            [*command, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._process = process
        assert process.stdout is not None
        told = json.loads(process.stdout.readline() or b"{}")
        assert told, "the emulator did not start: see its error above"
        self.url: str = told["url"]
        self.other_url: str = told["other_url"]
        self.api_key: str = told["api_key"]
        self.app_key: str = told["app_key"]
        self.access_token: str = told["access_token"]

    def stop(self) -> None:
        """End it at once: from then on its port refuses connections."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def close(self) -> None:
        """End it for good: its port is given back."""
        self.stop()
        self._held.close()

    def settle(self) -> None:
        """Back to how it was started: switches, faults, counts. What was done to runs stays."""
        self.faults()
        self._ask("POST", "switches", self._switches)
        self.reset()

    def faults(self, *rules: Mapping[str, object]) -> None:
        """Replace the fault script."""
        self._ask("POST", "faults", list(rules))

    def fault(self, kind: str, then: Mapping[str, object], times: int | None = None) -> None:
        """Let requests of a kind go wrong: a script of one rule. `then`: see emulator/faults.py."""
        self.faults({"match": {"kind": kind}, "then": then, "times": times})

    def switch(self, **values: object) -> None:
        self._ask("POST", "switches", values)

    def rotate(self, **keys: str) -> None:
        """Let in other keys, and no longer the ones before: api_key, app_key, access_token."""
        self._ask("POST", "keys", keys)
        self.api_key = keys.get("api_key", self.api_key)
        self.app_key = keys.get("app_key", self.app_key)
        self.access_token = keys.get("access_token", self.access_token)

    def files(self, run_id: int, **changes: object) -> None:
        """Change a run's tree, making the run if there is none: add, change, remove, rename, mkdir, grid, wide."""
        self._ask("POST", "files", {"run": run_id, **changes})

    def change_run(self, run_id: int, **changes: object) -> None:
        """Change the attributes of a run: set, unset, delete."""
        self._ask("POST", "runs", {"run": run_id, **changes})

    def change_project(self, project_id: int, **changes: object) -> None:
        """Change the attributes of a project, making it if there is none: set, delete."""
        self._ask("POST", "projects", {"project": project_id, **changes})

    def crowd(self, first: int, *, runs: int, projects: int) -> None:
        """Make as many empty runs, in as many projects, with ids from `first` on."""
        self._ask("POST", "crowd", {"first": first, "runs": runs, "projects": projects})

    def new_project(self) -> int:
        """Return the id of a project that no other test knows; `new_run` makes it."""
        self._next_project += 1
        return self._next_project

    def new_run(
        self, files: Mapping[str, int] | None = None, *, project: int | None = None, **attributes: object
    ) -> int:
        """Make a run that no other test knows, with files of these sizes. Returns its id.

        `project`: where, in place of the one of all such runs, whose index has too little to be of use. A run of
        thousands of files takes one: each test of the common project would wait for an index with all of them.
        """
        run_id = self._next_run
        self._next_run += 1
        where = {} if project is None else {"project": project}
        self.files(run_id, add={"a.txt": 10, "sub/b.bin": 20} if files is None else files, **where)
        self.change_run(run_id, set=attributes)
        return run_id

    def truth(self, run_id: int) -> Truth:
        """Return what a run holds."""
        return {path.encode(): size for path, size in self._ask("GET", f"tree?run={run_id}").items()}

    def sha256(self, run_id: int, path: str) -> str:
        """Return the digest of what a file holds."""
        query = urllib.parse.urlencode({"run": run_id, "path": path})
        digest: str = self._ask("GET", f"sha256?{query}")["sha256"]
        return digest

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", "stats")
        return found

    def requests(self) -> dict[str, int]:
        """Return the number of requests by kind since the last `reset`."""
        found: dict[str, int] = self.stats()["requests"]
        return found

    def asked_with(self, kind: str, name: str) -> list[str]:
        """Return what requests of a kind had as a parameter since the last `reset`."""
        return [entry["args"].get(name, "") for entry in self.stats()["log"] if entry["kind"] == kind]

    def total(self) -> int:
        return sum(self.requests().values())

    def reset(self) -> dict[str, Any]:
        """Forget the requests so far. Returns what there were."""
        forgotten: dict[str, Any] = self._ask("POST", "reset", {})
        return forgotten

    def newest_runs(self, count: int) -> list[int]:
        """Return the runs last updated, newest first, without the deleted, as the API itself tells them."""
        rows: list[dict[str, Any]] = []
        number = int(self._ask("GET", "switches")["page_base"])
        while len(rows) < count:
            query = urllib.parse.urlencode({"page[size]": 100, "page[number]": number})
            page = self._ask("GET", f"../api/v2/model-lab-api/runs?{query}")["data"]
            if not page:
                break
            rows += page
            number += 1
        return [int(row["id"]) for row in rows[:count] if not row["attributes"].get("deleted_at")]

    def _ask(self, method: str, name: str, body: object = None) -> Any:
        path = name.removeprefix("..") if name.startswith("..") else f"/_emulator/{name}"
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("DD-API-KEY", self.api_key)
        request.add_header("DD-APPLICATION-KEY", self.app_key)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=LIMIT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"the emulator refuses {method} {path}: {error.read()!r}") from None
