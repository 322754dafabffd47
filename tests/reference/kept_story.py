"""What is done to mounts, to the run's row and to the database, beside all that `story.py` does."""

from datetime import timedelta

from tests.reference.kept_model import KeptModel
from tests.reference.kept_world import KeptWorld
from tests.reference.steps import FAULTS
from tests.reference.story import EPOCH, Story, told
from tests.reference.trust import is_error


class KeptStory(Story):
    """One script. A look where nothing is mounted mounts, the way that was asked for last, or else the ordinary way."""

    def __init__(self, world: KeptWorld) -> None:
        super().__init__(world)
        self._there = world
        self._model = self._kept = KeptModel()
        self._fault: tuple[str, str, int | None] | None = None
        self._mode = self._next = "normal"
        self._rows = 0
        self._is_pinned = False
        self._project = world.lab.new_project()
        self.rename_project("p")

    def end(self) -> None:
        """Leave the server as it was found, and the mount an ordinary one, if any."""
        if self._mode != "normal":
            self.umount()
        self._next = "normal"
        if self._model.troubles:
            self._up()
        super().end()
        self._world.lab.change_project(self._project, delete=True)
        if self._is_pinned:
            self._there.unpin()
        if self._kept.is_damaged:
            self._open.clear()
            self.umount()
            self._there.without_database()

    # --- mounts ---------------------------------------------------------------------------------------------

    def umount(self) -> None:
        """The mount ends in order."""
        if self._there.is_up:
            self._close_all()
            self._script.append("umount")
            self._there.umount()
            self._ended(exact=True)

    def kill(self, written: bool) -> None:
        """The mount's process is killed: when all is written, or in the midst of it."""
        if self._there.is_up:
            self._script.append("kill -9" + " once all is written" * written)
            self._there.kill(written=written)
            self._close_all()
            self._ended(exact=written)

    def mount(self, mode: str) -> None:
        """Mount in this way at the next look."""
        self.umount()
        self._next = mode

    def damage(self, how: str, where: float) -> None:
        """The database is damaged while nothing is mounted."""
        self.umount()
        self._script.append(f"damage: {how} at {where}")
        self._there.damage(how, where)
        self._kept.damaged()

    def vanish(self) -> None:
        """The run is deleted, a mount learns it, and another one finds it back."""
        self.heal()
        self.mount("normal")
        self._script.append("server: the run is deleted")
        self._world.lab.change_run(self._run, delete=True)
        self._up()
        for answer in (self._world.stat("runs", self._run), self._world.ls("runs", self._run)):
            self._saw("look at the run", str(answer), lambda answer=answer: self._is_gone(answer))  # type: ignore[misc]
        self.umount()
        self._script.append("server: the run is back")
        self._world.lab.change_run(self._run, unset=["deleted_at"])
        self._kept.vanished()

    def pin(self) -> None:
        """The run is asked for again, pinned and looked at; in a trouble nothing can be pinned."""
        self.refresh()
        if self._mode == "offline" or self._model.troubles:
            return
        self._script.append("pin")
        self._is_pinned = True
        if self._there.pin(self._run):
            self._kept.pinned()
        else:
            self._saw("pin", "not stored", self._kept.not_stored)
        self.walk("")

    def _is_gone(self, answer: object) -> None:
        assert answer == "ENOENT" or self._model.troubles, f"a run that is gone is {answer}"

    def _up(self) -> None:
        """Mount if nothing is mounted. No fault is in the way of that."""
        if self._there.is_up:
            return
        lab, self._mode, self._next = self._world.lab, self._next, "normal"
        self._script.append(f"mount: {self._mode}")
        lab.faults()
        if self._mode == "offline":
            # Nothing is asked for; whatever is, fails, and is counted.
            lab.fault("any", FAULTS["reset"])
        if not self._there.up(self._mode):
            self._saw("mount offline", "refused", self._kept.refused)
            lab.faults()
            self._mode = "normal"
            self._there.up(self._mode)
        lab.reset()
        if self._fault is not None and self._mode != "offline":
            kind, how, times = self._fault
            lab.fault(kind, FAULTS[how], times=times)
        account = "other" if self._mode == "other account" else ""
        self._kept.mounted(account, is_offline=self._mode == "offline")

    def _ended(self, *, exact: bool) -> None:
        if self._mode == "offline":
            asked = self._world.lab.requests()
            self._saw("requests while offline", str(asked), lambda: self._check_none(asked))
            self._world.lab.faults()
        self._kept.unmounted(exact=exact)
        self._mode = "normal"

    @staticmethod
    def _check_none(asked: dict[str, int]) -> None:
        assert not any(asked.values()), f"an offline mount has sent {asked}"

    def _close_all(self) -> None:
        while self._open:
            number, handle = self._open.pop()
            self._world.close(number)
            self._model.closed(handle)

    # --- the run's row ---------------------------------------------------------------------------------------

    def finish(self) -> None:
        if not self._model.finished:
            super().finish()
            self._kept.row_changed()

    def touch(self, what: str) -> None:
        """A time of the run's row moves."""
        self._rows += 1
        moved = f"{EPOCH + timedelta(hours=self._rows):%Y-%m-%dT%H:%M:%SZ}"
        self._script.append(f"server: {what} of the run is {moved}")
        self._world.lab.change_run(self._run, set={what: moved})
        self._kept.row_changed()

    def rework(self, path: str, size: int) -> None:
        """A file comes, or is another one, and the run's row tells that something was updated."""
        self.put(path, size)
        self.touch("updated_at")

    # --- a project beside it ----------------------------------------------------------------------------------

    def rename_project(self, name: str) -> None:
        self._script.append(f"server: the project is called {name}")
        self._world.lab.change_project(self._project, set={"name": name})
        self._kept.renamed(name)

    def names(self) -> None:
        """List /names."""
        self._up()
        answer = self._world.ls("names")
        if not is_error(answer):
            mark = f"~{self._project}/"
            answer = " ".join(each.removesuffix(mark) for each in answer.split() if each.endswith(mark))
        self._saw("ls /names", answer, lambda: self._kept.named(answer))

    def find_by_name(self, name: str) -> None:
        self._up()
        answer = told(self._world.stat("names", f"{name}~{self._project}"))
        self._saw(f"stat /names/{name}", answer, lambda: self._kept.found_by_name(name, answer))

    # --- all else is done to a mount ------------------------------------------------------------------------

    def refresh(self) -> None:
        self._up()
        if self._mode != "offline":
            super().refresh()

    def fail(self, kind: str, how: str, times: int | None) -> None:
        self._up()
        if self._mode != "offline":
            super().fail(kind, how, times)
            self._fault = kind, how, times

    def heal(self) -> None:
        if self._model.troubles:
            if "offline" in (self._mode, self._next):
                self.mount("normal")
            self._up()
            super().heal()
        self._fault = None

    def enter(self) -> None:
        """Look at the run itself: its row alone is asked for."""
        self._up()
        answer = self._world.stat("runs", self._run)
        self._saw("stat the run", told(answer), lambda: self._kept.entered(told(answer)))

    def ls(self, path: str) -> str:
        self._up()
        return super().ls(path)

    def stat(self, path: str) -> None:
        self._up()
        super().stat(path)

    def open(self, path: str) -> bool:
        self._up()
        return super().open(path)

    def cat(self, path: str, count: int) -> None:
        if not self.open(path):
            return
        at = 0
        while self.read(-1, at, count):
            at += count
        self._kept.read_to_end(path)
        self.close(-1)
