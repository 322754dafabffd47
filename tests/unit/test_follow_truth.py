"""The soak of live files: what its checks accept, and what they find."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.follow import events
from tests.follow.truth import Journal, Stream, Version, Wrong, content

# Version 3 is what a truncation of version 2 left, grown again.
VERSIONS = (Version(1), Version(2), Version(3, 2, 1000), Version(4))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    path = tmp_path / "journal"
    path.write_text("".join(version.line() for version in VERSIONS))
    made = Journal(str(path))
    made.versions()
    return made


def fed(journal: Journal, data: bytes, step: int) -> Stream:
    stream = Stream(journal)
    for start in range(0, len(data), step):
        stream.feed(data[start : start + step])
    return stream


def test_any_span_is_a_slice_of_the_whole(journal: Journal) -> None:
    """Content is a function of version and offset, across a cut as well."""
    whole = journal.content(3, 0, 3000)
    assert whole[:1000] == content(2, 0, 1000)
    assert whole[1000:] == content(3, 1000, 3000)
    for start, end in ((0, 1), (5, 990), (990, 1010), (1000, 1001), (17, 2999)):
        assert journal.content(3, start, end) == whole[start:end]


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize(
    "parts",
    [[(1, 5000)], [(1, 5003), (2, 17)], [(1, 16), (2, 2010), (3, 3000)], [(2, 999), (3, 999), (4, 16)], [(4, 0)]],
)
def test_a_stream_of_later_and_later_versions_is_right(
    journal: Journal, parts: Sequence[tuple[int, int]], step: int
) -> None:
    """Each version is from its start, and may end anywhere; in whatever pieces it comes."""
    stream = fed(journal, b"".join(journal.content(number, 0, size) for number, size in parts), step)
    if parts[-1][1]:
        assert stream.is_at(*parts[-1])
        assert not stream.is_at(parts[-1][0], parts[-1][1] + 1)


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize("read", [500, 1000])
def test_a_file_that_was_cut_where_the_program_had_not_been(journal: Journal, read: int, step: int) -> None:
    """Where all that was read is still there, a stream goes on in what the cut left; then the next version comes."""
    data = content(2, 0, read) + journal.content(3, read, 3000) + content(4, 0, 50)
    assert fed(journal, data, step).is_at(4, 50)
    assert fed(journal, data[:3000], step).is_at(3, 3000)


@pytest.mark.parametrize(
    "data",
    [
        content(1, 0, 500) + content(1, 480, 600),  # twice
        content(1, 0, 500) + content(1, 516, 600),  # lost
        content(1, 0, 500) + content(2, 500, 600),  # mixed
        content(2, 0, 500) + content(1, 0, 600),  # back to an earlier version
        content(1, 0, 500) + bytes(100),
        content(2, 0, 1500) + content(3, 1500, 1600),  # cut where the program had been
        content(2, 0, 1012) + content(3, 1012, 1600),
        content(2, 0, 500) + content(3, 500, 1600),  # as if the cut had been where the program was
        content(1, 0, 500) + content(2, 500, 1000) + content(3, 1000, 1600),
        content(2, 0, 500) + content(2, 0, 100) + content(2, 0, 500),  # the second can be version 3, the third none
    ],
)
def test_a_wrong_stream_is_found(journal: Journal, data: bytes) -> None:
    """Bytes that are doubled, lost, mixed, of an earlier version, or no version's."""
    with pytest.raises(Wrong):
        fed(journal, data, 64)


def test_a_version_that_the_journal_does_not_know_yet_is_read_in_time(tmp_path: Path) -> None:
    """The journal is read on whenever a stream comes to another version."""
    path = tmp_path / "journal"
    path.write_text(Version(1).line())
    stream = Stream(Journal(str(path)))
    stream.feed(content(1, 0, 100))
    with path.open("a", encoding="ascii") as file:
        file.write(Version(2).line())
    stream.feed(content(2, 0, 100))
    assert stream.is_at(2, 100)


def test_an_event_file_is_as_tensorboard_writes_it() -> None:
    """The first record of an event file, byte for byte as TensorBoard 2.21 writes it for this time and version."""
    expected = "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d"
    assert events.head().hex() == expected
