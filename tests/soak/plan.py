"""What happens to the service and the workers, and when: a pure function of the seed and the minutes.

Owns chances and times. What is in the plan is data; drive.py carries it out. Times are seconds from the beginning.
Every figure here is arbitrary: often enough that each kind comes several times a minute.
"""

import heapq
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Facts: TypeAlias = dict[str, Any]

HALF_JSON = '{"data": {"id": "1", "type": "artifacts", "attributes": {"files": [{"pa'


@dataclass(frozen=True, order=True)
class Event:
    """One thing that happens `at_s`. `kind`: see `_TIMETABLE`; `facts`: what it takes."""

    at_s: float
    kind: str
    facts: Facts


# Ways in which the service answers (emulator/switches.py). Left out is what no client can see through: bytes of a new
# version that nothing in the answer tells from the old one's (no length, no validator), and a length that is wrong
# everywhere.
FORMS: tuple[Facts, ...] = (
    {"etag": "strong"},
    {"etag": "weak", "last_modified": True},
    {"etag": "changing"},
    {"ranges": "ignored", "etag": "strong"},
    {"ranges": "ignored", "length": "chunked", "etag": "strong"},
    {"dir_flag": False},
    {"depth": "recursive"},
    {"depth": "recursive", "dir_rows": False, "index": "404"},
    {"self_marker": "slash", "extra_fields": True, "null_params": True},
    {"size_form": "string", "index_size_form": "absent"},
    {"size_form": "absent"},
    {"redirect": "same"},
    {"redirect": "other"},
    {"index": "404"},
    {"index": "html"},
    {"index": "cut"},
    {"index": "stall"},
    {"index": "other"},
    {"latency_s": 0.05},
    {"bytes_per_s": 8 << 20},
    {"error_form": "html"},
    {"error_form": "nonsense", "missing_content": "500"},
    {"page_meta": "none", "page_base": 1},
    {"rate_limit_headers": False},
    {"encoding": "gzip", "etag": "strong"},
)


# And these a client learns once, from the first answers that tell: one of each in a soak. A service whose answer to a
# directory's `path` becomes an empty one has, for who sees it from outside, lost what was in there.
CONSTANT_FORMS: dict[str, tuple[str, ...]] = {"base": ("root", "relative"), "slash": ("any", "required", "refused")}


def _fault(rng: random.Random) -> Facts:
    """Return one rule of a script (emulator/faults.py)."""
    inside = rng.choice((1, 50, 4096, 100_000, 600_000))
    then: Facts = rng.choice(
        (
            {"status": rng.choice((500, 502, 503))},
            {"status": rng.choice((500, 503)), "html": True},
            {"status": rng.choice((408, 504))},
            {"status": 403},
            {"rate_limit": {"reset_s": rng.choice((1, 1, 2, 8)), "period": 10}},
            {"stall": True},
            {"stall_after": inside},
            {"delay_s": rng.uniform(0.05, 2.0)},
            {"reset_after": 0},
            {"reset_after": inside},
            {"cut_after": -1},
            {"cut_after": inside},
            {"html": True},
            {"body": HALF_JSON},
        )
    )
    kinds: tuple[str, ...] = ("listing", "content", "content", "run", "runs", "index", "any")
    if "body" in then:
        # Where no listing gives a size, nothing tells half a document from the contents of a file.
        kinds = ("listing", "run", "runs", "index")
    # A burst: all of a kind for as long as the script lasts. Else a few.
    times = None if rng.random() < 0.2 else rng.randint(1, 8)
    return {"match": {"kind": rng.choice(kinds)}, "then": then, "times": times, "skip": rng.choice((0, 0, 0, 2, 5))}


def _faults(rng: random.Random) -> Facts:
    calm = rng.random() < 0.25
    return {"rules": [] if calm else [_fault(rng) for _ in range(rng.randint(1, 4))]}


def _forms(rng: random.Random) -> Facts:
    return {"switches": {} if rng.random() < 0.3 else rng.choice(FORMS)}


def _outage(rng: random.Random) -> Facts:
    # The last is longer than the deadline.
    return {"lasts_s": rng.choice((0.0, 1.0, 3.0, 8.0))}


def _change(rng: random.Random) -> Facts:
    how = rng.choice(("change", "change", "grow", "grow", "add", "remove"))
    return {"how": how, "pick": rng.random(), "size": rng.choice((0, 1_000, 60_000, 500_000, 3_000_000))}


def _picked(rng: random.Random) -> Facts:
    return {"pick": rng.random()}


def _kill(rng: random.Random) -> Facts:
    return {"pick": rng.random(), "signal": int(rng.choice((signal.SIGKILL, signal.SIGINT)))}


def _nothing(_: random.Random) -> Facts:
    return {}


# kind: (least, most seconds between two of them, what makes the facts)
_TIMETABLE: dict[str, tuple[float, float, Callable[[random.Random], Facts]]] = {
    "faults": (1.5, 6.0, _faults),
    "forms": (10.0, 25.0, _forms),
    "outage": (25.0, 60.0, _outage),
    "change": (0.5, 2.0, _change),
    "finish": (25.0, 50.0, _picked),
    "delete": (50.0, 90.0, _picked),
    "hangup": (5.0, 20.0, _nothing),
    "kill": (0.5, 3.0, _kill),
}


def plan(seed: int, minutes: float) -> Iterator[Event]:
    """Yield what happens in so many minutes, in order. The same seed gives the same plan, a longer one going on."""
    streams = {kind: random.Random(f"{seed} {kind}") for kind in _TIMETABLE}
    due = [(streams[kind].uniform(0.0, most), kind) for kind, (_, most, _) in _TIMETABLE.items()]
    heapq.heapify(due)
    while due[0][0] < minutes * 60.0:
        at_s, kind = heapq.heappop(due)
        least, most, facts = _TIMETABLE[kind]
        yield Event(at_s, kind, facts(streams[kind]))
        heapq.heappush(due, (at_s + streams[kind].uniform(least, most), kind))
