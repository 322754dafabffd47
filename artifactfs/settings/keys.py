"""Where each key comes from, so that it can be read again: keys are rotated while a mount lives.

A `KeySource` holds places, not what was there. A key in a file (a systemd credential is one), in the config file or
from a command can change; one from the environment stays what it was. What is hard is that reading may fail, hang or
ask: who reads decides how long and whether on a terminal, and every failure is one line without the key in it.
"""

import os
import re
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import bounded_read, configfile, key_command
from artifactfs.settings.parsers import is_descriptor
from artifactfs.settings.secret import Secret

# Somebody may have to find a hardware key, or type a passphrase, before there is a mount. Arbitrary.
_FIRST_LIMIT_S = 120.0
# Of a mount that runs: nobody is asked anything, and programs wait for it.
_AGAIN_LIMIT_S = 30.0
# A key has 32 to some hundred characters; a whole log given by mistake is none.
_MAX_KEY_BYTES = 4096
_NO_TERMINAL = "; a mount that runs has no terminal to ask on"


@dataclass(frozen=True)
class Keys:
    """What a mount asks with: a pair of keys, or an access token in their place."""

    api_key: Secret | None = None
    app_key: Secret | None = None
    access_token: Secret | None = None


@dataclass(frozen=True)
class Fixed:
    """A key that was given itself, and cannot change. `source`: who gave it."""

    value: Secret
    source: str

    def read(self) -> Secret:
        """Return it."""
        return self.value


@dataclass(frozen=True)
class InFile:
    """A key in a file of its own."""

    path: str
    source: str

    def read(self) -> Secret:
        """Read the file again: programs wait for it, so it is no pipe now. Raises UserError."""
        return self._open(0)[0]

    def open(self) -> tuple[Secret, bool]:
        """Return the key, and whether it can be read again: not from a pipe or a descriptor. Raises UserError."""
        return self._open(_FIRST_LIMIT_S)

    def _open(self, limit_s: float) -> tuple[Secret, bool]:
        try:
            found, status = bounded_read.read(self.path, most_bytes=_MAX_KEY_BYTES, limit_s=limit_s)
            text = found.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise _unusable(self.source, f"cannot read the key from {self.path}: {reason}") from None
        if not text.strip():
            raise _unusable(self.source, f"{self.path} is empty")
        return checked(text, self.source), stat.S_ISREG(status.st_mode) and not is_descriptor(self.path)


@dataclass(frozen=True)
class InConfigFile:
    """A key in the config file itself: at its top, or in a profile."""

    name: str
    path: str
    profile: str | None
    source: str

    def read(self) -> Secret:
        """Read the config file. Raises UserError."""
        file = configfile.read(self.path)
        table = file.top if self.profile is None else file.profile(self.profile, self.path)
        if self.name not in table:
            raise _unusable(self.source, "the key is gone")
        return checked(table[self.name], self.source)


@dataclass(frozen=True)
class FromCommand:
    """A key that a command prints, in its first line. `environ`: the command's, without any key."""

    argv: tuple[str, ...] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    source: str

    def run(self, *, again: bool, stop: threading.Event | None = None) -> Secret:
        """Run the command. Raises UserError."""
        limit_s = _AGAIN_LIMIT_S if again else _FIRST_LIMIT_S
        try:
            out = key_command.answer(self.argv, self.environ, limit_s=limit_s, terminal=not again, stop=stop)
        except key_command.CommandFailed as error:
            raise _unusable(self.source, f"the command failed: {error}{_NO_TERMINAL if again else ''}") from None
        # What follows is a note on the key, as `pass` has it.
        line = out.partition(b"\n")[0]
        if not line.strip():
            raise _unusable(self.source, "the command printed nothing in its first line, where the key should be")
        # Nothing of an odd one is repeated, so it need not be decoded right.
        return checked(line.decode("utf-8", "replace"), self.source)


Origin: TypeAlias = Fixed | InFile | InConfigFile | FromCommand


@dataclass(frozen=True)
class KeySource:
    """Where the keys of a mount come from; None for one that there is not, or that is not used."""

    api_key: Origin | None = None
    app_key: Origin | None = None
    access_token: Origin | None = None

    @property
    def _origins(self) -> tuple[Origin | None, ...]:
        return (self.api_key, self.app_key, self.access_token)

    @property
    def has_commands(self) -> bool:
        """Whether a command is run to get one of them."""
        return any(isinstance(origin, FromCommand) for origin in self._origins)

    @property
    def has_files(self) -> bool:
        """Whether one of them is in a file."""
        return any(isinstance(origin, InFile | InConfigFile) for origin in self._origins)

    def read(self) -> tuple[Keys, "KeySource"]:
        """Read all keys for the first time; returns them, and where to read them again. Raises UserError.

        A command may ask on the terminal.
        """
        found: dict[str, Secret | None] = {}
        lasting: dict[str, Origin | None] = {}
        for name, origin in self._named():
            if isinstance(origin, InFile):
                key, stays = origin.open()
                # What came through a pipe (`<(pass show key)`) is there only once.
                lasting[name] = origin if stays else Fixed(key, origin.source)
                found[name] = key
            else:
                lasting[name] = origin
                found[name] = _first(origin)
        return Keys(**found), KeySource(**lasting)

    def read_again(self, known: Keys, *, commands: bool, stop: threading.Event) -> Keys:
        """Return the keys as they are now; those of commands stay as `known`, unless `commands`. Raises UserError.

        May take as long as a command does, 30 s for each; when `stop` is set it ends soon.
        """
        again = known
        for name, origin in self._named():
            if isinstance(origin, InFile | InConfigFile):
                again = replace(again, **{name: origin.read()})
            elif commands and isinstance(origin, FromCommand):
                again = replace(again, **{name: origin.run(again=True, stop=stop)})
        return again

    def without_reading(self) -> Keys:
        """Return the keys that were given themselves: nothing is read or run for it. Raises UserError."""
        given: dict[str, Secret | None] = {}
        for name, origin in self._named():
            given[name] = origin.read() if isinstance(origin, Fixed | InConfigFile) else None
        return Keys(**given)

    def _named(self) -> tuple[tuple[str, Origin | None], ...]:
        return (("api_key", self.api_key), ("app_key", self.app_key), ("access_token", self.access_token))


def _first(origin: Origin | None) -> Secret | None:
    if isinstance(origin, FromCommand):
        return origin.run(again=False)
    return origin.read() if origin is not None else None


def checked(text: str, source: str) -> Secret:
    """Return a key without the white space around it. Raises UserError for what is none; never shows it."""
    key = text.strip()
    # Never judged by its shape, but a header cannot carry these.
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise _unusable(source, "the key holds spaces or characters that no HTTP header can carry")
    return Secret(key)


def everybody_can_read(path: str) -> bool:
    """Whether every user of the machine can read a file, as far as modes say: it, and all directories above it.

    A group is somebody's choice: Kubernetes and systemd give secrets to groups.
    """
    try:
        path = os.path.realpath(path)
        if not os.stat(path).st_mode & 0o004:
            return False
        while (above := os.path.dirname(path)) != path:
            path = above
            if not os.stat(path).st_mode & 0o001:
                return False
    except OSError:
        return False
    return True


def _unusable(source: str, what: str) -> UserError:
    return UserError(ExitCode.KEYS_MISSING, f"{source}: {what}")
