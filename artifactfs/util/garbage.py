"""The pace of Python's garbage collector, which stops everything while it looks for cycles."""

import gc

_OWN_PACE = gc.get_threshold()
# Objects that a command makes between two collections: more than its imports do, which are a tenth of it at Python's
# own pace (700).
_COMMAND = 100_000


def collect_rarely() -> None:
    """For a command, which ends before its garbage counts: collect only so that a long one does not grow."""
    gc.set_threshold(_COMMAND, *_OWN_PACE[1:])


def settle() -> None:
    """For a process that has started and lives long: collect at Python's own pace, without the objects of now."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_OWN_PACE)
