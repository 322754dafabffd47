"""Programs that follow a file of a live run: none loses a byte, none sees one twice, none sees another version's."""

import json
import os
import re
from functools import partial
from pathlib import Path

import pytest

from tests.follow.places import BEHIND_S, Place
from tests.follow.programs import following, python
from tests.follow.records import LINE_BYTES, json_lines, lines
from tests.harness import run, wait_until
from tests.terminal import terminal

LOG = "train.log"
# Lines by which a log grows from one look to the next: a few, more than a block, and more than read-ahead begins with.
STEPS = (1, 40, 25_000, 2, 60_000)
SMALL_STEPS = (1, 40, 2)


def grown(place: Place, written: bytes, count: int) -> bytes:
    """Let the log grow by so many lines. Returns all that is in it, of which `written` was there before."""
    first = len(written) // LINE_BYTES
    more = lines(first, first + count)
    place.append(LOG, more)
    return written + more


def test_tail_f(any_place: Place, tmp_path: Path) -> None:
    """`tail -f` shows each line that is appended, once, and never complains."""
    written = grown(any_place, b"", 20)
    with following(str(tmp_path), "tail", "-n", "+1", "-f", any_place.path(LOG)) as tail:
        tail.prints(written)
        for step in STEPS:
            written = grown(any_place, written, step)
            tail.prints(written)
        assert tail.complained() == ""


def test_tail_follows_by_name(place: Place, tmp_path: Path) -> None:
    """`tail -F` goes on where it was when a log grows, and begins again at the start only when it is another file."""
    written = grown(place, b"", 20)
    with following(str(tmp_path), "tail", "-n", "+1", "-F", place.path(LOG)) as tail:
        tail.prints(written)
        for step in STEPS:
            written = grown(place, written, step)
            tail.prints(written)
        assert tail.complained() == ""


def test_tail_follows_to_another_file(any_place: Place, tmp_path: Path) -> None:
    """A log that is replaced by a longer one, and then by a shorter one, is shown from its start each time."""
    expected = lines(0, 200)
    any_place.append(LOG, expected)
    with following(str(tmp_path), "tail", "-n", "+1", "-F", any_place.path(LOG)) as tail:
        tail.prints(expected)
        for version, count in ((2, 300), (3, 50), (4, 10_000)):
            any_place.replace(LOG, lines(0, count, version))
            expected += lines(0, count, version)
            tail.prints(expected)
            any_place.append(LOG, lines(count, count + 10, version))
            expected += lines(count, count + 10, version)
            tail.prints(expected)


def test_tail_follows_a_log_that_was_cut(place: Place, tmp_path: Path) -> None:
    """A log that was truncated is shown from its start, and followed from there."""
    expected = lines(0, 200)
    place.append(LOG, expected)
    with following(str(tmp_path), "tail", "-n", "+1", "-F", place.path(LOG)) as tail:
        tail.prints(expected)
        place.truncate(LOG, 50 * LINE_BYTES)
        expected += lines(0, 50)
        tail.prints(expected)
        place.append(LOG, lines(50, 90, 2))
        expected += lines(50, 90, 2)
        tail.prints(expected)


_READLINE = """
import sys, time
with open(sys.argv[1]) as log:
    while True:
        line = log.readline()
        if line:
            print(line, end="")
        else:
            time.sleep(0.1)
"""
_READ = """
import os, sys, time
log = os.open(sys.argv[1], os.O_RDONLY)
while True:
    piece = os.read(log, 1 << 17)
    if piece:
        sys.stdout.buffer.write(piece); sys.stdout.buffer.flush()
    else:
        time.sleep(0.1)
"""
_MAPPED = """
import mmap, os, sys, time
log, seen = open(sys.argv[1], "rb"), 0
while True:
    size = os.fstat(log.fileno()).st_size
    if size > seen:
        with mmap.mmap(log.fileno(), size, access=mmap.ACCESS_READ) as view:
            sys.stdout.buffer.write(view[seen:])
        sys.stdout.buffer.flush()
        seen = size
    time.sleep(0.1)
"""


def test_an_open_file_is_read_on(any_place: Place, tmp_path: Path) -> None:
    """A file that stays open is read on past its old end."""
    read_on(any_place, tmp_path, _READ)


@pytest.mark.parametrize("code", [_READLINE, _MAPPED], ids=["readline", "mmap"])
def test_an_open_file_is_read_on_by_lines_and_mapped(place: Place, tmp_path: Path, code: str) -> None:
    """So do Python's readline, and a mapping of the new size of the file that stayed open."""
    read_on(place, tmp_path, code)


def read_on(place: Place, tmp_path: Path, code: str) -> None:
    written = grown(place, b"", 20)
    with following(str(tmp_path), *python(code, place.path(LOG))) as reader:
        reader.prints(written)
        for step in STEPS:
            written = grown(place, written, step)
            reader.prints(written)
        assert reader.complained() == ""


def test_several_followers_see_the_same(place: Place, tmp_path: Path) -> None:
    """Programs that follow one log by different handles, begun at different times, all see all of it."""
    path = place.path(LOG)
    written = grown(place, b"", 20)
    with (
        following(str(tmp_path), "tail", "-n", "+1", "-f", path) as by_handle,
        following(str(tmp_path), *python(_READ, path)) as by_read,
    ):
        for step in SMALL_STEPS:
            written = grown(place, written, step)
        by_handle.prints(written)
        with following(str(tmp_path), "tail", "-n", "+1", "-F", path) as late:
            written = grown(place, written, 30_000)
            for follower in (by_handle, by_read, late):
                follower.prints(written)


def _environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(tmp_path), "LESSHISTFILE": "-"}


def test_less_follows(place: Place, tmp_path: Path) -> None:
    """`less +F` shows each new line, once."""
    written = grown(place, b"", 20)
    with terminal("less", "-X", "+F", place.path(LOG), env=_environment(tmp_path)) as screen:
        for step in SMALL_STEPS:
            written = grown(place, written, step)
            screen.read_until(written.splitlines()[-1].decode(), BEHIND_S)
        shown = re.findall(r"version \d+ line \d+", screen.text)
    assert shown == written.decode().splitlines()


def test_watch_cat(place: Place, tmp_path: Path) -> None:
    """`watch cat` shows the log as it is."""
    written = grown(place, b"", 20)
    command = ("env", "TERM=xterm", "watch", "-t", "-n", "0.5", "cat", place.path(LOG))
    with terminal(*command, env=_environment(tmp_path)) as screen:
        for step in (1, 3, 10, 2):
            screen.read_until(written.splitlines()[-1].decode(), BEHIND_S)
            written = grown(place, written, step)
        screen.read_until(written.splitlines()[-1].decode(), BEHIND_S)


def test_rsync_appends(place: Place, tmp_path: Path) -> None:
    """`rsync --append-verify`, run again and again, makes the copy grow by what is new."""
    copy = tmp_path / "copy.log"
    written = grown(place, b"", 20)

    def copied() -> bool:
        run("rsync", "--append-verify", place.path(LOG), str(copy)).ok()
        assert written.startswith(copy.read_bytes())
        return copy.read_bytes() == written

    for step in STEPS:
        wait_until(copied, "a copy of all that was written", BEHIND_S)
        written = grown(place, written, step)
    wait_until(copied, "a copy of all that was written", BEHIND_S)


def test_jq_called_again(place: Place) -> None:
    """`jq` over a log of JSON lines sees whole lines, and all of them after a moment."""
    count = 0

    def counted() -> bool:
        done = run("jq", "-s", "[length, (.[-1].step // -1)]", place.path("log.jsonl")).ok()
        length, last = json.loads(done.text)
        assert last == length - 1
        return bool(length == count)

    for step in (20, 1, 3000, 30_000):
        place.append("log.jsonl", json_lines(count, count + step))
        count += step
        wait_until(counted, f"{count} lines", BEHIND_S)


_PANDAS = """
import sys, time
import pandas
while True:
    frame = pandas.read_json(sys.argv[1], lines=True)
    assert (frame["step"] == range(len(frame))).all(), frame
    print(len(frame))
    time.sleep(0.2)
"""


def test_pandas_called_again(place: Place, tmp_path: Path) -> None:
    """`pandas.read_json(lines=True)` in one process, called again and again, gives all rows that are there."""
    place.append("log.jsonl", json_lines(0, 20))
    with following(str(tmp_path), *python(_PANDAS, place.path("log.jsonl"))) as reader:
        reader.last_line(b"20", BEHIND_S + 20)  # pandas takes its time to load
        for first, end in ((20, 21), (21, 3000), (3000, 30_000)):
            place.append("log.jsonl", json_lines(first, end))
            counts = reader.last_line(str(end).encode())
        assert counts == sorted(counts, key=int)


_SIZES = """
import os, sys, time
while True:
    print(os.stat(sys.argv[1]).st_size)
    time.sleep(0.2)
"""


def test_stat_shows_growth(any_place: Place, tmp_path: Path) -> None:
    """`stat`, as a file manager's reload calls it, shows the new size, and never a smaller one in between."""
    written = grown(any_place, b"", 20)
    with following(str(tmp_path), *python(_SIZES, any_place.path(LOG))) as watcher:
        sizes = watcher.last_line(b"%d" % len(written))
        for step in STEPS:
            written = grown(any_place, written, step)
            sizes = watcher.last_line(b"%d" % len(written))
        assert sizes == sorted(sizes, key=int)


def test_growth_is_the_same_file_and_a_replacement_another(place: Place) -> None:
    """A file that grew keeps its inode; one that was replaced by a longer one has another."""

    def seen() -> tuple[int, int]:
        inode, size = map(int, run("stat", "-c", "%i %s", place.path(LOG)).ok().out.split())
        return inode, size

    def has(size: int) -> bool:
        return seen()[1] == size

    written = grown(place, b"", 20)
    first, _ = seen()
    for step in STEPS:
        written = grown(place, written, step)
        wait_until(partial(has, len(written)), "the new size", BEHIND_S)
        # What the mount has read is what it can compare.
        assert run("cat", place.path(LOG)).ok().out == written
        assert seen()[0] == first
    longer = lines(0, len(written) // LINE_BYTES + 10, 2)
    place.replace(LOG, longer)
    wait_until(partial(has, len(longer)), "the other file", BEHIND_S)
    assert run("cat", place.path(LOG)).ok().out == longer
    assert seen()[0] != first


def test_an_open_file_never_mixes_versions(any_place: Place, tmp_path: Path) -> None:
    """A handle that stays open over a replacement ends or fails, and shows no byte of the other version."""

    def has(content: bytes) -> bool:
        return run("cat", any_place.path(LOG)).out == content

    written = grown(any_place, b"", 20)
    with following(str(tmp_path), *python(_READ, any_place.path(LOG))) as reader:
        reader.prints(written)
        any_place.replace(LOG, lines(0, 5000, 2))
        wait_until(partial(has, lines(0, 5000, 2)), "the other version", BEHIND_S)
        any_place.append(LOG, lines(5000, 9000, 2))
        wait_until(partial(has, lines(0, 9000, 2)), "all of the other version", BEHIND_S)
        assert reader.printed() == written
