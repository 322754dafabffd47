"""The child process that touches a mount for `control_client`, and prints one JSON object.

Run by its path with `python -I -S`: it imports little, so that it starts quickly. It finds the mount of a path by the
device that the kernel reports, whatever links and bind mounts lead there. The inode number names the path in a
command (tree/control_dir.py).

The object has `point` and `answer`; or `outside`, `part` or `hidden` if the mount has no reachable reports; or `errno`,
the `path` that failed, and `inside`: the mount point of the mount that the path is in.
"""

import json
import os
import sys
from contextlib import suppress

if __name__ == "__main__":
    # Behind the standard library. Isolated mode (-I) has neither the script's directory nor site-packages.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))

from artifactfs.util import mountinfo
from artifactfs.util.mountinfo import Mount

# They concern the whole mount, whichever path in it was given.
REPORTS = frozenset({"status.json", "metrics", "errors"})
# Not a file of the mount: whether its process is there.
PROBE = "statvfs"
_READ_BYTES = 1 << 20


def ask(name: str, path: str, *, parent_too: bool, max_bytes: int) -> dict[str, object]:
    """Read the report `name`, or give the command `name` about `path`, and return the object to print.

    `parent_too`: if the path is missing, take the directory that would contain it.
    """
    failing = path
    try:
        if name == PROBE:
            os.statvfs(path)
            return {}
        try:
            found = _stat(path)
        except FileNotFoundError:
            if not parent_too:
                raise
            failing = path = os.path.dirname(os.path.abspath(path))
            found = _stat(path)
        places = _places(found)
        if not places:
            return {"outside": True}
        if places[0].root != "/":
            return {"part": places[0].point}
        point = next((place.point for place in places if place.root == "/" and _leads_to(place, found)), None)
        if point is None:
            return {"hidden": True}
        failing = f"{point}/.artifactfs/{name}" + ("" if name in REPORTS else f"/{found.st_ino}")
        return {"point": point, "answer": _read(failing, max_bytes).decode("utf-8", "replace")}
    except OSError as error:
        return {"errno": error.errno, "path": failing, "inside": _mount_around(path) if name != PROBE else None}


def _stat(path: str) -> os.stat_result:
    # O_PATH, unlike stat, makes the kernel look the name up again.
    file = os.open(path, os.O_PATH)
    try:
        return os.fstat(file)
    finally:
        os.close(file)


def _places(found: os.stat_result) -> list[Mount]:
    """Return the places of a file's mount, whole ones first: a bind mount of a part has no .artifactfs."""
    device = mountinfo.device_of(found)
    places = [each for each in mountinfo.mounts() if each.device == device and each.is_ours]
    return sorted(places, key=lambda place: place.root != "/")


def _leads_to(place: Mount, found: os.stat_result) -> bool:
    """Whether the place of a mount leads to it: another mount may hide it."""
    try:
        return os.stat(place.point).st_dev == found.st_dev
    except OSError:
        return False


def _read(path: str, max_bytes: int) -> bytes:
    answer = b""
    with open(path, "rb", buffering=0) as file:
        while len(answer) <= max_bytes and (piece := file.read(_READ_BYTES)):
            answer += piece
    return answer


def _mount_around(path: str) -> str | None:
    """Return the mount point around a path that fails, as far as its directories can be reached.

    From the top: the failing name is looked up once more, and not once for each name below it.
    """
    found = None
    with suppress(OSError):
        above = os.path.dirname(os.path.abspath(path))
        for end in (*(at for at, each in enumerate(above) if at and each == "/"), len(above)):
            found = os.stat(above[:end])
    places = _places(found) if found is not None else []
    return places[0].point if places else None


if __name__ == "__main__":
    answer = ask(sys.argv[1], sys.argv[2], parent_too=sys.argv[3] == "yes", max_bytes=int(sys.argv[4]))
    sys.stdout.write(json.dumps(answer))
