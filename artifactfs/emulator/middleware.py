"""What every request passes: the count, the faults, the latency, the method, the keys; and every answer: headers, cuts.

Owns the order of these. Runs under asyncio and trio alike; what needs the socket goes through the wire (see wire.py)
that uvicorn's protocol lends. In process there is no socket: a cut body just ends early, and a reset or an end
before any answer is an exception (ConnectionResetError, ConnectionAbortedError).
"""

import hmac
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn, Protocol, TypeAlias

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artifactfs.emulator.artifact_tree import LabError
from artifactfs.emulator.faults import Then
from artifactfs.emulator.lab_state import Emulator, Entry
from artifactfs.emulator.responses import (
    LOGIN_PAGE,
    CutShort,
    Ended,
    Silence,
    date_header,
    error,
    limited,
    rate_limit_headers,
)

Handler: TypeAlias = Callable[[Emulator, Request], Awaitable[ASGIApp]]

EXTENSION = "artifactfs.wire"  # where wire.py leaves the connection in the ASGI scope


class Connection(Protocol):
    """The socket below a request."""

    @property
    def gone(self) -> bool: ...

    def close(self) -> None:
        """Close in order, after what was sent."""

    async def reset(self) -> None:
        """Send what was sent, then RST."""


def connection(scope: Scope) -> Connection | None:
    """Return the socket below a request, None in process."""
    found: Connection | None = scope.get("extensions", {}).get(EXTENSION)
    return found


class Gate:
    """One endpoint behind all that every request passes. `open_to_all`: no keys are asked for."""

    def __init__(self, emulator: Emulator, kind: str, handler: Handler, open_to_all: bool = False) -> None:
        self._emulator = emulator
        self._kind = kind
        self._handler = handler
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        entry = _entry(self._kind, request)
        with self._emulator.stats.request(entry):
            query = entry.query
            then = self._emulator.script.next(self._kind, request.url.path, query) or Then()
            outlet = Outlet(self._emulator, entry, then, scope, receive, send)
            with suppress(Ended):
                try:
                    await self._exchange(request, then, outlet)
                except CutShort:
                    await outlet.cut()

    async def _exchange(self, request: Request, then: Then, outlet: "Outlet") -> None:
        if then.delay_s:
            await anyio.sleep(then.delay_s)
        if then.stall:
            await Silence()(request.scope, request.receive, outlet)
        if then.cut_after == -1:
            await outlet.cut()
            return
        if then.reset_after == 0:
            await outlet.reset()
        if self._emulator.switches.latency_s:
            await anyio.sleep(self._emulator.switches.latency_s)
        response = self._played(then) or self._refused(request) or await self._handled(request)
        await response(request.scope, request.receive, outlet)

    async def _handled(self, request: Request) -> ASGIApp:
        try:
            self._emulator.catch_up()
        except LabError as problem:
            return error(self._emulator, 500, f"the live script: {problem}")
        return await self._handler(self._emulator, request)

    def _played(self, then: Then) -> Response | None:
        """Return the answer that a fault has of its own."""
        if not then.answers:
            return None
        if then.rate_limit:
            return limited(self._emulator, then.rate_limit, then.status or 429)
        if then.html:
            return Response(LOGIN_PAGE, then.status or 200, media_type="text/html")
        if then.body is not None:
            return Response(then.body, then.status or 200, media_type="application/json")
        return error(self._emulator, then.status or 200, "a fault that the script asked for")

    def _refused(self, request: Request) -> Response | None:
        if request.method != "GET":
            return error(self._emulator, 405, f"{request.method} is not allowed here")
        if not self._open_to_all and not self._let_in(request.headers):
            status = int(self._emulator.switches.keys_refused)
            return error(self._emulator, status, "Forbidden" if status == 403 else "Unauthorized")
        return None

    def _let_in(self, headers: Headers) -> bool:
        keys = self._emulator.keys
        if token := headers.get("authorization"):
            return _same(token, f"Bearer {keys.access_token}")
        return _same(headers.get("dd-api-key", ""), keys.api_key) and _same(
            headers.get("dd-application-key", ""), keys.app_key
        )


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())


def _entry(kind: str, request: Request) -> Entry:
    headers = request.headers
    return Entry(
        kind=kind,
        method=request.method,
        host=headers.get("host", ""),
        path=request.url.path,
        query=request.scope["query_string"].decode("latin-1"),
        args=dict(request.query_params),
        range=headers.get("range"),
        keys=any(name in headers for name in ("dd-api-key", "dd-application-key", "authorization")),
    )


class Outlet:
    """The way out of an answer: adds headers, counts, and breaks off where the fault says so."""

    def __init__(
        self, emulator: Emulator, entry: Entry, then: Then, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._emulator = emulator
        self._entry = entry
        self._then = then
        self._connection = connection(scope)
        self._receive = receive
        self._send = send
        limits = [at for at in (then.cut_after, then.reset_after, then.stall_after) if at is not None]
        self._limit = min(limits, default=None)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._entry.status = message["status"]
            await self._send({**message, "headers": self._headers(message["headers"])})
            return
        body = message.get("body", b"")
        if self._limit is None or self._entry.sent + len(body) <= self._limit:
            await self._pass(message, len(body))
            return
        allowed = self._limit - self._entry.sent
        if allowed:
            await self._pass({"type": "http.response.body", "body": body[:allowed], "more_body": True}, allowed)
        if self._limit == self._then.stall_after:
            await Silence()({}, self._receive, self)
        if self._limit == self._then.reset_after:
            await self.reset()
        raise CutShort

    async def _pass(self, message: Message, count: int) -> None:
        if self._connection is not None and self._connection.gone:
            await self._gone()  # uvicorn would swallow the rest without a word.
        await self._send(message)
        self._emulator.stats.sent(self._entry, count)

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        added = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self._then.headers.items()
        ]
        names = {name for name, _ in added}
        kept = [header for header in headers if header[0] not in names]
        limited_already = any(name == b"x-ratelimit-limit" for name, _ in kept + added)
        if b"date" not in names:
            kept.append((b"date", date_header(self._emulator)))
        wanted = self._emulator.switches.rate_limit_headers and self._entry.kind != "storage"
        if wanted and not limited_already:
            kept += rate_limit_headers(self._emulator)
        return kept + added

    async def cut(self) -> None:
        """End the connection in order. Raises ConnectionAbortedError in process if no answer began."""
        if self._connection is not None:
            self._connection.close()
            await self._gone()
        if self._entry.status is None:
            raise ConnectionAbortedError("closed before any answer")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def reset(self) -> NoReturn:
        """End the connection with RST. Raises ConnectionResetError in process."""
        if self._connection is None:
            raise ConnectionResetError("reset by the fault script")
        await self._connection.reset()
        await self._gone()

    async def _gone(self) -> NoReturn:
        # uvicorn takes an unfinished answer for a bug unless it has seen the connection go.
        await Silence()({}, self._receive, self)
