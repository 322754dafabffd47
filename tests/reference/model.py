"""What may be seen of a run, in obvious Python: the page that a real mount is held against.

The model keeps every state that the server was in since the run was made, the *moments*, and says of a look which of
them may show. Mostly that is the present one alone. It is more

- as long as a listing is trusted (docs/semantics.md 3.1): any moment since a process may have asked for it. Time ends
that, and
  so does a refresh (3.3): at the next look it is asked for again, and shows no moment before that look;
- in trouble (3.2), from a fault on until something was answered after its end: any moment since the one shown last, for
  the old listing is served. Where no old one is cached, an error of the table may come instead.

Never a moment before the one that was shown last (3.4); never a directory that is half one moment and half another;
never an error without a trouble. What is read is of one version, to the byte, or fails (4.1); it fails with ESTALE only
where the file was not the same all the time.

Weak spots: that the kernel may repeat a name (3.4) is left out: it learns that names hold for 0 s. A trouble is one of
everything until it is healed, also where it met only contents, or where a retry has cured it. After a failed read the
old listing counts as lost, and after a stall reads may time out for as long as the run is used. Two versions of one
size differ in the validator and in nothing else (2.4), so the bytes of an earlier one may show again, but never
mixed. A file that is empty by now may be EIO, not ESTALE: its body is taken for a short one. Times are not compared.
Index and read-ahead of listings are off: tests/simulated/test_project_index_property.py has a model of them.
"""

import errno
from dataclasses import dataclass

# What goes wrong, and what the table of model-lab-api.md makes of it. "slow" is this machine's doing: a look took as
# long as no caller is to wait for a refresh.
TROUBLES = {
    "500": errno.EIO,
    "503": errno.EIO,
    "429": errno.EBUSY,
    "reset": errno.EIO,
    "cut": errno.EIO,
    "stall": errno.ETIMEDOUT,
    "slow": errno.ETIMEDOUT,
}


@dataclass(frozen=True)
class Version:
    """A version of a file. Its bytes tell which it is, and where in it they are."""

    number: int
    size: int

    def read(self, start: int, count: int) -> bytes:
        """Return what a read gives: less than `count` bytes at the end only."""
        end = max(start, min(start + count, self.size))
        lines = [b"v%04d %08d \n" % (self.number, at) for at in range(start // 16 * 16, end, 16)]
        return b"".join(lines)[start % 16 : start % 16 + end - start]


@dataclass(eq=False)
class Handle:
    """An open file. `since`: the moment it was opened in, at the earliest; `may_be`: what bytes that came are of."""

    path: str
    size: int
    since: int
    may_be: set[Version] | None = None


class Model:
    """One run. `believes`: listings stay fresh for their time, and not for 0 s. Each answer is as a person tells it:
    "directory", "file of 7 bytes", "a d/", or the name of an error."""

    def __init__(self, *, believes: bool) -> None:
        self.believes = believes
        self.moments: list[dict[str, Version]] = [{}]  # files by path; a directory is there while something is in it
        self.finished = False
        self.troubles: set[str] = set()
        self.stalled = False
        self.asked: dict[str, int] = {}  # by directory, the moment that the listing held is of, at the earliest
        self.shown: dict[str, int] = {}  # by directory, the moment that was shown last, at the earliest
        self.at_hand: set[str] = set()  # directories of which there is an old listing, if one is needed
        self.inodes: dict[int, tuple[str, str]] = {}

    # --- what is there -------------------------------------------------------------------------------------

    def entry(self, moment: int, path: str) -> str:
        """Return what is at a path: reported by its size, as `stat` would."""
        files = self.moments[moment]
        if path in files:
            return f"file of {files[path].size} bytes"
        return "directory" if not path or any(other.startswith(path + "/") for other in files) else "ENOENT"

    def children(self, moment: int, path: str) -> str:
        """Return what is in a directory: its names, those of directories with a slash."""
        base = path + "/" if path else ""
        below = [other.removeprefix(base) for other in self.moments[moment] if other.startswith(base)]
        return " ".join(sorted({name.partition("/")[0] + name.partition("/")[1] for name in below}))

    # --- what is done --------------------------------------------------------------------------------------

    def change(self, files: dict[str, Version]) -> None:
        """The server has these files from now on."""
        self.moments.append(files)

    def refreshed(self) -> None:
        """Everything is asked for again: at the next look."""
        self.asked.clear()

    def minute_passed(self) -> None:
        """More than `listing_ttl`, less than `finished_ttl`: whether a finished run's listing is fresh is not known."""
        if not self.finished:
            self.asked.clear()

    def hour_passed(self) -> None:
        """More than `finished_ttl`. An old listing need not be served for longer than `stale_max`, an hour."""
        self.asked.clear()
        self.at_hand.clear()

    def trouble(self, how: str) -> None:
        """From now on requests may fail."""
        self.troubles.add(how)
        self.stalled |= how in ("stall", "slow")

    def healed(self) -> None:
        """Something was answered after the trouble's end."""
        self.troubles.clear()

    # --- what is seen --------------------------------------------------------------------------------------

    def may_show(self, directory: str) -> range:
        """Return the moments of which a directory's listing may be."""
        now = len(self.moments) - 1
        asked = self.asked.setdefault(directory, now) if self.believes else now
        return range(max(0 if self.troubles else asked, self.shown.get(directory, 0)), now + 1)

    def found(self, path: str) -> set[str]:
        """Return what may be found at a path: each directory above it is looked at by itself."""
        may_be = {"directory"}
        for directory, name in steps(path):
            there = (
                {self.entry(moment, name) for moment in self.may_show(directory)} if "directory" in may_be else set()
            )
            may_be = there | {"ENOTDIR" if it.startswith("file") else it for it in may_be if it != "directory"}
        return may_be

    def errors(self, *directories: str) -> set[str]:
        """Return the errors that a look at directories may end with: none where there is an old listing of each."""
        return (
            set() if self.at_hand.issuperset(directories) else {errno.errorcode[TROUBLES[it]] for it in self.troubles}
        )

    def _held(self, *directories: str) -> None:
        """Take note that directories were shown. In a trouble that may have been the old listing: no younger for it."""
        if not self.troubles:
            self.at_hand.update(directories)

    def listed(self, path: str, answer: str) -> None:
        """Check an `ls`."""
        above = [directory for directory, _ in steps(path)]
        found = self.found(path)
        permitted = {"ENOTDIR" if it.startswith("file") else it for it in found - {"directory"}}
        permitted |= self.errors(*above, path)
        if "directory" in found:
            permitted |= {self.children(moment, path) for moment in self.may_show(path)}
        check(answer, permitted)
        if not is_error(answer):
            self._held(*above, path)
            self.shown[path] = next(it for it in self.may_show(path) if self.children(it, path) == answer)

    def looked_up(self, path: str, answer: str, *, opened: bool = False) -> None:
        """Check a `stat`, or an `open`: that one looks into a directory, too."""
        above = [directory for directory, _ in steps(path)]
        found = self.found(path)
        into = [path] if opened and "directory" in found else []
        for directory in into:
            self.may_show(directory)
        check(answer, found | self.errors(*above, *into))
        if not is_error(answer):
            self._held(*above)
            self.shown[above[-1]] = next(it for it in self.may_show(above[-1]) if self.entry(it, path) == answer)

    def identified(self, path: str, answer: str, inode: int) -> None:
        """Check that an inode number stands for one path, and one size (2.4)."""
        known = self.inodes.setdefault(inode, (path, answer))
        assert known == (path, answer), f"inode {inode} was {known}, and is {(path, answer)}"

    def opened(self, path: str, size: int) -> Handle:
        """Return a handle for a file that `looked_up` has checked."""
        return Handle(path, size, self.shown[steps(path)[-1][0]])

    def read(self, handle: Handle, start: int, count: int, answer: bytes | str) -> None:
        """Check a read of `count` bytes: what it brought, or the name of its error."""
        ever = {files.get(handle.path) for files in self.moments}
        alike = {it for it in ever if it is not None and it.size == handle.size}
        if isinstance(answer, bytes):
            may_be = alike if handle.may_be is None else handle.may_be
            fitting = {it for it in may_be if it.read(start, count) == answer}
            assert fitting, f"{len(answer)} bytes, {answer[:16]!r}…, of none of {may_be}"
            if answer:
                handle.may_be = fitting  # and no version that comes later
            return
        since = {files.get(handle.path) for files in self.moments[handle.since :]}
        permitted = {errno.errorcode[TROUBLES[it]] for it in self.troubles | ({"stall"} if self.stalled else set())}
        if len(since | alike) > 1:
            emptied = any(it is not None and it.size == 0 for it in since)
            permitted |= {"ESTALE"} | ({"EIO"} if self.troubles or emptied else set())
        check(answer, permitted)
        directory = steps(handle.path)[-1][0]
        self.at_hand.discard(directory)
        if answer == "ESTALE":
            # The mount has seen that the file is another one: the next look shows that, or something later.
            states = [files.get(handle.path) for files in self.moments]
            other = (it for it in range(handle.since, len(states)) if states[it] != states[handle.since])
            self.shown[directory] = max(self.shown.get(directory, 0), next(other, 0))


def steps(path: str) -> list[tuple[str, str]]:
    """Return each directory that is looked at on the way to a path, and what is looked for in it, as a path."""
    parts = path.split("/") if path else []
    return [("/".join(parts[:count]), "/".join(parts[: count + 1])) for count in range(len(parts))]


def is_error(answer: str) -> bool:
    """Whether an answer is the name of an error. No file of the model's is called like one."""
    return answer.isupper()


def check(answer: str, permitted: set[str]) -> None:
    """Fail unless an answer is permitted."""
    assert answer in permitted, f"{answer!r} is none of {sorted(permitted)}"
