"""From the bytes of a listing's answer to the entries of a directory."""

import json

import pytest

from artifactfs.domain import ListedChild
from artifactfs.modellab.listing_dialects import ListingKind, normalize
from artifactfs.modellab.models import decode_run_listing, finish
from artifactfs.tree import listing
from artifactfs.tree.size_changes import DirectorySizes
from tests import fakes
from tests.benchmarks.conftest import Loop, Measure

DIRECTORY = "model/shards"


@pytest.fixture
def answer(entries: int) -> bytes:
    """The body of an answer, in the recorded form: full paths, sizes, no times."""
    files = [
        {"path": f"{DIRECTORY}/f{number:07d}.bin", "is_dir": False, "file_size": 1000 + number % 977}
        for number in range(entries)
    ]
    attributes = {"files": files, "path_in_project": "0123456789abcdef0123456789abcdef/artifacts"}
    return json.dumps({"data": {"id": "1001", "type": "artifacts", "attributes": attributes}}).encode()


def test_decode(measure: Measure, answer: bytes, entries: int) -> None:
    """Decode a listing."""
    found = measure(lambda: decode_run_listing(answer), entries=entries, memory=True, rounds=50)
    assert len(found.files) == entries


def test_sort(measure: Measure, answer: bytes, entries: int) -> None:
    """Sort its rows into children."""
    rows = decode_run_listing(answer).files
    found = measure(lambda: finish(normalize(rows, DIRECTORY)), entries=entries, memory=True, rounds=50)
    assert found.kind is ListingKind.CHILDREN
    assert len(found.children.by_name) == entries


async def build(children: dict[bytes, ListedChild], old: listing.Listing | None) -> listing.Listing:
    sizes = DirectorySizes()
    return await listing.build(children, fakes.run(1001), DIRECTORY, old, b"site", fakes.NOW_NS, sizes)


@pytest.fixture
def children(answer: bytes) -> dict[bytes, ListedChild]:
    return finish(normalize(decode_run_listing(answer).files, DIRECTORY)).children.by_name


def test_build(measure: Measure, loop: Loop, children: dict[bytes, ListedChild], entries: int) -> None:
    """Make a directory's entries of them."""
    found = measure(lambda: loop.run(build, children, None), entries=entries, memory=True)
    assert len(found.by_name) == entries


def test_build_again(measure: Measure, loop: Loop, children: dict[bytes, ListedChild], entries: int) -> None:
    """Refresh them, with nothing changed."""
    old = loop.run(build, children, None)
    found = measure(lambda: loop.run(build, children, old), entries=entries, memory=True)
    assert found == old
