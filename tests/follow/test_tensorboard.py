"""TensorBoard on a live run: its curves go on, with each of its two readers, and with EventAccumulator."""

import json
import re
import sys
import urllib.error
import urllib.request
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.follow import events
from tests.follow.places import BEHIND_S, Place
from tests.follow.programs import Follower, following, python
from tests.harness import wait_until

# The steps that are there after each change: a few more, and more than the glance at a file's start.
STEPS = (20, 21, 60, 5000, 5001)
# TensorBoard reloads each 5 s by default. On a busy machine its reader in Python takes seconds for thousands of steps,
# and a start takes many.
LOAD_S = BEHIND_S + 20.0
START_S = 60.0

_ACCUMULATE = """
import sys, time
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
while True:
    accumulator.Reload()
    steps = [event.step for event in accumulator.Scalars("loss")] if accumulator.Tags()["scalars"] else []
    assert steps == list(range(len(steps))), steps
    print(len(steps))
    time.sleep(0.5)
"""


def test_event_accumulator_reloads(place: Place, tmp_path: Path) -> None:
    """EventAccumulator.Reload() brings each step that was written since, once."""
    place.append(events.NAME, events.head() + events.scalars(0, STEPS[0]))
    with following(str(tmp_path), *python(_ACCUMULATE, place.directory)) as reader:
        reader.last_line(b"%d" % STEPS[0], START_S)
        for before, after in pairwise(STEPS):
            place.append(events.NAME, events.scalars(before, after))
            reader.last_line(b"%d" % after, LOAD_S)


def test_event_accumulator_waits_for_the_rest_of_a_record(place: Place, tmp_path: Path) -> None:
    """A record of which only a part has been written is read once the rest is there."""
    place.append(events.NAME, events.head() + events.scalars(0, 20))
    with following(str(tmp_path), *python(_ACCUMULATE, place.directory)) as reader:
        reader.last_line(b"20", START_S)
        more = events.scalars(20, 22)
        place.append(events.NAME, more[: len(more) // 2 + 9])
        reader.last_line(b"21")
        place.append(events.NAME, more[len(more) // 2 + 9 :])
        reader.last_line(b"22")


def _address(board: Follower) -> str:
    found = re.search(r"http://\S+?:\d+", board.complained() + board.printed().decode("utf-8", "replace"))
    return found[0] if found else ""


def _shows(address: str, last_step: int) -> bool:
    """Say whether TensorBoard shows this step as the last one; none may be there twice."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    query = f"{address}/data/plugin/scalars/scalars?tag={events.TAG}&run=."
    try:
        with opener.open(query, timeout=BEHIND_S) as answer:
            points: list[list[float]] = json.load(answer)
    except OSError:
        return False  # 404: the tag is not known yet; or it answers late on a busy machine
    steps = [int(step) for _, step, _ in points]
    # It shows a thousand points of many.
    assert steps == sorted(set(steps))
    assert all(abs(value - step / 100) < 0.01 for _, step, value in points)
    return steps[-1] == last_step


# Its default, auto, takes one of both.
@pytest.mark.parametrize("fast", ["true", "false"])
def test_tensorboard_follows(place: Place, tmp_path: Path, fast: str) -> None:
    """TensorBoard shows each step after its next reload, whichever of its readers it takes."""
    place.append(events.NAME, events.head() + events.scalars(0, STEPS[0]))
    command = (sys.executable, "-m", "tensorboard.main", "--logdir", place.directory, "--load_fast", fast)
    with following(str(tmp_path), *command, "--host", "127.0.0.1", "--port", "0") as board:
        wait_until(lambda: _address(board), "TensorBoard's address", START_S)
        address = _address(board)
        wait_until(partial(_shows, address, STEPS[0] - 1), "the first steps", START_S)
        for before, after in pairwise(STEPS):
            place.append(events.NAME, events.scalars(before, after))
            wait_until(partial(_shows, address, after - 1), "the new steps", LOAD_S)
