"""The place of a file in the keys of the caches: by it a part of the cache is dropped (docs/semantics.md 3.6).

A version's key is a digest of 16 bytes, which names it, and after that its place: the site, the run and the path in the
run, the project. The digest alone does not say which file it is of. block_format.py saves the place behind the blocks.
"""

import msgspec

DIGEST_BYTES = 16


def encode(site: str, place: str, project_id: str) -> bytes:
    """Return a place for the end of a key. `place`: "<run id>/<path in the run>"; empty for a file without a place."""
    return "\0".join((site, place, project_id)).encode() if place else b""


def place_in(key: bytes) -> bytes:
    """Return the place at the end of a key; empty where it has none."""
    return key[DIGEST_BYTES:]


def site_and_path(place: bytes) -> tuple[str, str]:
    """Return the site of a place, and its "<run id>/<path in the run>"; two empty texts of an empty one."""
    site, _, rest = place.decode().partition("\0")
    return site, rest.partition("\0")[0]


class CachePart(msgspec.Struct, frozen=True):
    """A part of the cache: the files of a site, or of one of its projects, or below a place.

    `below`: "<run id>" or "<run id>/<path>", of a directory or a file; None for every run. All accounts are meant.
    """

    site: str
    below: str | None = None
    project_id: str | None = None

    def covers(self, place: bytes) -> bool:
        """Whether a file belongs to this part. A file without a place does: it may be one of them."""
        if not place:
            return True
        site, path, project_id = place.decode().split("\0", 2)
        if site != self.site or self.project_id not in (None, project_id):
            return False
        return self.below is None or path == self.below or path.startswith(f"{self.below}/")
