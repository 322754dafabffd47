"""artifactfs.mount.mount_owner: whose mount it is, where root here need not be root there."""

import builtins
import io
from collections.abc import Callable
from typing import Any

import pytest

from artifactfs.mount import mount_owner
from artifactfs.mount.mount_table import FUSE_TYPE, Mount

INITIAL = "         0          0 4294967295\n"
# `unshare -Ur` of user 1000; a rootless container of that user; no map yet.
OF_ONE = "         0       1000          1\n"
ROOTLESS = "         0       1000          1\n         1     100000      65536\n"

Here = Callable[..., None]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Be a user in a user namespace with a map."""
    real = open

    def be(ids: str, euid: int) -> None:
        def opened(path: str, *args: Any, **keywords: Any) -> Any:
            return io.StringIO(ids) if path == "/proc/self/uid_map" else real(path, *args, **keywords)

        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr("os.geteuid", lambda: euid)

    return be


def of(user_id: int | None, *, allow_other: bool = False) -> Mount:
    return Mount("0:50", "/m", FUSE_TYPE, "x", user_id, allow_other)


@pytest.mark.parametrize(
    ("ids", "euid", "mine", "apart"),
    [
        (INITIAL, 0, {0}, False), (INITIAL, 1000, {1000}, False), (OF_ONE, 0, {0, 1000}, True),
        (ROOTLESS, 0, {0, 1000}, True), (ROOTLESS, 33, {33, 100032}, True), ("", 65534, {65534}, True),
        ("nonsense\n", 7, {7}, False),
    ],
)  # fmt: skip
def test_the_ids_of_a_user(ids: str, euid: int, mine: set[int], apart: bool, here: Here) -> None:
    """A mount of this user's may have been made in here or outside, where the user has another number."""
    here(ids, euid)
    assert mount_owner.my_ids() == mine
    assert mount_owner.in_user_namespace() is apart
    assert mount_owner.in_user_namespace(INITIAL) is False


@pytest.mark.parametrize(
    ("ids", "euid", "user_id", "said"),
    [
        (OF_ONE, 0, 0, "root outside of this user namespace (root in here is not root there)"),
        (OF_ONE, 0, 33, "user 33 outside of this user namespace"),
        (ROOTLESS, 0, 0, "root outside of this user namespace (root in here is not root there)"),
        (ROOTLESS, 0, 33, "user 33 in this user namespace or outside of it"),
        (ROOTLESS, 33, 0, "root in this user namespace or outside of it"),
        (ROOTLESS, 33, 33, "user 33 outside of this user namespace"),
        ("", 65534, 0, "root outside of this user namespace"),
    ],
)  # fmt: skip
def test_in_a_user_namespace(ids: str, euid: int, user_id: int, said: str, here: Here) -> None:
    """The kernel refused: so the owner is not this user, though the numbers may be the same."""
    here(ids, euid)
    line = f"/m says that only to {said}, who mounted it: run `artifactfs …` as that user"
    assert mount_owner.only_owner("/m/x", of(user_id)) == line
    assert mount_owner.only_owner("/m/x", of(user_id, allow_other=True)) == line
    assert mount_owner.only_owner_ends(of(user_id)) == f"only {said}, who mounted it, can end it"


def test_permission_to_end_a_mount(here: Here) -> None:
    """Of a user's own mount, and for root, nothing is said: there the system's words tell more."""
    here(INITIAL, 0)
    assert mount_owner.only_owner_ends(of(123456)) is None
    here(INITIAL, 123456)
    assert mount_owner.only_owner_ends(of(123456)) is None
    assert mount_owner.only_owner_ends(of(None)) is None
    assert mount_owner.only_owner_ends(of(0)) == "root has mounted it, and only root can end it"
    assert mount_owner.only_owner_ends(of(77777)) == "#77777 has mounted it, and only #77777 and root can end it"
