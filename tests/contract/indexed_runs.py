"""Runs with an index for the contract's tests."""

from tests.harness import Lab, Mount, Truth

# Requests that a walk by the index costs at most (section 7); and without one beyond one a directory.
BY_INDEX = 12


def many(directories: int, files: int = 10) -> dict[str, int]:
    """Return the files of a run with so many directories on the third level, twenty to a parent."""
    return {f"g{i // 20}/d{i}/f{j}": 1000 * i + j for i in range(directories) for j in range(files)}


def new_run(lab: Lab, directories: int = 60, files: int = 10, **attributes: object) -> int:
    """Make a run in a project of its own."""
    return lab.new_run(many(directories, files), project=lab.new_project(), **attributes)


def directories_of(truth: Truth) -> int:
    return 1 + sum(size is None for size in truth.values())


def found(mounted: Mount, run_id: int) -> Truth:
    """Return a run as one `find` shows it."""
    done = mounted.sh(r'cd "$M/runs/$1" && find . -mindepth 1 -printf "%P\0%y\0%s\0"', run_id).ok()
    fields = done.out.split(b"\0")[:-1]
    rows = zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    return {name: None if kind == b"d" else int(size) for name, kind, size in rows}
