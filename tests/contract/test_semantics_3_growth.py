"""3.5: a file that grows."""

from functools import partial
from pathlib import Path

from tests.fixtures import Mounting
from tests.harness import Lab, start_process, wait_until

_TAIL = 'exec tail "$1" -s 0.2 -n +1 "$2" >"$3" 2>/dev/null'


def _ends_with(told: Path, expected: bytes) -> bool:
    return told.exists() and told.read_bytes().endswith(expected)


def test_tail_follows_by_name_alone(lab: Lab, mounting: Mounting, tmp_path: Path) -> None:
    """3.5: each time a file grows it is a new version: `tail -F` follows to it, `tail -f` stays with what it opened."""
    run_id = lab.new_run({"sub/log.txt": 100}, status="running")
    mounted = mounting("--listing-ttl", "0", "--negative-ttl", "0")
    path = mounted.path("runs", run_id, "sub/log.txt")
    first = mounted.sh('cat "$1"', path).ok().out
    assert len(first) == 100
    by_name, by_descriptor = tmp_path / "by-name", tmp_path / "by-descriptor"
    with (
        start_process(["sh", "-c", _TAIL, "sh", "-F", path, str(by_name)]),
        start_process(["sh", "-c", _TAIL, "sh", "-f", path, str(by_descriptor)]) as stays,
    ):
        for told in (by_name, by_descriptor):
            wait_until(partial(_ends_with, told, first), "the first version")
        for size in (150, 200):
            lab.files(run_id, append={"sub/log.txt": 50})
            grown = mounted.sh('cat "$1"', path).ok().out
            assert len(grown) == size
            assert grown.startswith(first)
            # A new version is a new file to tail: it shows it from its start.
            wait_until(partial(_ends_with, by_name, grown), "the grown version")
        assert by_descriptor.read_bytes() == first
        assert stays.poll() is None
