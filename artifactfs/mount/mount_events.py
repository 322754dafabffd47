"""What happens to a mount while it runs: it becomes ready, its keys change, and the service is there again."""

import logging

import trio

from artifactfs.control.commands import Control
from artifactfs.control.snapshot import MountComponents
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.client import ModelLab
from artifactfs.mount import components, offline
from artifactfs.mount.components import Transports
from artifactfs.mount.sd_notify import Notifier
from artifactfs.util import garbage
from artifactfs.util.clock import boottime

log = logging.getLogger(__name__)

# From the first request of the kernel to the collection of what the start has left. Arbitrary.
_SETTLE_S = 2.0


class MountEvents:
    """See the module. `mounted`, `control`: of the mount."""

    def __init__(
        self,
        mounted: MountComponents,
        control: Control,
        transports: Transports,
        notify: Notifier,
    ) -> None:
        self._mounted = mounted
        self._control = control
        self._transports = transports
        self._notify = notify

    def status(self) -> str:
        """Return the state of the mount in a sentence."""
        mounted = self._mounted
        mounted_at = f"{mounted.settings.origin} at {mounted.point}"
        state = mounted.breaker.offline
        return mounted_at if state is None else f"{mounted_at}, offline: {state.fact}"

    async def on_ready(self) -> None:
        """Do what waits until the mount answers; where it is offline, wait for the service, if that is wanted."""
        mounted, settings = self._mounted, self._mounted.settings
        mounted.nursery.start_soon(self._settle)
        if mounted.breaker.offline is not None and settings.offline == "auto":
            asking = ModelLab(self._transports.for_reconnecting(), deadline_s=min(offline.PROBE_S, settings.deadline))
            await offline.reconnect(asking, mounted.breaker, self._go_online)

    def on_keys(self, changed: Credentials) -> None:
        """Use nothing of the account before, if the new keys may be those of another."""
        mounted = self._mounted
        new = components.owner(mounted.settings, components.account_of(mounted.settings, changed))
        if new != mounted.files.owner:
            # It must not be served what the other keys have fetched (docs/semantics.md 6.3).
            log.info(
                "the new keys may be those of another account: all contents are fetched again; "
                "set `account` to keep the cache over a change of keys"
            )
            mounted.files.switch_account(new)
            mounted.tree.switch_account(new)
            self._control.switch_account()
        self._control.forget()

    async def _go_online(self) -> None:
        mounted = self._mounted
        mounted.breaker.go_online(boottime())
        mounted.tree.go_online()
        if mounted.metadata is not None:
            mounted.metadata.go_online()
        await self._control.go_online()
        self._notify.ready(self.status())

    async def _settle(self) -> None:
        # Collections stop the loop, and the first program often comes as soon as the mount is there.
        await trio.sleep(_SETTLE_S)
        garbage.settle()
        if self._mounted.metadata is not None:
            self._mounted.metadata.look_soon()
