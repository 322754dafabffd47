"""python -m tests.soak.server JOURNAL COUNTS …: the emulator with the lab that the journal tells of.

A service that was killed comes back with what it had: the lab is built before the port is bound. The fault that a
request meets is noted in the file COUNTS, by name, so that they are counted over all processes.
"""

import os
import sys
from collections.abc import Sequence

from artifactfs.emulator import __main__ as command
from artifactfs.emulator import serve
from artifactfs.emulator.artifact_tree import MemoryTree
from artifactfs.emulator.faults import Script, Then
from artifactfs.emulator.model import Lab
from tests import lab as tests_lab
from tests.soak.journal import Journal, RunTruth, seed

REQUEST = "none"  # what a request is noted as that met no fault


class SoakLab(tests_lab.Lab):
    """The driver's side of it: a lab that can be killed, and started again as it was."""

    program = ("-m", "tests.soak.server")

    @property
    def ordinary(self) -> dict[str, object]:
        """Return the switches that it starts with, except for the other origin: that has a new port each time."""
        return {name: value for name, value in self._switches.items() if name != "redirect_to"}

    def settle(self) -> None:
        """Back to how it was started."""
        self.faults()
        self.switch(**self.ordinary)


def build(journal: Journal) -> Lab:
    """Return the lab that the journal tells of, as it is now."""
    lab = Lab()
    for run_id, truth in journal.runs.items():
        fill(lab, run_id, truth)
    return lab


def fill(lab: Lab, run_id: int, truth: RunTruth) -> None:
    """Add one run to the lab."""
    run = lab.create(run_id, truth.project)
    run.tell(dict(truth.told))
    if truth.deleted:
        run.attributes["deleted_at"] = truth.told["updated_at"]
    tree = run.tree
    assert isinstance(tree, MemoryTree)
    for path, state in truth.files.items():
        tree.add(path, state.size, state.created_at)
        file = tree.find(path)
        assert file is not None
        file.version, file.seed = state.content, seed(run_id, path, state.content)


def name_of(then: Then) -> str:
    """Return what a fault is called in the report."""
    told = vars(then)
    for name in ("stall", "stall_after", "cut_after", "reset_after", "html", "rate_limit"):
        if told.get(name) not in (None, False):
            return {
                "stall": "stall before the answer",
                "stall_after": "stall inside the body",
                "cut_after": "cut",
                "reset_after": "reset",
                "html": "HTML with 200",
                "rate_limit": "429",
            }[name]
    if told.get("body") is not None:
        return "half JSON with 200"
    return str(told["status"]) if told.get("status") else "delay"


def main(arguments: Sequence[str]) -> int:
    """Serve until standard input closes."""
    given = list(arguments)
    at = given.index("--journal")
    journal_path, counts = given[at + 1 : at + 3]
    del given[at : at + 3]
    journal = Journal(journal_path)
    journal.refresh()
    noted = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    ordinary = Script.next

    def noting(self: Script, kind: str, path: str, query: str) -> Then | None:
        then = ordinary(self, kind, path, query)
        os.write(noted, (REQUEST if then is None else name_of(then)).encode() + b"\n")
        return then

    def from_journal(directory: str | None, sample: bool | None) -> Lab:
        return build(journal)

    Script.next = noting  # type: ignore[method-assign]
    serve.build_lab = from_journal
    return command.main(given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
