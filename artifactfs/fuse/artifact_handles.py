"""The open artifact files: opening, reading, growing, and what an answer that is of no use says of the file.

Owns the one place where the tree and the contents meet: the tree says which version a file has, the contents show
whether that is so, and what they show is recorded in the tree (docs/semantics.md 2.2, 2.4, 4.1).
"""

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import cast

import cachetools
import msgspec
import trio
from pyfuse3 import FUSEError

from artifactfs import errors
from artifactfs.content.open_files import OpenFileTable
from artifactfs.content.reader import CHECKED_BYTES, OpenFile
from artifactfs.fuse.error_boundary import shown
from artifactfs.fuse.inodes import Inode, InodeTable
from artifactfs.fuse.shown_sizes import ShownSizes
from artifactfs.tree.nodes import (
    ArtifactDir,
    ArtifactFile,
    Entry,
    LookupResult,
    Node,
    mount_path,
    same_version,
)
from artifactfs.tree.swr_cache import REQUESTED_WAIT_S
from artifactfs.tree.tree import Tree

log = logging.getLogger(__name__)

# Answers of the content endpoint that may mean that there is no such artifact, or a body that is too short: a fresh
# listing of the directory decides (docs/dev/model-lab-api.md, "Status to errno").
_POSSIBLY_DELETED = (errors.NotFound, errors.BadRequest, errors.ServerFailed, errors.ShortBody)
# The pause after a proof that failed. Arbitrary.
_PROOF_PAUSE_S = 1.0
# Files that are polled and of which no listing gives the size. Arbitrary.
_MAX_LOOKED_AT = 10_000
# Files that were opened last, of which contents are most likely cached. Arbitrary.
_MAX_OPENED = 20_000
# The time for that listing, at least, whatever is left of the deadline.
_DIAGNOSE_S = 1.0


class FileHandle(msgspec.Struct):
    """An open file. `tid`: the thread that opened it, and mostly reads it: of a read the binding does not say that."""

    inode: Inode
    file: ArtifactFile
    opened: OpenFile
    tid: int


class ArtifactHandles:
    """See the module. `deadline_s`: of one call. Every method raises Superseded, ServiceError or FUSEError."""

    def __init__(self, tree: Tree, files: OpenFileTable, *, deadline_s: float) -> None:
        self._tree = tree
        self._files = files
        self._deadline_s = deadline_s
        # The open handles by inode number; and the inodes of which it will soon be known whether they have grown.
        self._open: dict[int, list[FileHandle]] = {}
        self.proving: dict[int, trio.Event] = {}
        # The inodes of the files that were opened last, by the numbers of their entries.
        self._opened: cachetools.LRUCache[int, Inode] = cachetools.LRUCache(_MAX_OPENED)
        self._failed: cachetools.TTLCache[int, None] = cachetools.TTLCache(1_000, _PROOF_PAUSE_S, trio.current_time)
        self._looked_at: cachetools.TTLCache[int, None] = cachetools.TTLCache(
            _MAX_LOOKED_AT, tree.live_ttl_s, trio.current_time
        )
        # Called with the parent's inode number and the name of a file that has another version.
        self.on_superseded: Callable[[int, bytes], None] = lambda _parent, _name: None
        self.sizes = ShownSizes(tree, files, self._open)

    async def open(self, inode: Inode, file: ArtifactFile, tid: int, *, stream: bool) -> FileHandle:
        """Open a file in the version that the listing shows. `stream`: see OpenFileTable.open."""
        if any(handle.opened.dead for handle in self._open.get(inode.number, ())):
            # A fetch has seen that, and no read yet. Pages of both versions must not mix.
            self._supersede(inode, file, errors.Superseded("the open version of this file is gone"))
        if inode.superseded:
            raise errors.Superseded("another version of this file is there by now")
        self._tree.ensure_current(file)
        began, shown_bytes = trio.current_time(), inode.entry.size_bytes or 0
        try:
            opened = await self._files.open(await self._tree.locate_content(file), stream=stream)
        except errors.Superseded as error:
            # The kernel looks the name up again, and must get another inode: it holds pages of this one.
            self._supersede(inode, file, error)
            raise
        except _POSSIBLY_DELETED as error:
            raise await self._diagnose(inode, file, error, began, gone=errno.ENOENT) from error
        # The kernel has that of before, which another opening may have corrected, or that of a lookup meanwhile.
        shown_bytes = max(shown_bytes, inode.entry.size_bytes or 0)
        if opened.size is not None and opened.size < shown_bytes:
            # The listing runs ahead of the contents. The kernel looks the name up again, and so learns their size.
            self.sizes.note(inode, opened)
            opened.close()
            raise errors.Superseded("the contents are shorter than listed")
        self._opened[inode.entry.number] = inode
        handle = FileHandle(inode, file, opened, tid)
        self._open.setdefault(inode.number, []).append(handle)
        self.sizes.note(inode, opened)
        try:
            # A program must not read to the end that the listing has, in the middle of the file.
            await self.sizes.wait(inode)
        except BaseException:
            self.close(handle)
            raise
        if handle.inode.superseded:
            # A proof that began before this opening has shown that. The kernel has the size of what is gone.
            self.close(handle)
            raise errors.Superseded("another version of this file was found meanwhile")
        return handle

    def close(self, handle: FileHandle) -> None:
        """Close a file."""
        if handle.opened.dead:
            # No read may have seen that, and the kernel has pages of it.
            self._supersede(handle.inode, handle.inode.node, errors.Superseded("the open version of this file is gone"))
        handle.opened.close()
        handles = self._open[handle.inode.number]
        handles.remove(handle)
        if not handles:
            del self._open[handle.inode.number]

    def supersede_dropped(self) -> int:
        """Supersede the inodes of open files that can no longer be read, since their contents were dropped (3.6).

        A new opening gets another inode: pages of both must not mix. Returns the number of these inodes.
        """
        ended = [handles[0].inode for handles in self._open.values() if any(handle.opened.dead for handle in handles)]
        current = [inode for inode in ended if not inode.superseded]
        for inode in current:
            self._supersede(inode, inode.node, errors.Superseded("its contents were dropped"))
        return len(current)

    # --- growing -------------------------------------------------------------------------------------------

    def holds_back(self, inode: Inode, entry: Entry) -> bool:
        """Whether the kernel must not see the larger `entry` of an inode yet, since the file is open.

        The kernel would drop its pages and read on, and a program would get ESTALE where the file was replaced. The
        proof begins here; it shows the entry, or makes the inode superseded.
        """
        if inode.number not in self._open:
            return False
        self._start_proof(inode, entry)
        return True

    def asks_contents(self, entry: Entry, listed_bytes: int) -> bool:
        """Whether the contents of a file that a listing gives less than it is shown with were read; asks them then.

        The listing may lag behind, or the contents may: a program that read the file must not get the same bytes again
        under another number. So the file stays as it is shown until its contents say otherwise.
        """
        inode = self._opened.get(entry.number)
        if inode is None or inode.superseded or not inode.lookups:
            return False
        if (opened := self._opened_of(inode)) is not None and opened.is_untouched:
            # It was empty when it was opened, so no program has bytes of it.
            return False
        self._start_proof(inode, msgspec.structs.replace(inode.entry, size_bytes=listed_bytes))
        return True

    def _start_proof(self, inode: Inode, entry: Entry) -> None:
        if inode.number not in self.proving and inode.number not in self._failed:
            self.proving[inode.number] = trio.Event()
            self._files.start_soon(partial(self._prove, inode, entry))

    def listed(self, run_id: int, path: str, inodes: InodeTable) -> None:
        """Begin to prove the growth that a new listing of a directory shows of its open files.

        The kernel drops the names of those of which it shows another version.
        """
        for handles in list(self._open.values()):
            inode = handles[0].inode
            directory = inode.directory
            if directory is None or (directory.run_id, directory.path) != (run_id, path):
                continue
            try:
                self._tree.ensure_current(cast(ArtifactFile, inode.node))
            except errors.Superseded:
                self.on_superseded(directory.entry.number, inode.entry.name)
            inodes.update(inode, self._tree.current(directory, inode.entry))

    def polled(self, inode: Inode) -> None:
        """Begin to look whether a file has grown that a program polls, where no listing tells its size."""
        number, entry = inode.number, inode.entry
        if entry.is_size_listed or entry.size_bytes is None or inode.superseded or number in self.proving:
            return
        if number not in self._looked_at:
            self._looked_at[number] = None
            self._start_proof(inode, entry)

    async def refresh(self, is_meant: Callable[[tuple[int, str]], bool], inodes: InodeTable) -> set[int]:
        """Let the open files in directories, by run id and path, show what the service has now (3.3).

        Waits at most as long as a requested refresh. Returns the inodes.
        """

        def is_in(inode: Inode) -> bool:
            return inode.directory is not None and is_meant((inode.directory.run_id, inode.directory.path))

        # Of what is closed the next listing counts, whatever was read.
        for number, inode in list(self._opened.items()):
            if inode.number not in self._open and is_in(inode):
                del self._opened[number]
        meant = [handles[0].inode for handles in self._open.values() if is_in(handles[0].inode)]
        with trio.move_on_after(min(REQUESTED_WAIT_S, self._deadline_s / 2)):
            async with trio.open_nursery() as nursery:
                for inode in meant:
                    nursery.start_soon(self._refresh, inode, inodes)
        return {inode.number for inode in meant}

    async def _refresh(self, inode: Inode, inodes: InodeTable) -> None:
        directory, name = cast(ArtifactDir, inode.directory), inode.entry.name
        try:
            await self._tree.lookup(directory, name)
        except errors.ArtifactfsError as error:
            log.info("whether %s has grown is not known: %s", shown(mount_path(inode.node)), error)
            return
        await self._proven(inode)
        self._failed.pop(inode.number, None)
        self._looked_at.pop(inode.number, None)
        inodes.update(inode, self._tree.current(directory, inode.entry))
        self.polled(inode)
        await self._proven(inode)

    async def _proven(self, inode: Inode) -> None:
        if (proof := self.proving.get(inode.number)) is not None:
            await proof.wait()

    async def _prove(self, inode: Inode, entry: Entry) -> None:
        file = ArtifactFile(cast(ArtifactDir, inode.directory), entry)
        looked_at: OpenFile | None = None
        try:
            if (entry.size_bytes or 0) < (inode.entry.size_bytes or 0):
                await self._compare(inode, entry.size_bytes or 0)
                return
            version = await self._tree.locate_content(file)
            # A program that opens the file for each look may have closed it again: then the next `open` proves it.
            opened = self._opened_of(inode)
            if opened is None and not version.is_listed:
                opened = looked_at = await self._files.open(version, stream=True)
            if opened is not None:
                await opened.grow(version, 0.0)
            await self.sizes.show(inode, entry, opened)
        except errors.Superseded as error:
            self._supersede(inode, file, error)
        except errors.ArtifactfsError as error:
            self._failed[inode.number] = None
            log.info("whether %s has grown is not known: %s", shown(mount_path(file)), error)
        except Exception:
            self._failed[inode.number] = None
            log.exception("proving growth failed: %s", errors.unexpected())
        finally:
            self.proving.pop(inode.number).set()
            if looked_at is not None:
                looked_at.close()

    def _opened_of(self, inode: Inode) -> OpenFile | None:
        return handles[0].opened if (handles := self._open.get(inode.number)) else None

    async def _compare(self, inode: Inode, listed_bytes: int) -> None:
        """See whether the contents of a file, which a listing gives less, are still those that are shown, or more."""
        version = await self._tree.locate_content(cast(ArtifactFile, inode.node))
        opened = self._opened_of(inode)
        comparing = opened or await self._files.open(version)
        try:
            await comparing.grow(version, doubted_bytes=listed_bytes)
            await self.sizes.show(inode, inode.entry, comparing)
        finally:
            if comparing is not opened:
                comparing.close()

    # --- reading -------------------------------------------------------------------------------------------

    async def with_size(self, found: LookupResult) -> LookupResult:
        """Return a file that was looked up with its size: one answer tells it, or the end of a body that is not long.

        Programs that go by `stat` alone (tarfile, rclone) would store the file as empty otherwise.
        """
        file = found.node
        if not isinstance(file, ArtifactFile):
            return found
        size: int | None = None
        valid_s = found.valid_s
        try:
            opened = await self._files.open(await self._tree.locate_content(file), stream=True)
            try:
                if opened.size is None:
                    await opened.read_to_end(CHECKED_BYTES)
                size = opened.size
            finally:
                opened.close()
        except errors.ServiceError as error:
            log.info("the size of %s is not known: %s", shown(mount_path(file)), error)
            # The kernel must ask again where the next answer may tell the size; a body that is too large stays so.
            if not isinstance(error, errors.BodyTooLarge):
                valid_s = 0.0
        if size is not None:
            file = self._tree.record_size(file, size)
        return LookupResult(file, valid_s, found.attributes_s)

    async def read(self, handle: FileHandle, offset: int, size: int) -> bytes | memoryview:
        """Return `size` bytes from `offset`, less only at the end of the file, which may have grown since `open`."""
        inode, file, opened = handle.inode, handle.file, handle.opened
        began = trio.current_time()
        try:
            while True:
                if opened.size != inode.entry.size_bytes:
                    await self._grow(inode, opened, offset + size)
                size_before = inode.entry.size_bytes
                found = await opened.read(offset, size)
                await self.sizes.before_answer(inode, opened)
                # Where a program was shown a larger size meanwhile, the kernel would fill a short answer with zeros.
                if len(found) == size or inode.entry.size_bytes == size_before:
                    return found
        except errors.Superseded as error:
            if not inode.superseded:
                log.warning("%s changed while it was read: %s", shown(mount_path(file)), error)
                self._supersede(inode, inode.node, error)
            raise
        except _POSSIBLY_DELETED as error:
            raise await self._diagnose(inode, file, error, began, gone=errno.ESTALE) from error

    async def _grow(self, inode: Inode, opened: OpenFile, end: int) -> None:
        """Let an open file grow to its listed size, for a read up to `end`; records the size that it comes to."""
        size, file = opened.size, inode.node
        if size is not None and isinstance(file, ArtifactFile) and size < (file.entry.size_bytes or 0):
            if end <= size:
                return  # nothing of the larger file is read, so nothing is known of its size
            await opened.grow(await self._tree.locate_content(file))
        self.sizes.note(inode, opened)

    def _supersede(self, inode: Inode, file: Node, error: errors.Superseded) -> None:
        """Make an inode superseded: the contents of `file`, as it is listed, are of another version."""
        if not inode.superseded and isinstance(file, ArtifactFile):
            inode.superseded = True
            # Where the listing has another version by now, an old handle's end does not contradict it.
            if file.entry.number == inode.entry.number:
                self._tree.record_size_conflict(file, error.size_bytes)
            self.on_superseded(file.directory.entry.number, file.entry.name)

    async def _diagnose(
        self, inode: Inode, file: ArtifactFile, error: errors.ServiceError, began: float, *, gone: int
    ) -> FUSEError:
        """Return the error for contents that cannot be read: a fresh listing shows whether the file is deleted.

        Takes at most the deadline of the call that `began` then (of trio's clock).
        """
        log.warning("content of %s: %s", shown(mount_path(file)), error)
        self._tree.mark_suspect(file.directory)
        try:
            with trio.fail_at(max(began + self._deadline_s, trio.current_time() + _DIAGNOSE_S)):
                found = (await self._tree.lookup(file.directory, file.entry.name)).node
        except errors.NoSuchEntry:
            inode.superseded = True
            return FUSEError(gone)
        except trio.TooSlowError:
            return FUSEError(errno.ETIMEDOUT)
        if not isinstance(found, ArtifactFile):
            inode.superseded = True
            return FUSEError(errno.EISDIR if gone == errno.ENOENT else errno.ESTALE)
        if same_version(file.entry, found.entry):
            # The file is the one that it was, and keeps its inode number: an outage is no replacement.
            return FUSEError(errno.EIO)
        inode.superseded = True
        # Another version by now: the body of one that is empty is too short for this one.
        return FUSEError(errno.ESTALE)
