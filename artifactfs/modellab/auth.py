"""Credentials, and the one origin that they may go to (semantics 6.1)."""

from dataclasses import dataclass

from artifactfs.settings import Secret


@dataclass(frozen=True)
class Credentials:
    """Either a pair of keys or an access token. Which reaches Model Lab is for the server to say."""

    api_key: Secret | None = None
    app_key: Secret | None = None
    access_token: Secret | None = None

    def secrets(self) -> list[str]:
        """Return every secret in the clear, the longest first: to blot them out where a server repeats them."""
        found = [s.reveal() for s in (self.api_key, self.app_key, self.access_token) if s is not None]
        return sorted(found, key=len, reverse=True)

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request to the configured API origin, and to no other."""
        if self.access_token is not None:
            return {"Authorization": f"Bearer {self.access_token.reveal()}"}
        found = {"DD-API-KEY": self.api_key, "DD-APPLICATION-KEY": self.app_key}
        return {name: key.reveal() for name, key in found.items() if key is not None}
