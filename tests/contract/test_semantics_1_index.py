"""Statement 1.6 of the contract, and what section 7 says of walks: a project's index in every form, and none.

Each has a project of its own, since a mount remembers what it thinks of an index; and a mount of its own where listings
have another form, or where the service stalls or limits the rate.
"""

import datetime
import errno
import os

import pytest

from artifactfs.emulator import sample
from tests.contract.indexed_runs import BY_INDEX, directories_of, found, many, new_run
from tests.fixtures import Mounting
from tests.harness import Lab, Mount, Truth, wait_until

BEYOND = 4

# Every way in which an index can be of no use.
USELESS: list[dict[str, object]] = [
    {"index": form} for form in ("404", "empty", "html", "cut", "other", "partial", "ghosts", "no_sizes")
]
USEFUL: list[dict[str, object]] = [
    {"index": "full"},
    {"index_size_form": "string"},
    {"index_size_form": "null_when_zero"},
    {"index_size_form": "absent_when_zero"},
    {"size_form": "absent_when_zero"},
    {"size_form": "absent"},
    {"size_form": "null"},
    {"extra_fields": True},
]
# Beside a useful index: forms of listings, which a mount learns.
LISTINGS: list[dict[str, object]] = [
    {"dir_slash": False, "depth": "recursive", "self_marker": "slash"},
    {"dir_flag": False, "slash": "required", "path_missing": "404", "path_of_file": "400"},
    {"slash": "refused", "base": "relative"},
]


def name_of(form: dict[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in form.items())


def time_ns(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text)
    return int(moment.timestamp()) * 10**9


def unlisted(lab: Lab, directories: int = 60) -> list[str]:
    """Return the directories of `many` that were not listed on their own since the last `reset`."""
    asked = {path.rstrip("/") for path in lab.asked_with("listing", "path")}
    return [path for i in range(directories) if (path := f"g{i // 20}/d{i}") not in asked]


def sizeless(truth: Truth) -> dict[bytes, bool]:
    return {path: size is None for path, size in truth.items()}


# --- what is shown ------------------------------------------------------------------------------------------


def shows_by_the_index(mounted: Mount, lab: Lab) -> None:
    """Check that `find` shows a new run at the price of a right index."""
    run_id = new_run(lab)
    lab.reset()
    assert found(mounted, run_id) == lab.truth(run_id)
    asked = lab.requests()
    assert asked["index"] == 1
    assert sum(asked.values()) <= BY_INDEX


@pytest.mark.parametrize("form", USEFUL, ids=name_of)
def test_a_right_index(form: dict[str, object], lab: Lab, standing: Mount) -> None:
    """1.6, 2.2, 7: by a right index, in whatever form, `find` shows the server's tree in at most twelve requests.

    So it does where only the index has sizes, from the first directory on.
    """
    lab.switch(**form)
    shows_by_the_index(standing, lab)


@pytest.mark.parametrize("form", LISTINGS, ids=name_of)
def test_a_right_index_beside_any_listings(form: dict[str, object], lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6, 7: so it does whatever form the listings beside it have."""
    lab.switch(**form)
    shows_by_the_index(mounting_patiently(), lab)


def costs_one_request_more(mounted: Mount, lab: Lab, run_id: int) -> None:
    """Check that a walk shows the server's tree in D + 4 requests, and asks for nothing again."""
    truth = lab.truth(run_id)
    lab.reset()
    assert found(mounted, run_id) == truth
    asked = lab.requests()
    assert asked["index"] == 1
    assert sum(asked.values()) <= directories_of(truth) + BEYOND
    mounted.sh('find "$M/runs/$1" -ls', run_id).ok()
    assert lab.requests() == asked


@pytest.mark.parametrize("form", USELESS, ids=name_of)
def test_an_index_of_no_use(form: dict[str, object], lab: Lab, standing: Mount) -> None:
    """1.6, 7: with an index that is wrong, cut or missing `find` shows the server's tree, in D + 4 requests."""
    lab.switch(**form)
    costs_one_request_more(standing, lab, new_run(lab))


def test_an_index_that_is_never_answered(lab: Lab, mounting: Mounting) -> None:
    """1.6, 7: nor does a walk wait for an index that is never answered."""
    lab.switch(index="stall")
    costs_one_request_more(mounting(), lab, new_run(lab))


@pytest.mark.parametrize(
    "then",
    [
        {"status": 500}, {"status": 403}, {"status": 400}, {"body": "[[[" * 30_000}, {"body": '{"data":{}}'},
        {"reset_after": 2000}, {"reset_after": 0}, {"cut_after": -1},
    ],
    ids=lambda then: str(then)[:40],
)  # fmt: skip
def test_an_index_that_fails(then: dict[str, object], lab: Lab, standing: Mount) -> None:
    """1.6, 7: whatever happens to the one request for it, a walk shows the server's tree, and costs that one more."""
    run_id = new_run(lab, 30)
    lab.fault("index", then)
    costs_one_request_more(standing, lab, run_id)


@pytest.mark.parametrize("then", [{"rate_limit": {"reset_s": 1, "name": "other"}}, {"stall_after": 2000}], ids=str)
def test_an_index_that_is_held_up(then: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """1.6, 7: so it is where the answer stops half-way, and where the rate of indexes is limited."""
    run_id = new_run(lab, 30)
    mounted = mounting()
    lab.fault("index", then)
    costs_one_request_more(mounted, lab, run_id)


@pytest.mark.parametrize("form", ["full", "partial", "ghosts", "no_sizes"])
def test_the_awkward_runs(form: str, lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6, 1.3 to 1.5: odd names, deep paths, namesakes and empty directories are shown by an index as without one."""
    lab.switch(index=form)
    mounted = mounting_patiently()
    mounted.log.announce("names are both file and directory", optional=True)
    for run_id in (sample.RUN, 80001, 80002, 80003, 80012, 80014, 80032):
        shown, truth = found(mounted, run_id), lab.truth(run_id)
        # What lies in directories without a listing of their own may stay unseen, or be one too many.
        if form == "full":
            assert sizeless(shown) == {path: is_dir for path, is_dir in sizeless(truth).items() if path in shown}
            assert not [path for path in truth.keys() - shown.keys() if truth[path] is not None]
        # A look that the index cannot answer makes each directory its own truth, whatever the walk showed.
        directories = [os.fsdecode(path) for path in sorted(shown) if shown[path] is None]
        mounted.sh('cd "$M/runs/$1" && shift && for each; do stat "$each/no such name"; done', run_id, *directories)
        assert found(mounted, run_id) == truth


def test_times_are_the_files_own(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.3: the mtime of every file is its `created_at`, and stays that after a refresh."""
    run_id = new_run(lab, 40)
    files = [path for path in many(40) if path.endswith("f3")]
    times = {path: f"2026-05-16T07:{place % 60:02d}:00Z" for place, path in enumerate(files)}
    lab.files(run_id, touch=times)
    mounted = mounting_patiently()

    shown = {path.decode(): seen.mtime_ns for path, seen in mounted.walk("runs", run_id).items()}
    assert {path: shown[path] for path in files} == {path: time_ns(times[path]) for path in files}
    mounted.sh("kill -HUP $1", mounted.pid).ok()
    again = {path.decode(): seen.mtime_ns for path, seen in mounted.walk("runs", run_id).items()}
    assert again == shown


def test_another_time_is_another_version(lab: Lab, mounting_patiently: Mounting) -> None:
    """2.4: a file that was replaced by one of the same size at another time is another inode, with other bytes."""
    run_id = new_run(lab, 40)
    path = "g1/d25/f3"
    mounted = mounting_patiently()
    before = mounted.walk("runs", run_id)[path.encode()]
    first = mounted.sh('sha256sum "$M/runs/$1/$2" | cut -c1-64', run_id, path).ok().text.strip()
    assert first == lab.sha256(run_id, path)
    lab.files(run_id, change={path: {"created_at": "2026-05-16T09:05:00Z"}})
    mounted.sh("kill -HUP $1", mounted.pid).ok()
    wait_until(
        lambda: mounted.walk("runs", run_id)[path.encode()].inode != before.inode, "another inode: the refresh is seen"
    )

    after = mounted.walk("runs", run_id)[path.encode()]
    assert (after.size, after.mtime_ns) == (before.size, time_ns("2026-05-16T09:05:00Z"))
    second = mounted.sh('sha256sum "$M/runs/$1/$2" | cut -c1-64', run_id, path).ok().text.strip()
    assert second == lab.sha256(run_id, path) != first


# --- when it is wrong ---------------------------------------------------------------------------------------


def test_a_name_that_the_index_lacks(lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6: a file that came after the index is found by its name, and then shown, with all that came besides."""
    run_id = new_run(lab)
    mounted = mounting_patiently()
    found(mounted, run_id)
    first, *others = unlisted(lab)[::10]
    lab.files(run_id, add={f"{path}/new": 5 for path in (first, *others)})

    assert mounted.sh('stat -c %s "$M/runs/$1/$2/new"', run_id, first).ok().text == "5\n"
    assert mounted.log.has("is wrong about run")
    for path in others:
        assert "new" in mounted.sh('ls "$M/runs/$1/$2"', run_id, path).ok().text.split()
    assert found(mounted, run_id) == lab.truth(run_id)


def test_a_name_that_is_nowhere(lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6, 7: it is ENOENT after its directory's own listing was asked, once; then for nothing."""
    run_id = new_run(lab)
    mounted = mounting_patiently()
    found(mounted, run_id)
    path = unlisted(lab)[-1]
    lab.reset()

    for name in (".hidden", ".directory", "nothing"):
        assert mounted.error_of("runs", run_id, path, name) == errno.ENOENT
    assert lab.requests() == {"listing": 1}
    assert not mounted.log.has("is wrong about run")


def test_a_file_that_is_gone(lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6: a file that the index named and that is gone is found out when it is read, and not shown after that."""
    run_id = new_run(lab)
    mounted = mounting_patiently()
    mounted.log.announce("content of /runs/|answered 404")
    found(mounted, run_id)
    path, *others = unlisted(lab)[::10]
    lab.files(run_id, remove=[f"{path}/f3", *(f"{other}/f4" for other in others)])

    # It opens, since its size is known, and cannot be read.
    for said in ("Stale file handle", "No such file"):
        assert said in mounted.sh('cat "$M/runs/$1/$2/f3"', run_id, path).err
    assert found(mounted, run_id) == lab.truth(run_id)


def test_an_empty_directory(lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6: no index has a directory without files: beside one that shows, directories are listed on their own."""
    run_id = new_run(lab)
    lab.files(run_id, mkdir=["top", "g2/hollow", "g2/d50/hollow"])
    mounted = mounting_patiently()

    assert found(mounted, run_id) == lab.truth(run_id)


@pytest.mark.parametrize("status", ["running", "completed"])
@pytest.mark.parametrize("before", ["true", 'find "$M/runs/$1/g0" "$M/runs/$1/g1" >/dev/null'])
def test_empty_directories_below_others(before: str, status: str, lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6: where several levels have no file, each level that shows another has that listed on its own."""
    run_id = new_run(lab, files=1, status=status)
    lab.files(run_id, mkdir=["a/b/c/d/empty", "a/b/c2/empty2", "g2/x/y/z/empty", "g1/d25/e/e/empty", "g2/z"])
    mounted = mounting_patiently()
    mounted.sh(before, run_id).ok()

    truth = lab.truth(run_id)
    shown = found(mounted, run_id)
    # What the index answered for shows no empty directory until it is listed (the next test).
    below = {path for path in truth if path.startswith(b"g1/d25/e")}
    assert {path: size for path, size in truth.items() if path not in below}.items() <= shown.items()
    copy = mounted.shell.path("copied")
    mounted.sh('cp -r "$M/runs/$1" "$2"', run_id, copy, limit_s=120).ok()
    copied = {
        os.path.relpath(os.path.join(above, name), copy).encode() for above, names, _ in os.walk(copy) for name in names
    }
    assert copied >= {path for path, size in truth.items() if size is None and path not in below}


def test_an_empty_directory_that_nothing_shows(lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6: one far below, in a directory that the index answered for, is found by its name, and shown from then on."""
    run_id = new_run(lab)
    lab.files(run_id, mkdir=["g2/d50/hollow"])
    mounted = mounting_patiently()

    assert found(mounted, run_id).items() <= lab.truth(run_id).items()
    assert mounted.error_of("runs", run_id, "g2/d50/hollow") == 0
    assert found(mounted, run_id) == lab.truth(run_id)


@pytest.mark.parametrize("before", ["", 'find "$M/runs/$1/a" "$M/runs/$1/z" | wc -l'])
def test_a_copy_of_a_git_repository(before: str, lab: Lab, mounting_patiently: Mounting) -> None:
    """1.6: `cp -r` of a repository keeps the directories that git needs and leaves empty, in a traversal, too."""
    run_id = lab.new_run({}, project=lab.new_project())
    mounted = mounting_patiently()
    repository = mounted.shell.make_directory("repository")
    made = """cd "$1" && git init -q && mkdir -p src/a src/b && echo 1 >src/a/f && echo 2 >src/b/g && git add . &&
        git -c user.name=n -c user.email=e commit -qm m && git pack-refs --all && git gc -q && rm -rf .git/hooks &&
        mkdir -p .git/modules/sub && cp -r .git/refs .git/objects .git/HEAD .git/config .git/modules/sub"""
    mounted.sh(made, repository).ok()
    texts, empty = {}, []
    for above, directories, files in os.walk(repository):
        path = os.path.relpath(above, repository)
        empty += [path] if not directories and not files else []
        for name in files:
            with open(os.path.join(above, name), "rb") as file:
                texts[os.path.normpath(f"repo/{path}/{name}")] = file.read()
    lab.files(run_id, add={path: len(body) for path, body in texts.items()}, mkdir=[f"repo/{path}" for path in empty])
    lab.files(run_id, add={f"{top}/{i}/{i}/f": i for top in "az" for i in range(5)})
    assert any(path.startswith(".git/refs") for path in empty)

    copy = mounted.shell.path("copied")
    mounted.sh((before or "true") + '; cp -r "$M/runs/$1/repo" "$2"', run_id, copy).ok()
    copied = {os.path.relpath(above, copy) for above, *_ in os.walk(copy)}
    assert copied == {os.path.relpath(above, repository) for above, *_ in os.walk(repository)}
    assert lab.requests()["index"] == 1


def test_a_refresh_in_the_middle_of_a_walk(lab: Lab, mounting_patiently: Mounting) -> None:
    """3.3, 1.6: refreshes while `find` walks lose nothing and show nothing twice."""
    run_id = new_run(lab, 200)
    lab.switch(latency_s=0.01)
    mounted = mounting_patiently()
    truth, pid = lab.truth(run_id), mounted.pid

    for _ in range(3):
        done = mounted.sh(
            r"""cd "$M/runs/$1" && find . -mindepth 1 -printf "%P\n" & walker=$!
            for i in 1 2 3 4 5 6 7 8; do kill -HUP "$2"; sleep 0.03; done; wait $walker""",
            run_id,
            pid,
        ).ok()
        assert sorted(done.out.splitlines()) == sorted(truth)
    assert found(mounted, run_id) == truth
