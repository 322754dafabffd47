"""What may be seen of a run over remounts, without the service, and after damage (docs/semantics.md 8).

What `model.py` says holds within a mount, and over remounts what it says of a mount that goes on, but

- a listing that was stored of a finished run is trusted as long as the run's row is what it was when the directory was
  listed, however old it is. A change of the row, or a refresh in any mount before, ends that. Any other one is asked
  for again, and serves in a trouble;
- another account has a store of its own;
- offline each directory is as it was shown last, or as it was asked for since, and a file has the number that it had;
  anything else is ENETDOWN. Which is no answer where a directory was shown, or a file was read to its end;
- a mount that is killed before all is written, and a damaged database, may have lost anything: then older listings,
  which were shown once, count as stored last. All that is wrong with them is their age.

A change of the row is a moment of its own, in which the files stay; so is another name of the project. The page of
`/names` is asked for again by each mount. The project's row is trusted for a minute from its first use.

Weak spots: of a listing that a trouble, or contents, may have removed nothing is known to be stored. Offline a listing
may be of any moment until the end of the mount before, since requests in the background are not seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.reference.model import Handle, Learned, Model, steps
from tests.reference.trust import check, is_error
from tests.reference.versions import Version

OFFLINE = "ENETDOWN"
# Beside the directories of the run: the page of /names, and the project's row, by which its name there is found.
NAMES, PROJECT = "/names", "/projects/<id>"


@dataclass
class Kept:
    """What the mounts of one account know: of directories, the moment that the stored listing is of, at the earliest.

    `oldest`: the same, of any that was ever stored. `held_at`: the moment in which it was last shown without a trouble.
    `stored`: those that are surely stored. `marked`: those that a refresh has marked as stale. `whole`: the files that
    were read to their ends, and in which moment. `until`: the moment in which the last mount ended.
    """

    # The page of /names may be one of the script before.
    lowest: dict[str, int] = field(default_factory=lambda: {NAMES: 0})
    oldest: dict[str, int] = field(default_factory=lambda: {NAMES: 0})
    held_at: dict[str, int] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    marked: set[str] = field(default_factory=set)
    whole: dict[str, int] = field(default_factory=dict)
    until: int = 0
    # What Model knows.
    asked: dict[str, int] = field(default_factory=lambda: {NAMES: 0})
    shown: dict[str, int] = field(default_factory=dict)
    at_hand: set[str] = field(default_factory=set)
    learned: dict[str, set[Learned]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


_OF_MODEL = ("asked", "shown", "at_hand", "learned", "seen", "last", "lost")


class KeptModel(Model):
    """One run, over the mounts of several accounts."""

    def __init__(self) -> None:
        super().__init__(believes=True)
        self.rows = [0]  # in each moment, the number of the run's row
        self.names = [""]  # in each moment, the project's name
        self.finished_row: int | None = None
        self.is_offline = False
        self.is_damaged = False
        self.last_read: bytes | str = b""
        self._accounts: dict[str, Kept] = {}
        self._unread: set[str] = set()  # directories that are stored, and not looked at in this mount
        self._row_asked: int | None = None  # the moment that the row is of that this mount knows, at the earliest
        self._numbered: set[str] = set()  # paths that must have the numbers of the mount before
        self.kept = Kept()
        self._become("")

    # --- what is done --------------------------------------------------------------------------------------

    def change(self, files: dict[str, Version]) -> None:
        super().change(files)
        self.rows.append(self.rows[-1])
        self.names.append(self.names[-1])

    def renamed(self, name: str) -> None:
        """The project has this name from now on."""
        self.change(self.moments[-1])
        self.names[-1] = name

    def row_changed(self) -> None:
        """The run's row is another one from now on."""
        self.change(self.moments[-1])
        self.rows[-1] += 1
        if self.finished and self.finished_row is None:
            self.finished_row = self.rows[-1]

    def refreshed(self, handles: Iterable[Handle]) -> None:
        super().refreshed(handles)
        self.kept.marked.update(self.kept.lowest)
        # The row is asked for again, and may be another one: then what is stored is not used.
        self.at_hand -= self._unread
        self._row_asked = None

    def minute_passed(self) -> None:
        super().minute_passed()
        for listing in (NAMES, PROJECT):
            self.asked.pop(listing, None)
        if not self.finished:
            self._row_asked = None

    def hour_passed(self) -> None:
        super().hour_passed()
        for kept in self._accounts.values():
            kept.at_hand.clear()
            kept.lost.update(kept.last)
        self._row_asked = None

    def unmounted(self, *, exact: bool) -> None:
        """The mount has ended. `exact`: all that was seen is written."""
        kept = self.kept
        self.troubles.discard("slow")
        if not self.is_offline:
            kept.until = len(self.moments) - 1
        if exact and not self.is_damaged:
            kept.lowest = {path: max(low, self.shown.get(path, 0)) for path, low in kept.lowest.items()}
        else:
            self._may_have_lost()

    def damaged(self) -> None:
        """The database has become another one: for all accounts, and until the end of the script."""
        self.is_damaged = True
        now = self.kept
        for account in self._accounts:
            self._become(account)
            self.kept.lowest = dict(self.kept.oldest)
            self._may_have_lost()
        self._become(next(account for account, kept in self._accounts.items() if kept is now))

    def vanished(self) -> None:
        """A mount learned that the run is gone, and has ended. The run is back."""
        kept = self.kept
        for known in (kept.lowest, kept.oldest):
            for path in set(known) - {NAMES, PROJECT}:
                del known[path]
        self._may_have_lost()

    def mounted(self, account: str, *, is_offline: bool) -> None:
        """There is another mount."""
        self._become(account)
        kept, now = self.kept, len(self.moments) - 1
        self.is_offline = is_offline
        self._row_asked = None
        self._unread = set(kept.lowest)
        self.asked.clear()
        if not is_offline:
            # Where the row is another one by now, what is stored is removed.
            other = {path for path, low in kept.lowest.items() if self.rows[low] != self.rows[now]}
            self.at_hand -= other
            kept.stored -= other
        for inode in self.inodes.values():
            inode.handles, inode.opened = 0, False
            inode.read.clear()
        self.retired.clear()
        self._numbered = {path for path in self.last if self._is_kept(steps(path)[-1][0])} - self.lost
        self.lost |= self.last.keys() - self._numbered

    def refused(self) -> None:
        """Check that a mount may say that nothing is stored."""
        self._become("")
        stored = [path for path in self.kept.stored if self._is_stored(path)]
        assert not stored, f"{stored} are stored"

    def _become(self, account: str) -> None:
        """Know what an account's mounts know."""
        for name in _OF_MODEL:
            setattr(self.kept, name, getattr(self, name))
        self.kept = kept = self._accounts.setdefault(account, Kept())
        for name in _OF_MODEL:
            setattr(self, name, getattr(kept, name))

    def _may_have_lost(self) -> None:
        """Anything may be stored no more, and what was stored before it instead."""
        kept = self.kept
        kept.stored.clear()
        kept.marked.clear()
        kept.whole.clear()
        self.at_hand.clear()
        for path in list(self.shown):
            self.shown[path] = min(self.shown[path], kept.lowest.get(path, 0))
        for path in list(self.seen):
            self.seen[path] = min(self.seen[path], kept.lowest.get(steps(path)[-1][0], 0))

    # --- what is seen --------------------------------------------------------------------------------------

    def may_show(self, directory: str) -> range:
        kept, now = self.kept, len(self.moments) - 1
        if self.is_offline:
            if directory not in kept.lowest:
                return range(0)
            return range(max(kept.lowest[directory], self.shown.get(directory, 0)), kept.until + 1)
        if self._row_asked is None:
            self._row_asked = now
        if directory in self._unread:
            self._unread.discard(directory)
            self.asked[directory] = self._recalled(directory)
        found = super().may_show(directory)
        kept.lowest.setdefault(directory, found.start)
        kept.oldest.setdefault(directory, found.start)
        kept.oldest[directory] = min(kept.oldest[directory], found.start)
        if not self.troubles:
            kept.marked.discard(directory)
        return found

    def _recalled(self, directory: str) -> int:
        """Return the earliest moment that a stored listing is of which counts as fresh; the present one without it."""
        kept, now = self.kept, len(self.moments) - 1
        if directory == PROJECT:
            return now if directory in kept.marked else kept.lowest[directory]
        if self.finished_row is None or directory in kept.marked or directory == NAMES:
            return now
        assert self._row_asked is not None
        known = {row for row in self.rows[self._row_asked :] if row >= self.finished_row}
        low = kept.lowest[directory]
        return next((it for it in range(low, kept.until + 1) if self.rows[it] in known), now)

    def _is_stored(self, directory: str) -> bool:
        """Whether a directory's listing is surely stored, and it was a directory all the time since it was shown."""
        held_at, end = self.kept.held_at.get(directory), self.kept.until if self.is_offline else len(self.moments) - 1
        if directory not in self.kept.stored or held_at is None or self.is_damaged:
            return False
        if directory in (NAMES, PROJECT):
            return True
        return all(self.entry(it, directory) == "directory" for it in range(held_at, end + 1))

    def _is_kept(self, directory: str) -> bool:
        """Whether a directory is surely shown as it is stored. Another one has numbers of its files' sizes."""
        if not self._is_stored(directory):
            return False
        settled = self.finished_row is not None and self.rows[self.kept.lowest[directory]] >= self.finished_row
        return self.is_offline or (settled and directory not in self.kept.marked)

    def errors(self, *directories: str) -> set[str]:
        if self.is_offline:
            return set() if all(map(self._is_stored, directories)) else {OFFLINE}
        self.at_hand -= {it for it in self.at_hand if not self._is_stored(it)}
        return super().errors(*directories)

    def entered(self, answer: str) -> None:
        """Check a look at the run."""
        if not self.is_offline and self._row_asked is None:
            self._row_asked = len(self.moments) - 1
        check(answer, {"directory"} | ({OFFLINE} if self.is_offline and not self._is_stored("") else self._troubled()))

    def _troubled(self) -> set[str]:
        return set() if self.is_offline else Model.errors(self, "the run")

    def named(self, answer: str) -> None:
        """Check what the project is called in /names."""
        may_be = self.may_show(NAMES)
        self._told(NAMES, answer, {it: self.names[it] for it in may_be})
        if not is_error(answer):
            # The page has the project's row.
            for known in (self.asked, self.kept.lowest, self.kept.oldest):
                known[PROJECT] = min(known.get(PROJECT, may_be.start), may_be.start)

    def found_by_name(self, name: str, answer: str) -> None:
        """Check a look at a name of the project in /names."""
        found = {it: "directory" if self.names[it] == name else "ENOENT" for it in self.may_show(PROJECT)}
        self._told(PROJECT, answer, found)

    def _told(self, listing: str, answer: str, found: dict[int, str]) -> None:
        """Check an answer that is one of those found in moments."""
        check(answer, set(found.values()) | self.errors(listing))
        if answer in found.values():
            self.shown[listing] = next(it for it, each in found.items() if each == answer)
            self._shown(listing)
            if not self.troubles:
                self.at_hand.add(listing)

    def listed(self, path: str, answer: str) -> None:
        super().listed(path, answer)
        if not is_error(answer):
            self._shown(*(directory for directory, _ in steps(path)), path)

    def looked_up(self, path: str, answer: str, *, opened: bool = False) -> None:
        above = [directory for directory, _ in steps(path)]
        if self.is_offline and opened and answer == OFFLINE:
            # The directories above it, or it, were not listed, or it was not read.
            found = self.found(path)
            may_fail = self.errors(*above, path) if "directory" in found else self.errors(*above)
            if any(it.startswith("file") for it in found) and not self._is_whole(path):
                may_fail = {OFFLINE}
            check(answer, may_fail)
            return
        super().looked_up(path, answer, opened=opened)
        if not is_error(answer):
            self._shown(*above)
        elif opened:
            self.kept.stored.discard(above[-1])

    def _shown(self, *directories: str) -> None:
        if not self.troubles and not self.is_offline:
            self.kept.stored.update(directories)
            self.kept.held_at.update(dict.fromkeys(directories, len(self.moments) - 1))

    def _learn(self, path: str) -> None:
        if not self.is_offline:
            super()._learn(path)

    def identified(self, path: str, answer: str, size: int, number: int, since: int) -> None:
        before = self.last.get(path)
        if answer == "directory" and before is not None and self.inodes[before].what == "directory":
            assert number == before, f"a directory was inode {before}, and is {number}"
        if path in self._numbered:
            self._numbered.discard(path)
            end = self.kept.until if self.is_offline else len(self.moments) - 1
            if any(self.moments[it].get(path) != self.moments[since].get(path) for it in range(since, end + 1)):
                self.lost.add(path)
        super().identified(path, answer, size, number, since)

    def read(self, handle: Handle, start: int, count: int, answer: bytes | str) -> None:
        self.last_read = answer
        if self.is_offline and answer == OFFLINE:
            assert not self._is_whole(handle.path), f"{handle.path} was read to its end, and is not kept"
            return
        super().read(handle, start, count, answer)
        if isinstance(answer, str):
            self.kept.stored.discard(steps(handle.path)[-1][0])

    def read_to_end(self, path: str) -> None:
        """A file was read from its start to its end, just now."""
        if not self.troubles and not self.is_offline and self.last_read == b"":
            self.kept.whole[path] = len(self.moments) - 1

    def not_stored(self) -> None:
        """Check that a mount may say that it cannot store what it lists: it has found the database damaged."""
        assert self.is_damaged, "what was listed could not be stored"

    def pinned(self) -> None:
        """All of the run was listed and read: of a finished one it stays here."""
        now = len(self.moments) - 1
        directories = {""} | {each for path in self.moments[now] for each, _ in steps(path)}
        for directory in directories:
            self.may_show(directory)
        self._shown(*directories)
        for path in self.moments[now]:
            self._learn(path)
            if path in self.last:
                self.inodes[self.last[path]].opened = True
            if self.finished:
                self.kept.whole[path] = now

    def _is_whole(self, path: str) -> bool:
        """Whether all of a file is surely kept: it, and the run's row, are what they were when it was read."""
        since = self.kept.whole.get(path)
        if since is None or self.is_damaged:
            return False
        return all(
            (self.moments[it].get(path), self.rows[it]) == (self.moments[since].get(path), self.rows[since])
            for it in range(min(since, self.seen.get(path, 0)), self.kept.until + 1)
        )
