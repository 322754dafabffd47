"""The account that owns cached content, and the switch to another account (docs/semantics.md 6.3).

Without the setting `account`, only the keys distinguish accounts: new keys may belong to another account. Content that
was fetched with the old keys is then not shown from the disk cache, from memory or from the kernel's pages.
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
    """Return the name of the owner of cached content: the site, and the account's name or a digest of its key."""
    # No digest begins like this, so no name is one.
    account = f"={settings.account}" if settings.account is not None else credentials.account()
    return f"{settings.api_url}\0{account}"


def follower(
    settings: Settings, tree: Tree, files: OpenFileTable, operations: Operations
) -> Callable[[Credentials], None]:
    """Return the function to call with changed keys before their first use. It does not await."""
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
        tree.clear()
        operations.invalidate_pages()

    return follow
