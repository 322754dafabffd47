"""What may be seen of a run, in obvious Python: the page that a real mount is held against.

The model keeps every state that the server was in since the run was made, the *moments*, and says of a look which of
them may show. Mostly that is the present one alone. It is more

- as long as a listing is trusted (docs/semantics.md 3.1): any moment since a process may have asked for it. Time
  ends that, and so does a refresh (3.3): at the next look it is asked for again, and shows no moment before that look,
  or before the refresh where a file in it is open;
- in trouble (3.2), from a fault on until something was answered after its end: any moment since the one shown last, for
  the old listing is served. Where no old one is cached, an error of the table may come instead;
- for the size of a file whose contents were read: an answer's length counts at once, and as long as a listing that
  lags behind it could look as the listing does (3.5, 4.1). And the size of an open file may be the old one until its
  contents have proven that it grew (2.4), and that of a file that was read until they have told of a shorter one (3.5).

Never a moment before the one that was shown last (3.4); never a directory that is half one moment and half another;
never an error without a trouble. What is read is of one version, to the byte, or fails (4.1); it fails with ESTALE only
where the file was not the same all the time.

A file that grows is the same file (2.4, 3.5): its inode number stays as long as it only grew, and never stands for a
file that became shorter, nor again for one of another size once its name showed another file, or none. All that is read
of an inode while it is open is of one version: the first bytes of what that came to. Reads go as far as a look or a
read has shown that the file goes, at least.

Weak spots: that the kernel may repeat a name (3.4) is left out: it learns that names hold for 0 s. A trouble is one of
everything until it is healed, also where it met only contents, or where a retry has cured it. After a failed read or
open the old listing counts as lost, and after a stall reads may time out for as long as the run is used. Two versions
of one size differ in the validator and in nothing else (2.4), so the bytes of an earlier one may show again, but never
mixed. A file that is empty by now may be EIO, not ESTALE: its body is taken for a short one. Where the old listing is
lost, so is what tells growth from replacement: after an hour, and after contents of another version than listed (a
replacement that a read or an open met), for any file of the directory. In a finished run an answer of a larger file is
another version (its size is shown for an hour), so growth may be ESTALE there. Times are not compared. Index and read-
ahead of listings are off: tests/simulated/test_project_index_property.py has a model of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.reference.trust import Trust, check, is_error
from tests.reference.versions import Version


@dataclass(eq=False)
class Inode:
    """An inode number. `what`: a directory or a file; `size`: the largest that was shown of it; `opened`: ever.

    `read`: (offset, bytes) of what was read through the handles that are open, `handles` of them. `proven`: the moment,
    at the earliest, of the last open, which compares what is known of the file with what it has become (2.4).
    """

    path: str
    what: str
    size: int
    handles: int = 0
    opened: bool = False
    proven: int | None = None
    read: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(eq=False)
class Handle:
    """An open file. `size`: when it was opened; `since`: the moment it was opened in, at the earliest."""

    path: str
    inode: Inode
    size: int
    since: int


@dataclass(frozen=True)
class Learned:
    """A size that contents may have shown, while listings showed sizes between `low` and `high`."""

    size: int
    low: int
    high: int


class Model(Trust[dict[str, Version]]):
    """One run. A moment: files by path; a directory is there while something is in it. Each answer is as a person tells
    it: "directory", "file of 7 bytes", "a d/", or the name of an error."""

    def __init__(self, *, believes: bool) -> None:
        super().__init__({}, believes=believes)
        self.finished = False
        self.learned: dict[str, set[Learned]] = {}  # by file
        self.seen: dict[str, int] = {}  # by path, the moment that it was shown of last, at the earliest
        self.inodes: dict[int, Inode] = {}
        self.last: dict[str, int] = {}  # by path, the inode number that a look showed last
        self.lost: set[str] = set()  # the paths whose number may be another one at the next look
        self.retired: dict[str, dict[int, int]] = {}  # by path, the sizes of the numbers that it had before

    # --- what is there -------------------------------------------------------------------------------------

    def entry(self, moment: int, path: str) -> str:
        """Return what is at a path: reported by its size, as `stat` would."""
        files = self.moments[moment]
        if path in files:
            return f"file of {files[path].size} bytes"
        return "directory" if not path or any(other.startswith(path + "/") for other in files) else "ENOENT"

    def shown_at(self, moment: int, path: str) -> set[str]:
        """Return what may be shown at a path while its listing is of a moment: contents decide on the size."""
        file = self.moments[moment].get(path)
        sizes = {it.size for it in self.learned.get(path, ()) if file is not None and it.low <= file.size <= it.high}
        inode = self.inodes[self.last[path]] if path in self.last else None
        if file is not None and inode is not None and inode.what == "file":
            grew = inode.handles and file.size > inode.size
            was_cut = inode.opened and file.size < inode.size and not self.finished
            if grew or was_cut:
                sizes.add(inode.size)  # until the contents have proven the one, or shown the other
        return {self.entry(moment, path)} | {f"file of {size} bytes" for size in sizes}

    def number(self, moment: int, path: str) -> int | None:
        """Return the number of the version at a path; it stays the same while the file grows. None for no file."""
        file = self.moments[moment].get(path)
        return None if file is None else file.number

    def ever(self, path: str) -> list[Version]:
        """Return every state that the file at a path was in."""
        return [files[path] for files in self.moments if path in files]

    def children(self, moment: int, path: str) -> str:
        """Return what is in a directory: its names, those of directories with a slash."""
        base = path + "/" if path else ""
        below = [other.removeprefix(base) for other in self.moments[moment] if other.startswith(base)]
        return " ".join(sorted({name.partition("/")[0] + name.partition("/")[1] for name in below}))

    # --- what is done --------------------------------------------------------------------------------------

    def refreshed(self, handles: Iterable[Handle]) -> None:
        """Everything is asked for again: at the next look, but at once where files are open."""
        now = len(self.moments) - 1
        self.asked = {steps(handle.path)[-1][0]: now for handle in handles}

    def minute_passed(self) -> None:
        """More than `listing_ttl`, less than `finished_ttl`: whether a finished run's listing is fresh is not known."""
        if not self.finished:
            super().minute_passed()

    def hour_passed(self) -> None:
        """More than `finished_ttl`. An old listing need not be served for longer than `stale_max`, an hour."""
        super().hour_passed()
        self.lost.update(self.last)

    # --- what is seen --------------------------------------------------------------------------------------

    def shows(self, directory: str, path: str) -> set[str]:
        """Return what may be shown at a path in a directory."""
        since = range(self.seen.get(path, 0), len(self.moments))
        return self._at(path, self.may_show(directory)) & self._at(path, since)

    def _at(self, path: str, moments: range) -> set[str]:
        return set().union(*(self.shown_at(moment, path) for moment in moments))

    def found(self, path: str) -> set[str]:
        """Return what may be found at a path: each directory above it is looked at by itself."""
        may_be = {"directory"}
        for directory, name in steps(path):
            there = self.shows(directory, name) if "directory" in may_be else set()
            may_be = there | {"ENOTDIR" if it.startswith("file") else it for it in may_be if it != "directory"}
        return may_be

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
            self.held(*above, path)
            self.shown[path] = next(it for it in self.may_show(path) if self.children(it, path) == answer)
            names = answer.split()
            for other in [it for it in self.last if steps(it)[-1][0] == path]:
                if other.rpartition("/")[2] not in names:
                    self._retire(other)

    def looked_up(self, path: str, answer: str, *, opened: bool = False) -> None:
        """Check a `stat`, or an `open`: that one looks into a directory, and at a file's contents, too."""
        if opened:
            self._learn(path)
        above = [directory for directory, _ in steps(path)]
        found = self.found(path)
        into = [path] if opened and "directory" in found else []
        for directory in into:
            self.may_show(directory)
        # Contents may fail, whatever listings are there.
        is_file = opened and any(it.startswith("file") for it in found)
        check(answer, found | self.errors(*above, *into) | (self.failures() if is_file else set()))
        if is_file:
            self.at_hand -= {above[-1]} if is_error(answer) else set()
            if len({self.number(moment, path) for moment in range(self.seen.get(path, 0), len(self.moments))}) > 1:
                self._lose(above[-1])
        if not is_error(answer):
            self.held(*above)
            self._seen(path, answer)
        elif answer in ("ENOENT", "ENOTDIR"):
            self._retire(path)

    def _learn(self, path: str) -> None:
        """Contents are read now: they may tell the size of the file."""
        now, directory = len(self.moments) - 1, steps(path)[-1][0]
        if (file := self.moments[now].get(path)) is not None:
            listed = [self.moments[it][path].size for it in self.may_show(directory) if path in self.moments[it]]
            self.learned.setdefault(path, set()).add(Learned(file.size, min(listed), max(listed)))

    def _seen(self, path: str, answer: str) -> None:
        """Take note of a look at a path: no later one shows less."""
        directory = steps(path)[-1][0]
        may_be = self.may_show(directory)
        self.shown[directory] = next(it for it in may_be if answer in self.shown_at(it, path))
        since = range(self.seen.get(path, 0), len(self.moments))
        self.seen[path] = next(it for it in since if answer in self.shown_at(it, path))
        learned = {it for it in self.learned.get(path, ()) if answer == f"file of {it.size} bytes"}
        if len(may_be) == 1 and path in (files := self.moments[may_be[0]]):
            # The listing of this moment is known to lag, so another one counts only if it lags as well.
            listed = files[path].size
            learned = {Learned(it.size, min(listed, it.size), max(listed, it.size)) for it in learned}
        self.learned[path] = learned

    def _lose(self, directory: str) -> None:
        """A read or an open may have met another version than listed: the listing of its directory is dropped."""
        self.lost.update(it for it in self.last if steps(it)[-1][0] == directory)

    def _retire(self, path: str) -> None:
        """A look showed that a path has another file, or none."""
        if (number := self.last.pop(path, None)) is not None:
            self.retired.setdefault(path, {})[number] = self.inodes[number].size

    def identified(self, path: str, answer: str, size: int, number: int, since: int) -> None:
        """Check the inode number of a look that `looked_up` has checked.

        `since`: the moment, at the earliest, that the look before it showed of the path.
        """
        what = answer.partition(" ")[0]
        inode = self.inodes.setdefault(number, Inode(path, what, size))
        assert (inode.path, inode.what) == (path, what), f"inode {number} is of {inode.path}, and of {path}"
        before = self.last.get(path)
        if what == "file":
            proven = self.inodes[before].proven if before is not None else None
            first = since if proven is None else min(since, proven)
            # A larger file that took its place shows as growth until an open compares the two.
            numbers = {self.number(moment, path) for moment in range(first, len(self.moments))}
            if before is not None and len(numbers) == 1 and path not in self.lost:
                assert number == before, f"a file that only grew was inode {before}, and is {number}"
            # Of what was never open nothing was given: an answer's length counts before it, under the number (4.1).
            assert size >= inode.size or not inode.opened, f"inode {number} shrank from {inode.size} to {size} bytes"
        if before != number:
            self._retire(path)
            was = self.retired.get(path, {}).pop(number, size)
            sizes = {files[path].size for files in self.moments[since:] if path in files}
            # The file itself may have come back, and have grown since, before this look.
            assert size == was or (was in sizes and size > was), (
                f"inode {number} was of {was} bytes, then of another file, and is of {size} bytes"
            )
        inode.size = size
        self.last[path] = number
        self.lost.discard(path)

    def opened(self, path: str, size: int, number: int) -> Handle:
        """Return a handle for a file that `looked_up` and `identified` have checked."""
        inode = self.inodes[number]
        inode.handles += 1
        inode.opened, inode.proven = True, self.seen[path]
        return Handle(path, inode, size, self.seen[path])

    def closed(self, handle: Handle) -> None:
        handle.inode.handles -= 1
        if not handle.inode.handles:
            handle.inode.read.clear()

    def read(self, handle: Handle, start: int, count: int, answer: bytes | str) -> None:
        """Check a read of `count` bytes: what it brought, or the name of its error."""
        self._learn(handle.path)
        inode = handle.inode
        since = {self.number(moment, handle.path) for moment in range(handle.since, len(self.moments))}
        came = {it for it in since if it is not None}
        # The versions that it may be of: one that had this size at any time, or one that came since.
        ever = {it.number: it for it in self.ever(handle.path)}
        alike = {it.number for it in self.ever(handle.path) if it.size == handle.size}
        if isinstance(answer, bytes):
            inode.read.append((start, answer))
            end = start + len(answer)
            fits = [it for it in alike | came if all(ever[it].read(at, len(of)) == of for at, of in inode.read)]
            assert fits, f"{len(answer)} bytes, {answer[:16]!r}…: with what was read before, of none of {ever}"
            if len(answer) < count:
                assert end >= inode.size, f"a read ended at {end}, though {inode.size} bytes were shown"
                assert not answer or end in {it.size for it in self.ever(handle.path)}, f"a read ended at {end}"
            inode.size = max(inode.size, end if answer else 0)
            return
        permitted = self.failures() | ({"ETIMEDOUT"} if self.stalled else set())
        if len(since | alike) > 1 or self.finished:
            emptied = any(it.size == 0 for it in self.ever(handle.path))
            permitted |= {"ESTALE"} | ({"EIO"} if self.troubles or emptied else set())
        check(answer, permitted)
        directory = steps(handle.path)[-1][0]
        self.at_hand.discard(directory)
        if answer == "ESTALE":
            # The mount has seen that the file is another one: the next look shows that, or something later.
            numbers = [self.number(moment, handle.path) for moment in range(len(self.moments))]
            other = (it for it in range(handle.since, len(numbers)) if numbers[it] != numbers[handle.since])
            self.shown[directory] = max(self.shown.get(directory, 0), next(other, 0))
            self._lose(directory)


def steps(path: str) -> list[tuple[str, str]]:
    """Return each directory that is looked at on the way to a path, and what is looked for in it, as a path."""
    parts = path.split("/") if path else []
    return [("/".join(parts[:count]), "/".join(parts[: count + 1])) for count in range(len(parts))]
