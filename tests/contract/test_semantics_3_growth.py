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


def test_a_log_that_grew_since_it_was_listed(lab: Lab, mounting: Mounting) -> None:
    """3.5, 2.4: who opens a file that is another by now gets what is there now, not an error: the kernel looks it up
    again. That takes a request for the listing, and one more for the content."""
    run_id = lab.new_run({"small/log.txt": 100, "large/log.txt": 100}, status="running")
    mounted = mounting("--prefetch", "off")
    # A look at each version; and of the large one what a look does not bring.
    for where, added, contents in (("small", 50, 2), ("large", 300_000, 3)):
        path = f"{where}/log.txt"
        assert len(mounted.walk("runs", run_id, where)) == 1
        lab.files(run_id, append={path: added})
        truth = lab.sha256(run_id, path)
        lab.reset()
        assert mounted.sh('sha256sum <"$M/runs/$1/$2"', run_id, path).ok().text.split()[0] == truth
        assert lab.requests() == {"listing": 1, "content": contents}


def test_tail_follows_a_log_that_is_being_written(lab: Lab, mounting: Mounting, tmp_path: Path) -> None:
    """3.5: `tail -F` follows a log that grows while it looks, at any moment between its listing and its content."""
    run_id = lab.new_run({"log.txt": 100}, status="running")
    mounted = mounting("--listing-ttl", "0", "--negative-ttl", "0")
    mounted.log.announce("changed while it was read", optional=True)
    path, told = mounted.path("runs", run_id, "log.txt"), tmp_path / "told"
    with start_process(["sh", "-c", _TAIL, "sh", "-F", path, str(told)]) as tail:
        # A line is written after each of its looks: between the listing and the content.
        for step in range(8):
            lab.reset()
            wait_until(lambda: lab.requests().get("listing", 0) > 0, "its next look")
            lab.files(run_id, append={"log.txt": 10 + step})
        whole = mounted.sh('cat "$1"', path).ok().out
        wait_until(partial(_ends_with, told, whole), "the whole log")
        assert tail.poll() is None
