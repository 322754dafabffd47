"""What is known of Model Lab's API as a schema (model-lab.yaml), and answers held against it."""

import os
from functools import cache
from urllib.parse import urlsplit

import httpx
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse

_DOCUMENT = os.path.join(os.path.dirname(__file__), "model-lab.yaml")


@cache
def document() -> OpenAPI:
    """Return the schema; checked to be one itself."""
    return OpenAPI.from_file_path(_DOCUMENT)


def check(answer: httpx.Response) -> None:
    """Check that an answer to a request is one that the schema has. Raises openapi_core.exceptions.OpenAPIError."""
    url = urlsplit(str(answer.request.url))
    check_body(url.path, answer.content, answer.status_code, answer.headers.get("content-type", ""))


def check_body(path: str, body: bytes, status: int = 200, content_type: str = "application/json") -> None:
    """Check a body as the answer to a GET of `path`."""
    if content_type == "application/octet-stream":
        body = body or b"\0"  # openapi-core takes no bytes at all for a body that is missing
    request = MockRequest("http://127.0.0.1", "get", path)
    document().validate_response(request, MockResponse(body, status, content_type=content_type))
