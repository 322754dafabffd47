"""`/.artifactfs`: the reports and commands of a mount. A lookup finds it; no listing shows it.

    /.artifactfs/status.json, metrics, errors    reports: listed in there
    /.artifactfs/info/<inode number>             the facts about a place of this mount; not listed
    /.artifactfs/refresh/<inode number>          opening it makes the place stale, so that its next lookup is fresh
    /.artifactfs/pin/<inode number>              the same form for what is pinned: pin, unpin, pins, kept, keep

Owns the names. The contents of the files come from elsewhere (control/commands.py); nothing here sends a request.

Why files and no socket: the kernel names the user of a request, a killed mount leaves nothing behind, files work
through namespaces, and an inode number names a place, whatever links led there.
"""

import re
from collections.abc import Iterable

from artifactfs import errors
from artifactfs.tree import inode_numbers
from artifactfs.tree.inode_numbers import ROOT_NUMBER
from artifactfs.tree.nodes import ControlDir, ControlFile, DirSnapshot, Entry, LookupResult

NAME = b".artifactfs"
# The entry timeout of our own names, which stay for the life of the mount.
_FIXED_VALID_S = 3600.0


class ControlNames:
    """The names in /.artifactfs: files for `reports`, and for each of `commands` a directory of inode numbers."""

    def __init__(self, site: bytes, mounted_ns: int, reports: Iterable[str], commands: Iterable[str]) -> None:
        self._site = site
        self._mounted_ns = mounted_ns
        self.top = ControlDir(self._entry(NAME, is_dir=True), ROOT_NUMBER)
        top = self.top.entry.number
        self._reports = {
            name.encode(): ControlFile(name, 0, self._entry(name.encode(), is_dir=False), top) for name in reports
        }
        self._commands = {name.encode(): ControlDir(self._entry(name.encode(), is_dir=True), top) for name in commands}

    def lookup(self, parent: ControlDir, name: bytes) -> LookupResult:
        """Return the node of a name in /.artifactfs or below. Raises NoSuchEntry."""
        if parent.entry.number == self.top.entry.number:
            found = self._reports.get(name) or self._commands.get(name)
            if found is not None:
                return LookupResult(found, _FIXED_VALID_S)
        elif re.fullmatch(rb"[1-9][0-9]{0,18}", name):
            command = parent.entry.name
            entry = self._entry(command + b"/" + name, is_dir=False)
            # Each open gives the command once, so the kernel caches no dentry.
            return LookupResult(ControlFile(command.decode(), int(name), entry, parent.entry.number), 0.0)
        raise errors.NoSuchEntry("no such name")

    def contents(self, directory: ControlDir) -> DirSnapshot:
        """Return the listing: the reports."""
        shown = self._reports if directory.entry.number == self.top.entry.number else {}
        entries = tuple(report.entry for report in shown.values())
        return DirSnapshot(entries, lambda entry: shown[entry.name], lambda: _FIXED_VALID_S)

    def _entry(self, name: bytes, *, is_dir: bool) -> Entry:
        number = inode_numbers.fixed(self._site, NAME + b"/" + name)
        return Entry(name.rpartition(b"/")[2], is_dir, number, self._mounted_ns)
