"""Transports over a network of scripted answers."""

from collections.abc import Awaitable, Callable, Iterable

import httpx
import trio

from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.size_limits import DEFAULTS, SizeLimits
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret
from artifactfs.util.backoff import backoff_s
from tests.fakes import TurnedClock

KEYS = Credentials(Secret("api-s3cr3t"), Secret("app-s3cr3t"))
Answer = httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]


# As long as the policy allows, so that times are exact.
LONGEST_BACKOFF = RetryPolicy(backoff_s=lambda attempt: backoff_s(attempt, lambda _low, high: high))


class Network:
    """Answers requests from a list, the last one for ever, and keeps what was sent."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(trio.current_time())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return await answer(request)


class AppWire(httpx.ASGITransport):
    """An application without a network; as a server does, it marks the end of a body whose length no header tells."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if "content-length" not in response.headers:
            response.headers["transfer-encoding"] = "chunked"
        return response


def connect(*answers: Answer, url: str = "https://api.test", sizes: SizeLimits = DEFAULTS) -> tuple[Transport, Network]:
    network = Network(answers)
    sender = Transport(
        url,
        KEYS,
        clock=TurnedClock(),
        wall_clock=lambda: 1_778_922_000.0,
        transport=httpx.MockTransport(network),
        retry_policy=LONGEST_BACKOFF,
        sizes=sizes,
    )
    return sender, network


def limited(reset_s: int, name: str = "lab", **more: str) -> httpx.Response:
    headers = {"X-RateLimit-Reset": str(reset_s), "X-RateLimit-Name": name}
    return httpx.Response(429, headers=headers | more, json={"errors": ["Too many requests"]})


OK = httpx.Response(200, content=b"body")
# httpx leaves its generators to the collector where a body is not read to its end (httpx/_models.py, aiter_bytes).
ABANDONED = "ignore:Async generator:ResourceWarning"
