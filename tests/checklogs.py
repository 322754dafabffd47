"""A mount's log, held against what its test announced: a warning, error or traceback that it did not fails it."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator

_NOTABLE = re.compile(r"^\S+ \S+ (?:WARNING|ERROR|CRITICAL) ")
_TRACEBACK = "Traceback (most recent call last)"


class LogCheck:
    """The log of one mount, rotated files included, and the lines that are expected in it."""

    def __init__(self, log_file: str) -> None:
        self._log_file = log_file
        self._announced: dict[str, bool] = {}
        self._first_line = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Check only what is logged within the context: for a mount that several tests share."""
        self._begin()
        yield
        faults = self.faults()
        self._begin()
        assert not faults, "\n".join(faults)

    def _begin(self) -> None:
        self._announced.clear()
        self._first_line = len(self._all())

    def announce(self, pattern: str, *, optional: bool = False) -> None:
        """Expect warnings or errors that `pattern` (a regular expression) is found in; at least one unless optional.

        An exception's traceback belongs to the line before it.
        """
        self._announced[pattern] = optional

    def lines(self) -> list[str]:
        """Return the log of the mount, or of the context that watches it."""
        return self._all()[self._first_line :]

    def _all(self) -> list[str]:
        found: list[str] = []
        for path in sorted(glob.glob(glob.escape(self._log_file) + "*"), reverse=True):
            with open(path, encoding="utf-8", errors="backslashreplace") as file:
                found += file.read().splitlines()
        return found

    def has(self, pattern: str) -> bool:
        """Say whether any line, of whatever level, holds the pattern."""
        return any(re.search(pattern, line) for line in self.lines())

    def faults(self) -> list[str]:
        """Return what is wrong: lines that no test announced, and announced ones that never came."""
        wrong = []
        seen: set[str] = set()
        expected_above = False
        for line in self.lines():
            if _NOTABLE.match(line):
                matching = {pattern for pattern in self._announced if re.search(pattern, line)}
                seen |= matching
                expected_above = bool(matching)
                if not matching:
                    wrong.append(f"{os.path.basename(self._log_file)}: {line}")
            elif line.strip().startswith(_TRACEBACK) and not expected_above:
                wrong.append(f"{os.path.basename(self._log_file)}: an unannounced traceback: {line}")
        missing = [pattern for pattern, optional in self._announced.items() if not optional and pattern not in seen]
        return wrong + [f"{os.path.basename(self._log_file)}: never logged: {pattern!r}" for pattern in missing]
