"""Bodies of a project's listing."""

import json

CREATED_AT, CREATED_NS = "2026-05-16T08:30:00Z", 1_778_920_200 * 10**9


def body(files: object, **attributes: object) -> bytes:
    """Return the body of a project's listing."""
    return json.dumps({"data": {"id": "1", "type": "x", "attributes": {"files": files} | attributes}}).encode()


def row(path: object = "a/f", **more: object) -> dict[str, object]:
    told = {"filename": "f", "artifact_path": path, "created_at": CREATED_AT, "file_size": 5}
    return told | more
