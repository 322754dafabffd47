"""4.5 of the contract: small files are fetched ahead of a program that reads file by file, and what that may cost.

Each order, each bound and each failure is in tests/simulated/test_sibling_readahead.py; here are real programs.
"""

from pathlib import Path

import pytest

from tests.fixtures import Mounting
from tests.harness import Lab, Mount, wait_until

FILES = {f"g/d{directory}/f{number:02d}.json": 500 + number for directory in range(6) for number in range(15)}
# Each goes through the directory $1; what they write goes to $2.
PROGRAMS = {
    "cp": 'cp -r "$1" "$2" && diff -r "$1" "$2"',
    "tar": 'mkdir "$2" && tar -C "$1" -cf - . | tar -C "$2" -xf - && diff -r "$1" "$2"',
    "grep": 'grep -r "no such text" "$1" || true',
    "glob": 'cat "$1"/*/*.json >"$2"',
    "os.walk": """python3 -c 'import os, sys
for place, dirs, names in os.walk(sys.argv[1]):
    for name in names:
        open(os.path.join(place, name), "rb").read()' "$1" """,
}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_that_read_file_by_file(program: str, lab: Lab, mounting: Mounting, tmp_path: Path) -> None:
    """4.5: each file is right and asked for once, several at a time, in a run that is over and in one that is not."""
    lab.switch(latency_s=0.02)
    mounted = mounting()
    for status in ("completed", "running"):
        run_id = lab.new_run(FILES, status=status)
        lab.reset()
        place = mounted.path("runs", run_id, "g")
        mounted.sh(PROGRAMS[program], place, tmp_path / status).ok()
        asked = lab.requests()["content"]
        if program == "cp" and status == "running":
            # It goes by inode numbers, which may begin like the names: what was fetched for that is forgotten, and is
            # asked for again when its turn comes.
            assert len(FILES) <= asked < 2 * len(FILES)
        else:
            assert asked == len(FILES)
        assert lab.stats()["peak"] > 4
        digests = mounted.sh('cd "$1" && find . -type f | sort | xargs sha256sum', place).ok().text.split()[::2]
        assert digests == [lab.sha256(run_id, path) for path in sorted(FILES)]


def test_pictures(lab: Lab, mounting: Mounting, tmp_path: Path) -> None:
    """4.5: files of up to 512 KiB are fetched ahead of a program that reads them whole; a look at each costs a look."""
    lab.switch(latency_s=0.02)
    files = {f"g/p{number:02d}.png": 300_000 + number for number in range(30)}
    mounted = mounting()
    run_id = lab.new_run(files)
    place = mounted.path("runs", run_id, "g")
    mounted.sh('ls "$1"', place).ok()
    wait_until(lambda: lab.stats()["in_flight"] == 0, "the index")
    lab.reset()
    mounted.sh('cd "$1" && for p in p0*.png; do head -c 100 "$p" >/dev/null; done', place).ok()
    assert lab.stats()["peak"] == 1
    lab.reset()
    mounted.sh('cp "$1"/p[12]*.png "$2"', place, tmp_path).ok()
    assert lab.requests()["content"] == 20
    assert lab.stats()["peak"] > 2
    mounted.sh('for p in "$2"/*.png; do cmp "$p" "$1/${p##*/}" || exit 1; done', place, tmp_path).ok()


def test_without_prefetching(lab: Lab, mounting: Mounting) -> None:
    """4.5: with `--prefetch off` nothing is fetched that was not read."""
    lab.switch(latency_s=0.02)
    mounted = mounting("--prefetch", "off")
    run_id = lab.new_run(FILES)
    mounted.sh('ls "$1"', mounted.path("runs", run_id, "g/d0")).ok()
    lab.reset()
    mounted.sh('cd "$1" && cat f00.json f01.json f02.json f03.json f04.json', mounted.path("runs", run_id, "g/d0")).ok()
    assert lab.requests() == {"content": 5}
    assert lab.stats()["peak"] == 1


def test_a_program_that_turns_away(lab: Lab, standing: Mount) -> None:
    """4.5: what is fetched in vain stays under what was read; one file is no order."""
    run_id = lab.new_run(FILES)
    standing.sh('ls "$1"', standing.path("runs", run_id, "g/d0")).ok()
    lab.reset()
    standing.sh('cat "$1"', standing.path("runs", run_id, "g/d0/f07.json")).ok()
    assert lab.requests() == {"content": 1}
    standing.sh('cat "$1"/f00.json "$1"/f01.json "$1"/f02.json', standing.path("runs", run_id, "g/d0")).ok()
    standing.sh('ls "$1"', standing.path("runs", run_id, "g/d1")).ok()
    assert lab.requests()["content"] <= 8
