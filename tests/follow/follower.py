"""python -m tests.follow.follower PATH JOURNAL SCRATCH: five programs that follow one file, every byte compared.

    tail      `tail -F`, from the first line on
    reader    one open file that is read on past its end; opened again once the name leads to another inode, or ESTALE
    rsync     `rsync --append-verify` to a copy, again and again
    cat       `cat`, again and again
    random    one open file, read at random places: all of it must be of one version

A line on standard input, `{"version": …, "size": …}`, says that nothing changes any more, and what is there: all
programs must come to it. Then one line of JSON says what they have seen; `wrong` must be empty. A call that fails is
counted, and done again.
"""

import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.follow.truth import Journal, Stream, Wrong

POLL_S = 0.5
CALL_AGAIN_S = 4.0  # between two calls of a program that reads all of a file
OPEN_S = 10.0  # how long a file is read at random
CATCH_UP_S = 60.0


@dataclass
class Followers:
    """The five programs of one file, a thread each."""

    path: str
    journal: str
    scratch: str
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    read_bytes: Counter[str] = field(default_factory=Counter)
    final: tuple[int, int] | None = None  # version and size, once nothing changes any more
    done: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Follow until the end is known and every program has come to it, or has had its time."""
        programs: list[Callable[[str], None]] = [self.tail, self.reader, self.rsync, self.cat, self.random]
        threads = [threading.Thread(target=self._guarded, args=[each], daemon=True) for each in programs]
        for thread in threads:
            thread.start()
        told = json.loads(sys.stdin.readline())
        self.final = (told["version"], told["size"])
        end = time.monotonic() + CATCH_UP_S
        while len(self.done) < len(programs) and not self.wrong and time.monotonic() < end:
            time.sleep(0.1)
        late = {each.__name__ for each in programs} - self.done
        if late and not self.wrong:
            self.wrong += [f"{name}: did not come to {self.final} in {CATCH_UP_S:g} s" for name in sorted(late)]
        result = {"path": self.path, "wrong": self.wrong, "errors": self.errors, "bytes": self.read_bytes}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()

    def _guarded(self, program: Callable[[str], None]) -> None:
        try:
            program(program.__name__)
        except Wrong as problem:
            self.wrong.append(f"{program.__name__}: {problem}")

    # --- programs ---------------------------------------------------------------------------------

    def tail(self, name: str) -> None:
        out, err = os.path.join(self.scratch, "tail.out"), os.path.join(self.scratch, "tail.err")
        while name not in self.done:
            stream, command = Stream(Journal(self.journal)), ["tail", "-n", "+1", "-F", self.path]
            with (
                open(out, "wb") as written,
                open(err, "wb") as told,
                subprocess.Popen(command, stdout=written, stderr=told) as tail,
                open(out, "rb") as seen,
            ):
                while name not in self.done and tail.poll() is None:
                    stream.feed(seen.read())
                    self._note(name, stream)
                    time.sleep(POLL_S)
                tail.kill()
            if name not in self.done:
                with open(err, encoding="utf-8", errors="replace") as file:
                    last = file.read().strip().rpartition("\n")[2]
                # It ends with the first read that fails.
                if not last.endswith((os.strerror(errno.ESTALE), os.strerror(errno.EIO))):
                    raise Wrong(f"tail ended: {last}")
                self._failed(name, errno.ESTALE if last.endswith(os.strerror(errno.ESTALE)) else errno.EIO)

    def reader(self, name: str) -> None:
        stream, handle = Stream(Journal(self.journal)), -1
        while name not in self.done:
            try:
                if handle < 0:
                    handle = os.open(self.path, os.O_RDONLY)
                if piece := os.read(handle, 1 << 17):
                    stream.feed(piece)
                    continue
                self._note(name, stream)
                time.sleep(POLL_S)
                if os.stat(self.path).st_ino != os.fstat(handle).st_ino:
                    handle = self._closed(handle)
            except OSError as error:
                self._failed(name, error.errno or 0)
                if error.errno == errno.ESTALE:
                    handle = self._closed(handle)

    def rsync(self, name: str) -> None:
        copy = os.path.join(self.scratch, "copy")
        journal = Journal(self.journal)
        while name not in self.done:
            final = self.final
            if final is not None and os.path.exists(copy):
                os.unlink(copy)  # rsync leaves a copy that is longer than the file as it is.
            told = self._called(name, "rsync", "--append-verify", self.path, copy)
            # A file that is shorter when it is opened than it was before is skipped, with a warning and exit code 0.
            if told is not None and b"skipped diminished file" not in told:
                if not os.path.exists(copy):
                    raise Wrong(f"no copy, with exit code 0; {told!r}")
                with open(copy, "rb") as file:
                    self._check_whole(name, journal, file.read(), final)
            self._rest()

    def cat(self, name: str) -> None:
        out, journal = os.path.join(self.scratch, "cat.out"), Journal(self.journal)
        while name not in self.done:
            final = self.final
            if self._called(name, "sh", "-c", 'exec cat "$1" >"$2"', "sh", self.path, out) is not None:
                with open(out, "rb") as file:
                    self._check_whole(name, journal, file.read(), final)
            self._rest()

    def random(self, name: str) -> None:
        journal = Journal(self.journal)
        while name not in self.done:
            try:
                handle = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                self._failed(name, error.errno or 0)
                continue
            try:
                self._read_at_random(name, journal, handle)
            except OSError as error:
                self._failed(name, error.errno or 0)
            finally:
                os.close(handle)

    def _read_at_random(self, name: str, journal: Journal, handle: int) -> None:
        """Read one open file for a while. Raises Wrong if not all that it gives is of one version."""
        end, final = time.monotonic() + OPEN_S, self.final
        may_be, known_to = journal.versions(), 0
        while time.monotonic() < end and name not in self.done:
            size = os.fstat(handle).st_size
            start = random.randrange(max(1, size))
            data = os.pread(handle, min(1 << 16, size - start), start)
            self.read_bytes[name] += len(data)
            # The file may have been cut beyond all that was read, as a local one.
            later = {each for number in may_be for each in journal.continuing(number, known_to)}
            may_be, known_to = journal.fitting(data, start, later), max(known_to, start + len(data))
            if not may_be or (not data and size):
                raise Wrong(f"{len(data)} bytes at {start} of {size} that go with nothing read before: {data[:64]!r}")
            if final is not None and size == final[1] and final[0] in may_be:
                self.done.add(name)
            time.sleep(POLL_S / 2)

    # --- checks -----------------------------------------------------------------------------------

    def _check_whole(self, name: str, journal: Journal, data: bytes, final: tuple[int, int] | None) -> None:
        self.read_bytes[name] += len(data)
        fitting = journal.fitting(data, 0, journal.versions())
        if not fitting:
            raise Wrong(f"{len(data)} bytes that are no version's: {data[:64]!r}")
        if final is not None and final[0] in fitting and len(data) == final[1]:
            self.done.add(name)

    def _note(self, name: str, stream: Stream) -> None:
        self.read_bytes[name] = stream.bytes
        if self.final is not None and stream.is_at(*self.final):
            self.done.add(name)

    def _called(self, name: str, *command: str) -> bytes | None:
        """Return what a program printed, or None where its exit code is not 0."""
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            self.errors[f"{name}: exit {done.returncode}"] += 1
            return None
        return done.stdout

    def _failed(self, name: str, number: int) -> None:
        self.errors[f"{name}: {errno.errorcode.get(number, number)}"] += 1
        time.sleep(POLL_S)

    def _closed(self, handle: int) -> int:
        if handle >= 0:
            os.close(handle)
        return -1

    def _rest(self) -> None:
        time.sleep(POLL_S if self.final is not None else CALL_AGAIN_S)


if __name__ == "__main__":
    Followers(path=sys.argv[1], journal=sys.argv[2], scratch=sys.argv[3]).run()
    # The threads may be in calls that do not end.
    os._exit(0)
