"""The remote service, Datadog Model Lab: endpoints in, frozen values out. The only room that knows httpx."""

import sys

# httpx imports its own command line program, if it can, and with it rich and pygments: 60 ms and 8 MiB of each mount.
# None makes the import fail as if they were not installed.
if "httpx" not in sys.modules:
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    import httpx  # noqa: F401

    del sys.modules["httpx._main"]
