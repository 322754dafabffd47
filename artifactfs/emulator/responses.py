"""Bodies and headers that many answers share: JSON, errors in all their forms, rate limits, and answers that break off.

Owns the form of an answer on the wire, not its content.
"""

import json
from email.utils import formatdate
from typing import NoReturn

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from artifactfs.emulator.faults import RateLimit
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.model import Row

LIMIT_PER_MINUTE = 6000  # requests in X-RateLimit-Limit; never enforced: faults do that
LOGIN_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form action='/login'></form></body></html>\n"
)


class Ended(Exception):
    """The exchange is over, nothing more can be sent."""


class CutShort(Exception):
    """The body is over before its promised end: the connection must close."""


class Silence:
    """An answer that never comes. Ends when the client goes."""

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> NoReturn:
        while (await receive())["type"] != "http.disconnect":
            continue
        raise Ended


class Broken(Response):
    """An answer that promises all of its body and breaks off half-way."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> NoReturn:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body)[: len(self.body) // 2], "more_body": True})
        raise CutShort


def dumps(body: object) -> bytes:
    """Return JSON in UTF-8; ASCII with escapes where a lone surrogate leaves no other way."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


def answer(body: object, status: int = 200) -> Response:
    """Return `body` as JSON."""
    return Response(dumps(body), status, media_type="application/json")


def resource(emulator: Emulator, identity: object, kind: str, attributes: Row) -> Row:
    """Return one entry of `data`, with unknown fields where the switch asks for them."""
    data: Row = {"id": str(identity), "type": kind, "attributes": attributes}
    if emulator.switches.extra_fields:
        data["relationships"] = {"owner": {"data": None}}
        data["attributes"] = attributes | {"labels_v2": [{"any": "thing"}], "lineage": None}
    return data


def document(emulator: Emulator, data: object, **more: object) -> Response:
    """Return an answer with `data` and what else stands beside it."""
    body = {"data": data, **more}
    if emulator.switches.extra_fields:
        body["included"] = []
        body["jsonapi"] = {"version": "1.1"}
    return answer(body)


def error(emulator: Emulator, status: int, detail: str) -> Response:
    """Return an error in the form that the switch `error_form` asks for."""
    form = emulator.switches.error_form
    if form == "html":
        return Response(
            f"<html><head><title>{status}</title></head><body>{detail}</body></html>", status, media_type="text/html"
        )
    if form == "empty":
        return Response(b"", status)
    if form == "nonsense":
        return Response(b'{"errors": [{"title": 7, \xff\x00', status, media_type="application/json")
    if form == "strings" or (form == "object" and status in (401, 403, 429)):
        return answer({"errors": [detail]}, status)
    if form == "title_only":
        return answer({"errors": [{"title": detail}]}, status)
    told: Row = {"title": "Generic Error", "detail": detail}
    if status != 404:  # The recorded 404s have no status; the documented 400s and 500s do.
        told["status"] = str(status)
    return answer({"errors": [told]}, status)


def missing(emulator: Emulator, what: str) -> Response:
    """Return the recorded 404 for a run, project or artifact."""
    return error(emulator, 404, f"{what} not found")


def limited(emulator: Emulator, limit: RateLimit, status: int) -> Response:
    """Return a refusal for too many requests, with the headers that say until when."""
    detail = f"Rate limit of {limit.limit} requests in {limit.period} seconds reached. Please try again later."
    response = error(emulator, status, detail)
    headers = {"Limit": limit.limit, "Period": limit.period, "Remaining": 0, "Reset": limit.reset_s, "Name": limit.name}
    for name, value in headers.items():
        response.headers[f"X-RateLimit-{name}"] = str(value)
    return response


def date_header(emulator: Emulator) -> bytes:
    """Return the time of an answer as its Date header tells it, right or not."""
    return formatdate(emulator.clock() + emulator.switches.clock_skew_s, usegmt=True).encode()


def rate_limit_headers(emulator: Emulator) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that is let through; count it. Reset is to the end of the calendar minute."""
    minute, second = divmod(int(emulator.clock()), 60)
    used = emulator.window[1] + 1 if emulator.window[0] == minute else 1
    emulator.window = (minute, used)
    return [
        (b"x-ratelimit-limit", b"%d" % LIMIT_PER_MINUTE),
        (b"x-ratelimit-period", b"60"),
        (b"x-ratelimit-remaining", b"%d" % max(0, LIMIT_PER_MINUTE - used)),
        (b"x-ratelimit-reset", b"%d" % (60 - second)),
        (b"x-ratelimit-name", b"model_lab_api"),
    ]
