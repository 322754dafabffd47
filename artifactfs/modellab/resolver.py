"""Host names while no thread can be started: names are resolved in a thread, and the last addresses are cached.

Without the cache, reads that need a new connection fail for as long as the user's limit on processes is reached
(docs/semantics.md 5.5).
"""

import socket
from typing import Any

import cachetools
import trio

from artifactfs.errors import NoThread
from artifactfs.util import threads

# Names: the API's, a proxy's, and those of redirects for contents.
_REMEMBERED = 64


class Resolver(trio.abc.HostnameResolver):
    """The system's resolver, in a thread; where none can be started, its last answer."""

    def __init__(self) -> None:
        self._known: cachetools.LRUCache[tuple[Any, ...], list[Any]] = cachetools.LRUCache(_REMEMBERED)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002, as the interface has it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return the addresses of a name. Raises OSError; from NoThread where no thread can be started."""
        query = (host, port, family, type, proto, flags)
        try:
            found = await threads.run(socket.getaddrinfo, *query, abandon_on_cancel=True)
        except NoThread as error:
            if query not in self._known:
                raise OSError(str(error)) from error
            return self._known[query]
        self._known[query] = found
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Return the name of an address."""
        return await threads.run(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)


def install() -> None:
    """Resolve all names of this run of trio so, unless a custom resolver is there already."""
    before = trio.socket.set_custom_hostname_resolver(Resolver())
    if before is not None:
        trio.socket.set_custom_hostname_resolver(before)
