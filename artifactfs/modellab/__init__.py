"""The remote service, Datadog Model Lab: endpoints in, frozen values out. The only room that knows httpx."""

import sys

# httpx imports its own command line program, if it can, and with it rich and pygments: 60 ms and 8 MiB of each mount.
# None makes the import fail as if they were not installed.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
