"""The longest stops of a mount's event loop: steps of tasks in which no request is answered.

Usage: stops.py SECONDS REPORT mount -f …, with the arguments of `artifactfs`. Each step of at least SECONDS of the
loop's CPU time is written to REPORT when the mount ends, the longest first, with the time that it took by the clock and
its task; and the collections of the garbage collector that took as long. CPU time, since a busy machine takes the
loop's turn away. A million files in 200,000 directories and 1,000 runs:

    server.py --tree "$(seq -f 'grid:%.0f:200:5' -s , 2000 2999)"
    stops.py 0.008 report mount -f --api-url URL --runs-listed 1000 MOUNT & find MOUNT/runs | wc -l
"""

import gc
import pathlib
import sys
import time
from typing import Any, NamedTuple

import trio

from artifactfs import cli


class Stop(NamedTuple):
    """A step: its CPU and clock seconds, and where it was."""

    cpu_s: float
    wall_s: float
    where: str


class Stops(trio.abc.Instrument):
    """Takes note of each step of at least `least_s` seconds."""

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._began = self._collection = (0.0, 0.0)
        self.found: list[Stop] = []

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        """See trio."""
        self._began = time.thread_time(), time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        frame = task.coro.cr_frame
        self._note(self._began, f"{task.name}, {frame.f_code.co_qualname if frame is not None else 'its end'}")

    def collected(self, phase: str, info: dict[str, int]) -> None:
        """See gc.callbacks."""
        if phase == "start":
            self._collection = time.thread_time(), time.perf_counter()
        else:
            self._note(self._collection, f"of that or another step: a collection of generation {info['generation']}")

    def _note(self, began: tuple[float, float], where: str) -> None:
        if (cpu_s := time.thread_time() - began[0]) >= self._least_s:
            self.found.append(Stop(cpu_s, time.perf_counter() - began[1], where))

    def report(self) -> str:
        """Return a line for each."""
        lines = [f"{each.cpu_s * 1000:8.1f} ms CPU {each.wall_s * 1000:8.1f} ms  {each.where}" for each in self.found]
        return "\n".join([*sorted(lines, reverse=True), ""])


def main() -> None:
    """Run the mount, and write the report when it ends."""
    stops, report = Stops(float(sys.argv[1])), pathlib.Path(sys.argv[2])
    del sys.argv[1:3]
    run = trio.run

    def watched(*args: Any, **options: Any) -> object:
        gc.callbacks.append(stops.collected)
        try:
            return run(*args, instruments=[stops], **options)
        finally:
            report.write_text(stops.report(), encoding="utf-8")

    trio.run = watched  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()
