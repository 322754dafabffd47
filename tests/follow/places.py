"""Where a live run is: a local directory, or a mount of an emulator. Both change by the same calls."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tests.harness import Lab, Mount

LIVE_TTL_S = 1.0
OPTIONS = ("--live-ttl", f"{LIVE_TTL_S:g}s")
# A mount shows a change after `live_ttl` + 2 s at most. Programs poll every second or so, the emulator's own lag comes
# on top, and a busy machine of two cores is no fault of the mount's.
BEHIND_S = 2 * (LIVE_TTL_S + 2.0) + 14.0

# How a server may behave, by switches of the emulator. `lags`: the listing's sizes are behind the content; `ahead`: the
# content is behind them; `unlisted`: listings have no sizes.
FORMS: Mapping[str, Mapping[str, object]] = {
    "plain": {},
    "no-ranges": {"ranges": "ignored"},
    "no-ranges-chunked": {"ranges": "ignored", "length": "chunked"},
    "validators": {"etag": "strong", "last_modified": True},
    "noisy-validators": {"etag": "changing"},
    "moving-times": {"created_at": "moves"},
    "lags": {"listing_lag_s": 1.5},
    "lags-no-ranges": {"listing_lag_s": 1.5, "ranges": "ignored", "etag": "weak"},
    "ahead": {"content_lag_s": 1.5},
    "ahead-no-length": {"content_lag_s": 1.5, "ranges": "ignored", "length": "chunked"},
    "ahead-validators": {"content_lag_s": 1.5, "etag": "strong", "last_modified": True, "created_at": "moves"},
    "unlisted": {"size_form": "absent", "index_size_form": "absent"},
    "unlisted-no-length": {
        "size_form": "absent",
        "index_size_form": "absent",
        "ranges": "ignored",
        "length": "chunked",
    },
}


class Place(Protocol):
    """A run's directory. File names have no directory in front."""

    @property
    def directory(self) -> str: ...

    def path(self, name: str) -> str: ...

    def append(self, name: str, data: bytes) -> None:
        """Let a file grow, or begin."""

    def replace(self, name: str, data: bytes) -> None:
        """Put another file at a name that is there."""

    def truncate(self, name: str, size: int) -> None: ...


@dataclass(frozen=True)
class LocalPlace:
    """A local directory: what programs do there is what they are to do in a mount."""

    directory: str

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def append(self, name: str, data: bytes) -> None:
        with open(self.path(name), "ab") as file:
            file.write(data)

    def replace(self, name: str, data: bytes) -> None:
        new = self.path(f".{name}.new")
        with open(new, "wb") as file:
            file.write(data)
        os.rename(new, self.path(name))

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.path(name), size)


@dataclass(frozen=True)
class ServedPlace:
    """A run that is a local directory at `artifactfs serve`, in a mount: written here, and read there."""

    written: LocalPlace
    directory: str

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def append(self, name: str, data: bytes) -> None:
        self.written.append(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.written.replace(name, data)

    def truncate(self, name: str, size: int) -> None:
        self.written.truncate(name, size)


@dataclass(frozen=True)
class LabPlace:
    """A running run of an emulator, in a mount. Nothing in this process touches the mount."""

    lab: Lab
    mount: Mount
    run_id: int
    _known: set[str] = field(default_factory=set)

    @property
    def directory(self) -> str:
        return self.mount.path("runs", self.run_id)

    def path(self, name: str) -> str:
        return self.mount.path("runs", self.run_id, name)

    def append(self, name: str, data: bytes) -> None:
        self._change("append" if name in self._known else "add", name, {"base64": base64.b64encode(data).decode()})
        self._known.add(name)

    def replace(self, name: str, data: bytes) -> None:
        self._change("change", name, {"base64": base64.b64encode(data).decode()})

    def truncate(self, name: str, size: int) -> None:
        self._change("truncate", name, size)

    def _change(self, how: str, name: str, what: object) -> None:
        self.lab.files(self.run_id, **{how: {name: what}})


def lab_place(lab: Lab, mounted: Mount) -> LabPlace:
    """Return a new running run, alone in its project."""
    return LabPlace(lab, mounted, lab.new_run({}, project=lab.new_project(), status="running"))
