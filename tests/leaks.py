"""Where a key might turn up, and in which forms: what the tests of docs/semantics.md 6.1 look through.

Owns the looking. All that a mount writes, says, sends or starts is a place: a name, and the bytes that are there.
"""

import base64
import contextlib
import glob
import html
import json
import os
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.answers import Asked
from tests.harness import Done, Shell, run
from tests.hostile import HostileServer

_HEADERS = ("dd-api-key", "dd-application-key")


def forms(secret: str) -> dict[str, bytes]:
    """Return what a secret looks like, by the name of the form."""
    plain = secret.encode()
    found = {
        "plain": plain,
        "quoted": urllib.parse.quote(secret, safe="").encode(),
        "quoted, slashes left": urllib.parse.quote(secret).encode(),
        "quoted twice": urllib.parse.quote(urllib.parse.quote(secret, safe=""), safe="").encode(),
        "JSON": json.dumps(secret)[1:-1].encode(),
        "repr": repr(secret)[1:-1].encode(),
        "HTML": html.escape(secret).encode(),
        "hex": plain.hex().encode(),
        "UTF-16": secret.encode("utf-16-le"),
    }
    for name, encode in (("base64", base64.standard_b64encode), ("base64 for URLs", base64.urlsafe_b64encode)):
        # Three letters hold four bytes: where in a text it begins decides what it looks like.
        for shift in range(3):
            whole = encode(bytes(shift) + plain)
            found[f"{name}, {shift} bytes in"] = whole[-(-shift * 8 // 6) : (shift + len(plain)) * 8 // 6]
    return found


def found(places: Mapping[str, bytes], secrets: Iterable[str]) -> list[str]:
    """Return where secrets are, "place: form", without the secrets."""
    wanted = [(name, form) for secret in secrets for name, form in forms(secret).items()]
    return [f"{place}: {name}" for place, data in places.items() for name, form in wanted if form in data]


@dataclass
class Watched:
    """Everything around mounts of one server that was given these keys: the API's, then the application's.

    `said`: commands whose output counts.
    """

    shell: Shell
    api: HostileServer
    elsewhere: HostileServer
    keys: tuple[str, str]
    said: list[Done] = field(default_factory=list)
    since: float = field(default_factory=time.time)

    def leaks(self) -> list[str]:
        """Return where the keys are and should not be."""
        return found(self.places(), self.keys)

    def places(self) -> dict[str, bytes]:
        """Return every place, as it is now."""
        said = {f"said by {done.command!r}"[:200]: done.out + done.err.encode() for done in self.said}
        sent = {f"sent elsewhere: {asked.target[:80]}": asked.head for asked in self.elsewhere.received}
        asked = {f"sent to the API: {asked.target[:80]}": self.keyless(asked) for asked in self.api.received}
        tables = {command[0]: run(*command).out for command in (("ps", "axww"), ("mount",))}
        return {**said, **sent, **asked, **tables, **self._files(), **self._processes(), **self._cores()}

    def keyless(self, asked: Asked) -> bytes:
        """Return a request without the two headers that are for the keys, where they hold just these."""
        lines = asked.head.split(b"\r\n")
        right = {name.encode(): key.encode() for name, key in zip(_HEADERS, self.keys, strict=True)}
        kept = [line for line in lines if right.get(line.partition(b":")[0].lower()) != line.partition(b": ")[2]]
        return b"\r\n".join(kept)

    def _files(self) -> dict[str, bytes]:
        points = {mounted.point for mounted in self.shell.mounts}
        kept: dict[str, bytes] = {}
        for top, directories, names in os.walk(self.shell.directory):
            directories[:] = [name for name in directories if os.path.join(top, name) not in points]
            for name in names:
                # A file of the cache may go while it is looked at.
                with contextlib.suppress(FileNotFoundError), open(os.path.join(top, name), "rb") as file:
                    kept[os.path.join(top, name)] = os.fsencode(name) + b"\0" + file.read()
        return kept

    def _processes(self) -> dict[str, bytes]:
        kept: dict[str, bytes] = {}
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            for name in ("cmdline", "environ"):
                # Gone, or another user's.
                with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                    kept[f"/proc/{pid}/{name}"] = file.read()
        return kept

    def _cores(self) -> dict[str, bytes]:
        with open("/proc/sys/kernel/core_pattern", encoding="utf-8") as file:
            pattern = file.read().strip()
        # A mount's working directory is the root; below the shell's own directory everything is looked at anyway.
        places = {"/", os.path.dirname(pattern) if pattern.startswith("/") else "/"}
        kept: dict[str, bytes] = {}
        for path in (path for place in places for path in glob.glob(os.path.join(place, "*core*"))):
            with contextlib.suppress(OSError):
                if os.path.isfile(path) and os.stat(path).st_mtime >= self.since - 1:
                    with open(path, "rb") as file:
                        kept[f"core {path}"] = file.read()
        return kept
