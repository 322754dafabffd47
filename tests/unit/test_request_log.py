"""artifactfs.modellab.request_log: what a line says of a request, and what it never says (semantics.md 5.3, 6.1)."""

import contextlib
import logging

import httpx
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab import request_log
from artifactfs.modellab.auth import Credentials
from artifactfs.modellab.retry import RetryPolicy
from artifactfs.modellab.transport import Transport
from artifactfs.settings import Secret

KEYS = Credentials(Secret("api-s3cr3t"), Secret("app-s3cr3t"))
LOGGER = "artifactfs.modellab.request_log"


def said(url: str, *, to_api: bool, caplog: pytest.LogCaptureFixture) -> str:
    """Return the line of a request that has no answer."""
    with caplog.at_level(logging.DEBUG, LOGGER):
        request_log.log_request("content", httpx.URL(url), to_api=to_api, began=0.0)
    return caplog.messages[-1]


def test_links_that_may_be_signed_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """6.1: of another origin, and of our own's other paths, only the host is logged."""
    own = "https://api.test/api/v2/model-lab-api/runs/5?path=a%0A"
    assert said(own, to_api=True, caplog=caplog).startswith("GET content /runs/5?path=a%0A: ")
    for url, to_api in ((own, False), ("https://api.test/x?sig=s3cr3t", True)):
        assert said(url, to_api=to_api, caplog=caplog).startswith("GET content at api.test: ")
    assert len(said(own + "a" * 9000, to_api=True, caplog=caplog)) < 600


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ok", "200, 4 bytes"),
        ("/no", "404, 4 bytes"),
        ("/lost", "failed: the connection to api.test was lost: the other end closed it, 0 bytes"),
        ("/slow", "given up, 0 bytes"),
    ],
)
async def test_how_a_request_ended(
    path: str,
    expected: str,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    """5.3: an answer by its status, a failure by its words, a cancelled one as that."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/slow"):
            await trio.sleep_forever()
        if request.url.path.endswith("/lost"):
            raise httpx.ReadError("x")
        return httpx.Response(404 if request.url.path.endswith("/no") else 200, content=b"body")

    sender = Transport(
        "https://api.test",
        KEYS,
        clock=trio.current_time,
        transport=httpx.MockTransport(answer),
        retry_policy=RetryPolicy(max_attempts=1),
    )
    with caplog.at_level(logging.DEBUG, LOGGER), contextlib.suppress(errors.ServiceError):
        await sender.get("run", f"/api/v2/model-lab-api{path}", deadline_s=30)
    line = next(record.getMessage() for record in caplog.records if record.name == LOGGER)
    assert line.startswith(f"GET run {path}: {expected}, ")


async def test_without_v_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """5.3: without -v, no request is logged."""
    with caplog.at_level(logging.INFO, LOGGER):
        request_log.log_request("run", httpx.URL("https://api.test/x"), to_api=True, began=0.0)
    assert not caplog.records
