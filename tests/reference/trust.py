"""Of which moments the things that a mount has cached may be: what both pages of the reference model stand on."""

import errno
from typing import Generic, TypeVar

State = TypeVar("State")

# What goes wrong, and what the table of model-lab-api.md makes of it. "slow" is this machine's doing: a look took as
# long as no caller is to wait for a refresh.
TROUBLES = {
    "500": errno.EIO,
    "503": errno.EIO,
    "429": errno.EBUSY,
    "reset": errno.EIO,
    "cut": errno.EIO,
    "stall": errno.ETIMEDOUT,
    "slow": errno.ETIMEDOUT,
}


class Trust(Generic[State]):
    """The moments of a server, and what a mount may have asked in which. What is asked for in one request is a
    *listing*, called by a text. `believes`: listings stay fresh for their time, and not for 0 s.
    """

    def __init__(self, first: State, *, believes: bool) -> None:
        self.believes = believes
        self.moments: list[State] = [first]
        self.troubles: set[str] = set()
        self.stalled = False
        self.asked: dict[str, int] = {}  # by listing, the moment that the one held is of, at the earliest
        self.shown: dict[str, int] = {}  # by listing, the moment that was shown last, at the earliest
        self.at_hand: set[str] = set()  # listings of which there is an old one, if one is needed

    def change(self, state: State) -> None:
        """The server is so from now on."""
        self.moments.append(state)

    def minute_passed(self) -> None:
        """More than `listing_ttl`."""
        self.asked.clear()

    def hour_passed(self) -> None:
        """More than `finished_ttl`. An old listing need not be served for longer than `stale_max`, an hour."""
        self.asked.clear()
        self.at_hand.clear()

    def trouble(self, how: str) -> None:
        """From now on requests may fail."""
        self.troubles.add(how)
        self.stalled |= how in ("stall", "slow")

    def healed(self) -> None:
        """Something was answered after the trouble's end."""
        self.troubles.clear()

    def may_show(self, listing: str) -> range:
        """Return the moments of which a listing may be."""
        now = len(self.moments) - 1
        asked = self.asked.setdefault(listing, now) if self.believes else now
        return range(max(0 if self.troubles else asked, self.shown.get(listing, 0)), now + 1)

    def errors(self, *listings: str) -> set[str]:
        """Return the errors that a look at listings may end with: none where there is an old one of each."""
        return set() if self.at_hand.issuperset(listings) else self.failures()

    def failures(self) -> set[str]:
        """Return the errors that requests may end with now."""
        return {errno.errorcode[TROUBLES[it]] for it in self.troubles}

    def held(self, *listings: str) -> None:
        """Take note that listings were shown. In a trouble that may have been the old one: no younger for it."""
        if not self.troubles:
            self.at_hand.update(listings)


def is_error(answer: str) -> bool:
    """Whether an answer is the name of an error. No file of the model's is called like one."""
    return answer.isupper()


def check(answer: str, permitted: set[str]) -> None:
    """Fail unless an answer is permitted."""
    assert answer in permitted, f"{answer!r} is none of {sorted(permitted)}"
