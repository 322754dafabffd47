"""The destination of a mount's log, and its format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LogDestination:
    """`to`: file, stderr, journal or syslog. `file`: the path of a file. `form`: text or json."""

    to: str = "stderr"
    file: str | None = None
    form: str = "text"

    @property
    def place(self) -> str:
        """The name of the log in messages."""
        by_name = {"journal": "the journal (journalctl -t artifactfs)", "syslog": "the system's log"}
        return self.file or by_name.get(self.to, "standard error")
