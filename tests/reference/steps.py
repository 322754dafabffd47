"""What scripts of both pages of the reference model do to time and to requests, and how a look is checked."""

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, settings

from tests.reference.driver import HOUR_S, MINUTE_S, World
from tests.reference.trust import Trust

M = TypeVar("M", bound=Trust[Any])

# What the emulator is to do to requests.
FAULTS: dict[str, dict[str, object]] = {
    "500": {"status": 500},
    "503": {"status": 503},
    # Its reset lies past the mount's deadline, and within the minute that passes until it is healed.
    "429": {"rate_limit": {"reset_s": 50, "period": 50}},
    "reset": {"reset_after": 0},
    "cut": {"cut_after": 30},
    "stall": {"stall": True},
}


class Steps(Generic[M]):
    """A script, step by step: each public method is a step.

    A step raises AssertionError, with the script up to there, for an answer that the model does not permit.
    """

    def __init__(self, world: World, model: M) -> None:
        self._world = world
        self._model = model
        self._script: list[str] = []
        self.was_slow = False

    def end(self) -> None:
        """Leave the server as it was found."""
        if self._model.troubles:
            self._world.heal()

    def minute(self) -> None:
        self._script.append("a minute passes")
        self._world.pass_time(MINUTE_S)
        self._model.minute_passed()

    def hour(self) -> None:
        self._script.append("an hour passes")
        self._world.pass_time(HOUR_S)
        self._model.hour_passed()

    def fail(self, kind: str, how: str, times: int | None) -> None:
        """The next requests of a kind fail; all of them where `times` is None."""
        self._script.append(f"server: {how} for the next {times or 'and all'} requests of kind {kind}")
        self._world.lab.fault(kind, FAULTS[how], times=times)
        self._model.trouble(how)

    def heal(self) -> None:
        """The trouble ends, and something is answered."""
        if self._model.troubles:
            self._script.append("server: all is well; a minute passes")
            self._world.heal()
            self._model.minute_passed()
            self._model.healed()

    def _saw(self, what: str, answer: str, check: Callable[[], None]) -> None:
        self._script.append(f"{what} -> {answer}")
        if self._world.slow:
            self._script.append("(that was slow)")
            self.was_slow = True
            self._model.trouble("slow")
        try:
            check()
        except AssertionError as surprise:
            raise AssertionError("\n    ".join(["not permitted by the model:", *self._script, str(surprise)])) from None


def until_quick(attempt: Callable[[], bool]) -> None:
    """Play a script that is to be found out, until no look of it was slow, at most ten times.

    After a look that was slow the model permits what it would of a service in trouble: that is this machine's doing.
    `attempt`: plays it once, and says whether a look was slow.
    """
    for _ in range(10):
        if not attempt():
            break


def exploring(examples: int) -> settings:
    """Return how scripts are tried: so many of them, always the same, or as many others as ARTIFACTFS_EXAMPLES says."""
    asked_for = os.environ.get("ARTIFACTFS_EXAMPLES")
    return settings(
        max_examples=int(asked_for or examples),
        derandomize=asked_for is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
