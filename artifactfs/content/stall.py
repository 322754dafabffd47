"""A wait for contents that ended without progress: other waits for the same version fail at once for a while.

The kernel asks again, page by page, for what has just failed. Each of these reads would wait for a deadline.
"""

import trio

from artifactfs import errors
from artifactfs.content.context import ContentContext
from artifactfs.content.version_blocks import VersionBlocks

# How long other reads fail at once (docs/semantics.md 5.1: a probe at most every 5 s).
_STALLED_S = 5.0


class Stall:
    """See the module. One of a version; it has begun or not."""

    def __init__(self, context: ContentContext, blocks: VersionBlocks) -> None:
        self._context = context
        self._blocks = blocks
        # What had come when a wait ended, and until when other waits fail.
        self._progress = -1
        self._until = 0.0

    def check(self) -> None:
        """Raise TimedOut if a wait ended a moment ago, and nothing came since."""
        came = self._blocks.progress - self._progress
        if trio.current_time() < self._until and came < self._context.tuning.min_progress_bytes:
            raise errors.TimedOut("no content came a moment ago")

    def begin(self) -> errors.TimedOut:
        """Note that a wait has ended without progress, and return its error."""
        self._progress, self._until = self._blocks.progress, trio.current_time() + _STALLED_S
        return errors.TimedOut(f"no content came for {self._context.deadline_s:g} s")
