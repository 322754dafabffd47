"""Whose a mount is, and how to say so.

Hard: the mount table counts users as the user namespace does in which the mount was made, and does not say which one
that was. So in a user namespace the number 0 may be root here or root outside. The kernel knows: it lets the true owner
in, and refuses all others with EACCES.
"""

import os

from artifactfs.mount.mount_table import Mount
from artifactfs.util.escaping import shell_word

_MAP = "/proc/self/uid_map"
# What the initial user namespace maps: every user id, to itself (user_namespaces(7)).
_ALL_IDS = 2**32 - 1


def _ranges(text: str | None = None) -> list[tuple[int, int, int]]:
    """Return what a user namespace maps: (first id in it, first id outside, how many). `text`: of another uid_map."""
    try:
        if text is None:
            with open(_MAP, encoding="ascii") as file:
                text = file.read()
        rows = [row.split() for row in text.split("\n") if row]
        return [(int(inside), int(outside), int(count)) for inside, outside, count in rows]
    except (OSError, ValueError):
        return [(0, 0, _ALL_IDS)]


def in_user_namespace(text: str | None = None) -> bool:
    """Whether users are counted otherwise here than outside: then root here is not root there. `text`: of a uid_map."""
    return _ranges(text) != [(0, 0, _ALL_IDS)]


def my_ids() -> frozenset[int]:
    """Return the user ids that a mount of this user's may have in the table: in here, and outside."""
    own = os.geteuid()
    outside = (there + own - here for here, there, count in _ranges() if 0 <= own - here < count)
    return frozenset({own, *outside})


def only_owner(path: str, mount: Mount | None) -> str:
    """Return what to say of a mount that the kernel refused to open: to whom it speaks, and how to be that user."""
    if mount is None or mount.user is None:
        return f"{path} says that only to the user who mounted it: `sudo -u USER artifactfs …`"
    if in_user_namespace():
        return f"{mount.point} says that only to {outsider(mount)}, who mounted it: run `artifactfs …` as that user"
    way = "sudo" if mount.user_id == 0 else f"sudo -u {shell_word(mount.user)}"
    if mount.allow_other:
        root_too = "" if mount.user_id == 0 else ", and to root"
    else:
        # The kernel admits only the user who mounted.
        root_too = ", and not to root either" if os.geteuid() == 0 else ""
    return f"{mount.point} says that only to {mount.user}, who mounted it{root_too}: `{way} artifactfs …`"


def only_owner_ends(mount: Mount) -> str | None:
    """Return why this user cannot end a mount where it is another's; None where it is not, or is not known to be."""
    if mount.user is None:
        return None
    if in_user_namespace():
        return f"only {outsider(mount)}, who mounted it, can end it"
    if os.geteuid() in (0, mount.user_id):
        return None
    who = "root" if mount.user_id == 0 else f"{mount.user} and root"
    return f"{mount.user} has mounted it, and only {who} can end it"


def outsider(mount: Mount) -> str:
    """Return the owner of a mount, in words, where this user is in a user namespace and is not that owner."""
    named = "root" if mount.user_id == 0 else f"user {mount.user_id}"
    own = os.geteuid()
    mapped = any(0 <= (mount.user_id or 0) - inside < count for inside, _, count in _ranges())
    if mapped and mount.user_id != own:
        return f"{named} in this user namespace or outside of it"
    not_you = " (root in here is not root there)" if own == 0 and mount.user_id == 0 else ""
    return f"{named} outside of this user namespace{not_you}"
