"""The files of a project index, packed by directory, and unpacked when a directory is listed."""

import sys
from collections.abc import Iterable

import msgspec

from artifactfs import errors
from artifactfs.domain import NAME_MAX_BYTES, IndexedFile, ListedChild, encode_name, without_lead
from artifactfs.tree.listing import SLICE, Rows, checkpoint_if_full, chunked

# A path's length: PATH_MAX.
_MAX_PATH = 4096
# No names of files.
_NO_NAMES = ("", ".", "..")
# Bytes of a directory's record without its path, about.
_DIRECTORY_BYTES = 200
# Files' rows that are unpacked within one turn of the event loop: about SLICE of them.
_TURN_BYTES = 50 * SLICE


# What most directories have: no directories. Never changed.
_NONE: list[bytes] = []


class _Packed(msgspec.Struct, gc=False):
    """A directory: its files as NUL-ended name, size and time, one after the other, and its directories' names.

    `files`: bytes once it was listed.
    """

    files: bytearray | bytes
    directories: list[bytes] = msgspec.field(default_factory=lambda: _NONE)


class PackedIndex:
    """The files of a project by directory, in about 60 bytes each, and `max_bytes` at most."""

    def __init__(self, max_bytes: int = 128 << 20) -> None:
        self._max_bytes = max_bytes
        self._directories: dict[str, _Packed] = {}
        # Directories with a file that has no time.
        self._without_times: set[str] = set()
        self.size_bytes = 0
        self.count = 0

    def add(self, rows: Iterable[IndexedFile]) -> None:
        """Take rows in. What no tree can hold is left out (docs/semantics.md 1.3). Raises AnswerTooLarge."""
        here: str | None = None
        place = ""
        directory: _Packed | None = None
        fields: list[str] = []
        for row in rows:
            path = row.path
            above, _, last = path.rpartition("/")
            # A row that ends in a slash is a marker of a directory, and says nothing of a file.
            if last in _NO_NAMES or len(path) > _MAX_PATH or "\0" in last:
                continue
            if (len(last) > NAME_MAX_BYTES or not last.isascii()) and encode_name(last) is None:
                continue
            if above != here:
                self._append(directory, fields)
                # A `/` or `./` in front of the path is in front of what is above the name.
                here, place = above, without_lead(f"{above}/").removesuffix("/")
                fields, directory = [], self._make(place)
            if directory is None:
                continue
            size, created_ns = row.size_bytes, row.created_ns
            if created_ns is None:
                self._without_times.add(place)
            fields.append(f"{last}\0{'' if size is None else size}\0{'' if created_ns is None else created_ns}\0")
        self._append(directory, fields)
        if self.size_bytes > self._max_bytes:
            raise errors.AnswerTooLarge(f"a project's listing with more than {self.count:,} files")

    def __contains__(self, path: str) -> bool:
        return path in self._directories

    def rows(self, path: str) -> Rows | None:
        """Return a directory's rows; None for a directory that the index lacks, or of which they are no turn's work."""
        packed = self._directories.get(path)
        if packed is None or len(packed.files) > _TURN_BYTES or len(packed.directories) > SLICE:
            return None
        if isinstance(packed.files, bytearray):
            packed.files = bytes(packed.files)  # listings share it
        return Rows(packed.directories, packed.files)

    async def directory(self, path: str) -> dict[bytes, ListedChild] | None:
        """Return the children of a directory, given from the project's root; None if the index has no such one."""
        packed = self._directories.get(path)
        if packed is None:
            return None
        # A name that is both is a directory; of duplicates the first counts (docs/semantics.md 1.5).
        children: dict[bytes, ListedChild] = {}
        for names in chunked(packed.directories):
            children |= {name: ListedChild(name, True) for name in names}
            await checkpoint_if_full(names)
        # What follows the last NUL is nothing.
        fields = iter(bytes(packed.files).split(b"\0")[:-1])
        for rows in chunked(zip(fields, fields, fields, strict=True)):
            for name, size, created in rows:
                if name not in children:
                    children[name] = ListedChild(
                        name, False, int(size) if size else None, int(created) if created else None
                    )
            await checkpoint_if_full(rows)
        return children

    async def below(self, path: str) -> list[str]:
        """Return every directory below one, given from the project's root, that one itself not included."""
        found: list[str] = []
        level = [path]
        while level:
            deeper = []
            for part in chunked(level):
                for here in part:
                    packed = self._directories.get(here)
                    base = f"{here}/" if here else ""
                    deeper += [base + name.decode() for name in (packed.directories if packed is not None else ())]
                await checkpoint_if_full(part)
            found += deeper
            level = deeper
        return found

    async def lacks_times(self, path: str) -> bool:
        """Whether a file in a directory or below it has no time."""
        below = f"{path}/" if path else ""
        for part in chunked(list(self._without_times)):
            if any(each == path or each.startswith(below) for each in part):
                return True
            await checkpoint_if_full(part)
        return False

    def _append(self, directory: _Packed | None, fields: list[str]) -> None:
        """Add files to a directory: of each a text with its fields."""
        if directory is not None and fields:
            packed = "".join(fields).encode()
            directory.files += packed
            self.size_bytes += len(packed)
            self.count += len(fields)

    def _make(self, path: str) -> _Packed | None:
        """Return a directory's record, made with all above it; None for a path that no tree can hold."""
        if (found := self._directories.get(path)) is not None:
            return found
        names = [encode_name(part) for part in path.split("/")] if path else []
        if None in names:
            return None
        made = self._put(path)
        while path:
            path, _, last = path.rpartition("/")
            above = self._directories.get(path)
            record = above or self._put(path)
            if record.directories is _NONE:
                record.directories = []
            record.directories.append(last.encode())
            if above is not None:
                break
        return made

    def _put(self, path: str) -> _Packed:
        self.size_bytes += _DIRECTORY_BYTES + sys.getsizeof(path)
        made = self._directories[path] = _Packed(bytearray())
        return made
