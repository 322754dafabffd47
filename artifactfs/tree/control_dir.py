"""`/.artifactfs`: what a mount has to say of itself, and where it takes orders; never listed, found by name.

    /.artifactfs/status.json, metrics, errors    reports: listed in there
    /.artifactfs/info/<inode number>             what is known of a place of this mount; not listed
    /.artifactfs/refresh/<inode number>          the same, and the next look at it is fresh: opening it does that

Owns the names. What is in the files comes from elsewhere; nothing here asks the service.

Why files and no socket: the kernel says who comes, nothing is left behind by a mount that was killed, it works through
namespaces, and a place is named by its inode, whatever links led there.
"""

import re
from collections.abc import Iterable

from artifactfs import errors
from artifactfs.tree.inode_numbers import ROOT_NUMBER, InodeNumbers
from artifactfs.tree.nodes import ControlDir, ControlFile, DirSnapshot, Entry, LookupResult

NAME = b".artifactfs"
# Names of ours never go away while the mount is there.
_FIXED_VALID_S = 3600.0


class Reports:
    """The names in /.artifactfs. `whats`: the reports; `commands`: the directories that take an inode number."""

    def __init__(self, numbering: InodeNumbers, mounted_ns: int, whats: Iterable[str], commands: Iterable[str]) -> None:
        self._numbering = numbering
        self._mounted_ns = mounted_ns
        self.top = ControlDir(self._entry(NAME, is_dir=True), ROOT_NUMBER)
        self._whats = {what.encode(): self._report(what) for what in whats}
        self._orders = {
            name: ControlDir(self._entry(name, is_dir=True), self.top.entry.number)
            for name in map(str.encode, commands)
        }

    def lookup(self, parent: ControlDir, name: bytes) -> LookupResult:
        """Return what is called so in /.artifactfs, or below. Raises NoSuchEntry."""
        if parent.entry.number == self.top.entry.number:
            found = self._whats.get(name) or self._orders.get(name)
            if found is not None:
                return LookupResult(found, _FIXED_VALID_S)
        elif re.fullmatch(rb"[1-9][0-9]{0,18}", name):
            order = parent.entry.name
            entry = self._entry(order + b"/" + name, is_dir=False)
            # Its name is of use once.
            return LookupResult(ControlFile(order.decode(), int(name), entry, parent.entry.number), 0.0)
        raise errors.NoSuchEntry("no such name")

    def contents(self, directory: ControlDir) -> DirSnapshot:
        """Return what is listed: the reports."""
        shown = self._whats if directory.entry.number == self.top.entry.number else {}
        entries = tuple(report.entry for report in shown.values())
        return DirSnapshot(entries, lambda entry: shown[entry.name], lambda: _FIXED_VALID_S)

    def _report(self, what: str) -> ControlFile:
        return ControlFile(what, 0, self._entry(what.encode(), is_dir=False), self.top.entry.number)

    def _entry(self, name: bytes, *, is_dir: bool) -> Entry:
        number = self._numbering.fixed(NAME + b"/" + name)
        return Entry(name.rpartition(b"/")[2], is_dir, number, self._mounted_ns)
