"""The account whose file contents a mount shows, and a switch to another account (semantics 6.3).

Without a name for the account its keys are all that tells accounts apart: new ones may be another account's, and
nothing that came with the old ones is shown to who comes with the new ones: not from the cache, not from memory, not
from the kernel's pages.
"""

import logging
from collections.abc import Callable

from artifactfs.content.open_files import OpenFileTable
from artifactfs.fuse.operations import Operations
from artifactfs.modellab.auth import Credentials
from artifactfs.settings import Settings
from artifactfs.tree.tree import Tree

log = logging.getLogger(__name__)


def owner(settings: Settings, credentials: Credentials) -> str:
    """Return what names the owner of cached content: the site, and the account's name or a digest of its key."""
    # No digest begins like this, so no name is one.
    account = f"={settings.account}" if settings.account is not None else credentials.account()
    return f"{settings.api_url}\0{account}"


def follower(
    settings: Settings, tree: Tree, files: OpenFileTable, operations: Operations
) -> Callable[[Credentials], None]:
    """Return what is to be called when the keys have changed, before they are used. No await in it."""
    known = files.owner

    def follow(credentials: Credentials) -> None:
        nonlocal known
        if (now := owner(settings, credentials)) == known:
            return
        known = now
        log.info(
            "the new keys may be another account's: everything is fetched again, and the cache stays untouched; "
            "with `account` set, it would be kept over a change of keys"
        )
        files.switch_account(now)
        tree.forget()
        operations.invalidate_pages()

    return follow
