"""The owner of a mount: the user who mounted it, and the errors of all others.

Hard: the mount table has user ids of the user namespace in which the mount was made, and does not name that
namespace. So in a user namespace the id 0 may be root here or root outside. Only the kernel can tell: it admits the
true owner, and refuses all others with EACCES.
"""

import os

from artifactfs.errors import ExitCode, UserError
from artifactfs.mount.mount_table import Mount
from artifactfs.util.escaping import shell_word
from artifactfs.util.path_walk import INITIAL_IDS, id_map


class NotMountOwner(UserError):
    """The kernel denies this user access to a mount: it belongs to another user."""


def in_user_namespace(text: str | None = None) -> bool:
    """Whether ids here differ from those outside: then root here is not root there. `text`: of another uid_map."""
    return id_map(text) != INITIAL_IDS


def my_ids() -> frozenset[int]:
    """Return the user ids that a mount of this user may have in the table: the id here, and the id outside."""
    own = os.geteuid()
    return frozenset({own, *(there + own - here for here, there, count in id_map() if 0 <= own - here < count)})


def access_denied(path: str, mount: Mount | None) -> NotMountOwner:
    """Return the error for a mount, at or above `path`, that the kernel refused to open."""
    if mount is None or mount.user is None:
        fact, fix = f"{path} answers only the user who mounted it", "run `sudo -u USER artifactfs …`"
    elif in_user_namespace():
        fact = f"{mount.point} answers only {_outsider(mount)}, who mounted it"
        fix = "run `artifactfs …` as that user"
    else:
        fact = f"{mount.point} answers only {mount.user}, who mounted it"
        if mount.user_id != 0:
            # Without allow_other, the kernel admits only the user who mounted.
            fact += ", and root" if mount.allow_other else ", and not root either" if os.geteuid() == 0 else ""
        fix = f"run `sudo {'' if mount.user_id == 0 else f'-u {shell_word(mount.user)} '}artifactfs …`"
    return NotMountOwner(ExitCode.NO_ANSWER, fact, fix)


def unmount_denied(mount: Mount) -> str | None:
    """Return why this user cannot unmount a mount; None unless it is known to be that of another user."""
    if mount.user is None:
        return None
    if in_user_namespace():
        return f"only {_outsider(mount)}, who mounted it, can end it"
    if os.geteuid() in (0, mount.user_id):
        return None
    return (
        f"{mount.user} has mounted it, and only {'root' if mount.user_id == 0 else f'{mount.user} and root'} can end it"
    )


def _outsider(mount: Mount) -> str:
    """Return the owner of a mount in words, for a user in a user namespace who is not the owner."""
    name, own = "root" if mount.user_id == 0 else f"user {mount.user_id}", os.geteuid()
    mapped = any(0 <= (mount.user_id or 0) - inside < count for inside, _, count in id_map())
    if mapped and mount.user_id != own:
        return f"{name} in this user namespace or outside of it"
    not_you = " (root in here is not root there)" if own == mount.user_id == 0 else ""
    return f"{name} outside of this user namespace{not_you}"
