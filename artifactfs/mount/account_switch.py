"""The account that owns cached contents, and the switch to another account (docs/semantics.md 6.3).

Without the setting `account`, only the keys distinguish accounts: new keys may belong to another account. Contents
fetched with the old keys are then not served from the disk cache, from memory or from the kernel's pages.
"""

import logging

from artifactfs.content.open_files import OpenFileTable
from artifactfs.fuse.operations import Operations
from artifactfs.modellab.auth import Credentials
from artifactfs.settings import Settings
from artifactfs.tree.tree import Tree

log = logging.getLogger(__name__)


def account_of(settings: Settings, credentials: Credentials) -> str:
    """Return the account that owns what is cached: its name, or a digest of its key; "" without keys."""
    # No digest begins with "=", so no name equals one.
    return f"={settings.account}" if settings.account is not None else credentials.account()


def owner(settings: Settings, account: str) -> str:
    """Return the owner of cached contents: the site and the account."""
    return f"{settings.api_url}\0{account}"


def follow(new: str, tree: Tree, files: OpenFileTable, operations: Operations) -> None:
    """Switch to the owner of new keys, before their first use. Does not await."""
    if new == files.owner:
        return
    log.info(
        "the new keys may be those of another account: all contents are fetched again; "
        "set `account` to keep the cache over a change of keys"
    )
    files.switch_account(new)
    tree.switch_account(new)
    operations.invalidate_pages()
