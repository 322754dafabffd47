"""The command: see the package."""

import argparse
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version

from tests.soak.drive import OPTIONS, Soak
from tests.soak.plan import plan
from tests.soak.verdict import report, verdicts


def _say(text: str) -> None:
    sys.stderr.write(f"soak: {text}\n")
    sys.stderr.flush()


def _head(minutes: float, seed: int, began: datetime, seconds: float) -> list[str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("artifactfs", "pyfuse3", "trio", "httpx"))
    return [
        f"soak of {minutes:g} minutes, seed {seed}, {began:%Y-%m-%d %H:%M} UTC, {seconds:.0f} s in all",
        f"{packages}; Python {platform.python_version()}, Linux {platform.release().partition('-')[0]}",
        f"mounted with {' '.join(OPTIONS)}",
    ]


def main() -> int:
    """Soak; print the report; return 0 if all of it holds, else 1. What a failed one left is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Readers, walkers and random faults.")
    parser.add_argument("--minutes", type=float, default=10.0, help="[10]")
    parser.add_argument("--seed", type=int, default=None, help="of the plan, to have the same once more [random]")
    parser.add_argument("--plan", action="store_true", help="print the plan, and do nothing")
    parser.add_argument("--keep", action="store_true", help="keep log, journal and what the workers said in any case")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    if given.plan:
        for event in plan(seed, given.minutes):
            sys.stdout.write(f"{event.at_s:8.2f}  {event.kind:<8} {event.facts}\n")
        return 0
    directory = tempfile.mkdtemp(prefix="artifactfs-soak-")
    _say(f"seed {seed}, in {directory}")
    # As Ctrl-C: nothing stays mounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    began, start = datetime.now(UTC), time.monotonic()
    result = Soak(directory, seed, given.minutes, _say).go()
    head = _head(given.minutes, seed, began, time.monotonic() - start)
    sys.stdout.write(report(result, head) + "\n")
    failed = [each for each in verdicts(result.figures) if not each.holds]
    if failed or given.keep:
        _say(f"log, journal and workers' output are in {directory}")
    else:
        shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
