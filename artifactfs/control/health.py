"""The health of a mount: its worst trouble, the start of that, its meaning, and its fix."""

import msgspec

from artifactfs.control.status_schema import OK
from artifactfs.modellab.circuit_breaker import OfflineState

_RETRIED = "nothing now: it is retried every few seconds"
_CHECK_KEYS = "check the keys, that they are of this site (--site), and that they may read Model Lab"
_IF_SLOW = "nothing now: fresh listings show when they arrive; if it goes on, check the network and --proxy"


class HealthInputs(msgspec.Struct, frozen=True):
    """The troubles of a mount: the start of each in seconds of its clock; None if there is no such trouble.

    `denied_last`: the last request was refused, with no other failure since. `paused_s`: seconds for which the slowest
    rate limit still holds requests back. `stale_since`: the first listing that could not be fetched; `stale_served`: a
    stale listing was there; `only_slow`: none failed. `recovered_at`: the end of the last trouble. `offline`: since
    when, and why, the mount works without the service.
    """

    denied_since: float | None
    silent_since: float | None
    failing_since: float | None
    strange_since: float | None
    paused_s: float
    paused_since: float | None
    stale_since: float | None
    recovered_at: float
    stale_served: bool = False
    only_slow: bool = False
    denied_last: bool = False
    offline: OfflineState | None = None


def health_of(inputs: HealthInputs, origin: str) -> tuple[str, float, str, str]:
    """Return the state of the worst trouble, its start in seconds, its meaning, and its fix."""
    if (offline := inputs.offline) is not None:
        return "offline", offline.since, f"{offline.fact}; what was stored is shown", offline.fix
    if inputs.denied_since is not None and inputs.denied_last:
        return "keys_rejected", inputs.denied_since, f"{origin} refused these keys at the last request", _CHECK_KEYS
    if inputs.silent_since is not None:
        fact = f"{origin} does not answer; cached listings and contents are served"
        return "not_answering", inputs.silent_since, fact, f"check the network and --proxy; {_RETRIED}"
    if inputs.failing_since is not None:
        fact = f"{origin} cannot be reached, or fails every request; cached listings and contents are served"
        return "failing", inputs.failing_since, fact, f"see the last error; {_RETRIED}"
    if inputs.strange_since is not None:
        fact = f"the server at {origin} is not Model Lab (a proxy's page?); cached listings are served while fresh"
        return "failing", inputs.strange_since, fact, "see the last error; check the network, --proxy and --api-url"
    if inputs.paused_since is not None:
        fact = f"the rate limit of these keys is used up for {inputs.paused_s:.0f} s more"
        fix = "wait for the reset; other tools with these keys use up the same limit"
        return "rate_limited", inputs.paused_since, fact, fix
    if inputs.stale_since is not None:
        if inputs.only_slow:
            fact = f"stale listings are served: {origin} takes longer to list than a lookup waits"
            return "degraded", inputs.stale_since, fact, _IF_SLOW
        served = "stale listings are served" if inputs.stale_served else "there is no stale listing to serve"
        return "degraded", inputs.stale_since, f"{origin} failed to list; {served}", f"see the last error; {_RETRIED}"
    if inputs.denied_since is not None:
        # The failures since then do not say whether the service accepts the keys.
        fact = f"{origin} refused these keys, and has not accepted them since"
        return "keys_rejected", inputs.denied_since, fact, _CHECK_KEYS
    return OK, inputs.recovered_at, "the service answered the last request", ""
