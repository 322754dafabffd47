"""Knows where each key comes from, so that keys can be rotated while a mount lives.

A `KeySource` holds places, not keys. A key in a file (such as a systemd credential), in the config file or from a
command can change; a key from the environment cannot. Reading may fail, block or prompt: the caller sets the time
limit and whether the terminal may be used, and every failure is one line without the key.
"""

import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from artifactfs.errors import ExitCode, UserError
from artifactfs.settings import bounded_read, configfile, key_command
from artifactfs.settings.parsers import is_descriptor
from artifactfs.settings.schema import KEYS
from artifactfs.settings.secret import Secret

# Before the mount: the user may have to find a hardware key, or type a passphrase. Arbitrary.
_FIRST_LIMIT_S = 120.0
# While mounted: no prompt is possible, and programs wait for the key.
_AGAIN_LIMIT_S = 30.0
# A key has 32 to some hundred characters; this refuses a log file given by mistake.
_MAX_KEY_BYTES = 4096


@dataclass(frozen=True)
class Keys:
    """The keys of all requests: a pair, or an access token in their place."""

    api_key: Secret | None = None
    app_key: Secret | None = None
    access_token: Secret | None = None


# The origins of a key. `source`: the setting that gave it. `first` returns the key and where to read it again, `again`
# the current key; both raise UserError.


@dataclass(frozen=True)
class Fixed:
    """A key that cannot be read again: from the environment, or through a pipe."""

    value: Secret
    source: str

    def first(self) -> tuple[Secret, "Origin"]:
        return self.value, self


@dataclass(frozen=True)
class InFile:
    """A key in a file of its own."""

    path: str
    source: str

    def first(self) -> tuple[Secret, "Origin"]:
        key, status = self._read(_FIRST_LIMIT_S)
        lasts = stat.S_ISREG(status.st_mode) and not is_descriptor(self.path)
        return key, self if lasts else Fixed(key, self.source)

    def again(self) -> Secret:
        """Return the current key. A pipe is refused, since programs wait for the key."""
        return self._read(0)[0]

    def _read(self, limit_s: float) -> tuple[Secret, os.stat_result]:
        try:
            found, status = bounded_read.read(self.path, most_bytes=_MAX_KEY_BYTES, limit_s=limit_s)
            text = found.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise unusable(self.source, f"cannot read the key from {self.path}: {reason}") from None
        if not text.strip():
            raise unusable(self.source, f"{self.path} is empty")
        return checked_key(text, self.source), status


@dataclass(frozen=True)
class InConfigFile:
    """A key in the config file itself: at its top, or in a profile. `value`: the key when the mount began."""

    name: str
    path: str
    profile: str | None
    value: Secret
    source: str

    def first(self) -> tuple[Secret, "Origin"]:
        return self.value, self

    def again(self) -> Secret:
        file = configfile.read(self.path)
        table = file.top if self.profile is None else file.profile(self.profile, self.path)
        if self.name not in table:
            raise unusable(self.source, "the key is gone")
        return checked_key(table[self.name], self.source)


@dataclass(frozen=True)
class FromCommand:
    """A key that a command prints in its first line. `environ`: the command's environment, without any key."""

    argv: tuple[str, ...] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    source: str

    def first(self) -> tuple[Secret, "Origin"]:
        return self._run(_FIRST_LIMIT_S, terminal=True, stop=None), self

    def again(self, stop: threading.Event) -> Secret:
        """Run the command again, without a terminal, until `stop` is set."""
        return self._run(_AGAIN_LIMIT_S, terminal=False, stop=stop)

    def _run(self, limit_s: float, *, terminal: bool, stop: threading.Event | None) -> Secret:
        try:
            out = key_command.answer(self.argv, self.environ, limit_s=limit_s, terminal=terminal, stop=stop)
        except key_command.CommandFailed as error:
            fix = "" if terminal else "a running mount has no terminal for a prompt"
            raise unusable(self.source, f"the command failed: {error}", fix) from None
        # Later lines are notes on the key, as `pass` keeps them.
        line = out.partition(b"\n")[0]
        if not line.strip():
            raise unusable(self.source, "the command printed nothing in its first line, where the key should be")
        # No message repeats an invalid key, so it need not be decoded exactly.
        return checked_key(line.decode("utf-8", "replace"), self.source)


Origin: TypeAlias = Fixed | InFile | InConfigFile | FromCommand


@dataclass(frozen=True)
class KeySource:
    """Where the keys of a mount come from; None for a key that is not given or not used."""

    api_key: Origin | None = None
    app_key: Origin | None = None
    access_token: Origin | None = None

    def origins(self) -> Iterator[tuple[str, Origin]]:
        """Yield the origin of each key that has one, by the key's name."""
        for name in KEYS:
            if (origin := getattr(self, name)) is not None:
                yield name, origin

    @property
    def has_commands(self) -> bool:
        """Whether a command gives one of the keys."""
        return any(isinstance(origin, FromCommand) for _, origin in self.origins())

    @property
    def has_files(self) -> bool:
        """Whether a file holds one of the keys."""
        return any(isinstance(origin, InFile | InConfigFile) for _, origin in self.origins())

    def read(self) -> tuple[Keys, "KeySource"]:
        """Return all keys, and where to read them again. Raises UserError. A command may use the terminal."""
        found = {name: origin.first() for name, origin in self.origins()}
        keys = Keys(**{name: key for name, (key, _) in found.items()})
        return keys, KeySource(**{name: origin for name, (_, origin) in found.items()})

    def read_again(self, known: Keys, *, commands: bool, stop: threading.Event) -> Keys:
        """Return the current keys; without `commands` those of commands stay as `known`. Raises UserError.

        Each command may take 30 s; setting `stop` ends it soon.
        """
        again = known
        for name, origin in self.origins():
            if isinstance(origin, InFile | InConfigFile):
                again = replace(again, **{name: origin.again()})
            elif commands and isinstance(origin, FromCommand):
                again = replace(again, **{name: origin.again(stop)})
        return again


def checked_key(text: str, source: str) -> Secret:
    """Return a key without surrounding white space. Raises UserError, which never shows the key, for an invalid key."""
    key = text.strip()
    # Any shape is accepted that an HTTP header can carry.
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise unusable(source, "the key holds spaces or characters that no HTTP header can carry")
    return Secret(key)


def every_user_can_read(path: str) -> bool:
    """Whether the modes of a file, and of all directories above it, let every user of the machine read it.

    Access for a group is deliberate: Kubernetes and systemd give secrets to groups.
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


def unusable(source: str, fact: str, fix: str = "") -> UserError:
    """Return the error for a key that cannot be used. `source`: the setting that gave it."""
    return UserError(ExitCode.KEYS_MISSING, fact, fix, source)
