"""One tree over two protocols with one latency, for comparing mounts side by side.

    GET /api/v2/model-lab-api/…    the Model Lab API, in the form of the recorded answers
    PROPFIND, GET /dav/RUN/…       the same tree as WebDAV, for rclone: one request per directory, sizes included
    GET /_ctl/stats, /_ctl/reset   requests by kind, the most in flight, bytes of file contents sent, seconds in which
                                   any request was in flight, CPU seconds of this process

Not the emulator, which is slower than rclone's WebDAV. File contents are a function of the path (one mebibyte of fixed
noise, rotated), so nothing is stored. Prints its URL as JSON.
"""

import argparse
import asyncio
import contextlib
import email.utils
import hashlib
import html
import json
import os
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NOISE = b"".join(hashlib.blake2b(number.to_bytes(8, "big")).digest() for number in range(1 << 14))  # 1 MiB
CREATED_S = 1778813820  # 2026-05-15T02:57:00Z
PROJECT = 2387
API = "/api/v2/model-lab-api"
RUN_TIMES = {
    "created_at": "2026-05-15T02:54:52.684452Z",
    "started_at": "2026-05-15T02:54:52.581Z",
    "completed_at": "2026-05-15T02:57:03.079Z",
    "updated_at": "2026-05-15T02:57:03.257618Z",
}


def content(path: str, start: int, end: int) -> bytes:
    """Return bytes [start, end) of the file at `path` ("RUN/DIRECTORY/NAME")."""
    turn = int.from_bytes(hashlib.blake2b(path.encode(), digest_size=4).digest(), "big")
    offset = (start + turn) % len(NOISE)
    count = end - start
    return (NOISE * ((offset + count) // len(NOISE) + 1))[offset : offset + count]


class Tree:
    """`runs[run][directory]` is {name: size in bytes, or None for a directory}."""

    def __init__(self, spec: str) -> None:
        self.runs: dict[int, dict[str, dict[str, int | None]]] = {}
        self.paths: dict[str, str] = {}
        for part in filter(None, spec.split(",")):
            kind, *numbers = part.split(":")
            run, counts = int(numbers[0]), [int(number) for number in numbers[1:] if number.isdigit()]
            if kind == "wide":  # wide:RUN:FILES, one directory
                for number in range(counts[0]):
                    self._add(run, f"flat/f{number:07d}.bin", 1000 + number % 977)
            elif kind == "grid":  # grid:RUN:DIRECTORIES:FILES, 32 directories to a parent
                for directory in range(counts[0]):
                    for number in range(counts[1]):
                        size_bytes = 500 + (directory * 31 + number) % 4000
                        self._add(run, f"g{directory // 32:03d}/d{directory:05d}/f{number:05d}.json", size_bytes)
            elif kind == "deep":  # deep:RUN:LEVELS
                self._add(run, "/".join(f"level{level:03d}" for level in range(counts[0])) + "/leaf.txt", 12)
            elif kind == "big":  # big:RUN:MEBIBYTES
                self._add(run, "model/weights.safetensors", counts[0] << 20)
            elif kind == "disk":  # disk:RUN:PATH, a file of this machine
                self._add(run, os.path.basename(numbers[1]), os.path.getsize(numbers[1]))
                self.paths[f"{run}/{os.path.basename(numbers[1])}"] = numbers[1]
            else:
                raise SystemExit(f"unknown tree: {part}")

    def _add(self, run: int, path: str, size_bytes: int) -> None:
        directories = self.runs.setdefault(run, {"": {}})
        *parents, name = path.split("/")
        here = ""
        for parent in parents:
            directories[here][parent] = None
            here = f"{here}/{parent}" if here else parent
            directories.setdefault(here, {})
        directories[here][name] = size_bytes

    def size_bytes(self, run: int, path: str) -> int | None:
        """Return the size of a file; None for a directory, and for a path that is not there."""
        parent, _, name = path.rpartition("/")
        return self.runs.get(run, {}).get(parent, {}).get(name)


def prefix(run: int) -> str:
    """Return the run's `path_in_project`."""
    return hashlib.md5(str(run).encode(), usedforsecurity=False).hexdigest() + "/artifacts"


def missing(what: str) -> web.Response:
    """Return a 404 as Model Lab writes it."""
    return web.json_response({"errors": [{"title": "Generic Error", "detail": f"{what} not found"}]}, status=404)


class Server:
    """The handlers. `delay_s`: before each answer. `index`: whether a project's listing is served."""

    def __init__(self, tree: Tree, delay_s: float, index: bool) -> None:
        self._tree = tree
        self._delay_s = delay_s
        self._index = index
        self._by_prefix = {prefix(run): run for run in tree.runs}
        self._project_body = self._project_files() if index else b""
        self._reset()

    def app(self) -> web.Application:
        """Return the application with all routes."""
        app = web.Application()
        for path, kind, handler in (
            (API + "/runs", "runs", self._list_runs),
            (API + r"/runs/{run:\d+}", "run", self._get_run),
            (API + r"/runs/{run:\d+}/artifacts", "listing", self._list_run),
            (API + r"/projects/{project:\d+}/artifacts", "index", self._list_project),
            (API + "/artifacts/content", "content", self._get_content),
        ):
            app.router.add_get(path, self._counted(kind, handler))
        app.router.add_route("*", "/dav/{path:.*}", self._counted(None, self._dav))
        app.router.add_get("/_ctl/{what}", self._control)
        return app

    def _reset(self) -> None:
        self._requests: dict[str, int] = {}
        self._in_flight = self._peak = self._sent_bytes = 0
        self._busy_s, self._busy_since, self._cpu_since = 0.0, 0.0, time.process_time()

    def _counted(self, kind: str | None, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            name = kind or ("get" if request.method == "GET" else "propfind")
            self._requests[name] = self._requests.get(name, 0) + 1
            if not self._in_flight:
                self._busy_since = time.monotonic()
            self._in_flight += 1
            self._peak = max(self._peak, self._in_flight)
            try:
                await asyncio.sleep(self._delay_s)
                return await handler(request)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._busy_s += time.monotonic() - self._busy_since

        return handle

    async def _control(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["what"] == "reset":
            self._reset()
        requests = sum(self._requests.values())
        answer = {"count": self._requests, "requests": requests, "peak": self._peak, "bytes": self._sent_bytes}
        cpu_s = time.process_time() - self._cpu_since
        return web.json_response(answer | {"busy_s": self._busy_s, "cpu_s": cpu_s})

    # --- Model Lab -------------------------------------------------------------------------------------------

    def _run_resource(self, run: int) -> dict[str, Any]:
        attributes = {
            "name": f"run {run}",
            "description": "",
            "status": "completed",
            "project_id": PROJECT,
            **RUN_TIMES,
        }
        return {"id": str(run), "type": "runs", "attributes": attributes}

    async def _list_runs(self, request: web.Request) -> web.StreamResponse:
        runs = sorted(self._tree.runs, reverse=True)
        size = min(int(request.query.get("page[size]", 25)), 100)
        number = int(request.query.get("page[number]", 0))
        last = max(0, (len(runs) - 1) // size)
        page = {
            "type": "number_size", "number": number, "size": size, "total": len(runs), "first_number": 0,
            "prev_number": number - 1 if number else None, "next_number": number + 1 if number < last else None,
            "last_number": last,
        }  # fmt: skip
        rows = [self._run_resource(run) for run in runs[number * size :][:size]]
        return web.json_response({"data": rows, "meta": {"page": page}})

    async def _get_run(self, request: web.Request) -> web.StreamResponse:
        run = int(request.match_info["run"])
        return web.json_response({"data": self._run_resource(run)}) if run in self._tree.runs else missing("run")

    async def _list_run(self, request: web.Request) -> web.StreamResponse:
        run = int(request.match_info["run"])
        if run not in self._tree.runs:
            return missing("run")
        path = request.query.get("path", "").strip("/")
        base = path + "/" if path else ""
        files = [
            {"path": f"{base}{name}/", "is_dir": True}
            if size_bytes is None
            else {"path": base + name, "is_dir": False, "file_size": size_bytes}
            for name, size_bytes in self._tree.runs[run].get(path, {}).items()
        ]
        attributes = {"files": files, "path_in_project": prefix(run)}
        return web.json_response({"data": {"id": str(run), "type": "artifacts", "attributes": attributes}})

    async def _list_project(self, request: web.Request) -> web.StreamResponse:
        if int(request.match_info["project"]) != PROJECT or not self._index:
            return missing("project")
        return web.Response(body=self._project_body, content_type="application/json")

    def _project_files(self) -> bytes:
        """Return the body of the project's listing: made once, since no time of the server's is to be measured."""
        files = [
            {
                "filename": name,
                "artifact_path": f"{prefix(run)}/{directory + '/' if directory else ''}{name}",
                "created_at": "2026-05-15T02:57:00Z",
                "file_size": size_bytes,
            }
            for run, directories in self._tree.runs.items()
            for directory, names in directories.items()
            for name, size_bytes in names.items()
            if size_bytes is not None
        ]
        data = {"id": str(PROJECT), "type": "project_files", "attributes": {"files": files}}
        return json.dumps({"data": data}).encode()

    async def _get_content(self, request: web.Request) -> web.StreamResponse:
        match = re.fullmatch(r"([0-9a-f]{32}/artifacts)/(.+)", request.query.get("artifact_path", ""))
        run = self._by_prefix.get(match[1]) if match else None
        if match is None or run is None or request.query.get("project_id") != str(PROJECT):
            return missing("artifact")
        size_bytes = self._tree.size_bytes(run, match[2])
        if size_bytes is None:
            return missing("artifact")
        return await self._send(request, f"{run}/{match[2]}", size_bytes)

    # --- WebDAV ----------------------------------------------------------------------------------------------

    async def _dav(self, request: web.Request) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(headers={"DAV": "1", "Allow": "OPTIONS,GET,HEAD,PROPFIND"})
        path = request.match_info["path"].strip("/")
        run, _, rest = path.partition("/")
        directories: dict[str, dict[str, int | None]] | None = {"": dict.fromkeys(map(str, self._tree.runs))}
        if path:
            directories = self._tree.runs.get(int(run) if run.isdigit() else -1)
        if directories is None:
            return web.Response(status=404)
        size_bytes = None if rest in directories else self._tree.size_bytes(int(run), rest)
        if rest not in directories and size_bytes is None:
            return web.Response(status=404)
        if request.method in ("GET", "HEAD"):
            return await self._send(request, path, size_bytes or 0)
        base = "/dav/" + (path + "/" if path else "")
        answers = [_dav_entry(base if size_bytes is None else base.rstrip("/"), size_bytes)]
        if size_bytes is None and request.headers.get("Depth") != "0":
            answers += [
                _dav_entry(base + name + ("/" if size is None else ""), size)
                for name, size in directories[rest].items()
            ]
        body = '<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">' + "".join(answers) + "</D:multistatus>"
        return web.Response(status=207, text=body, content_type="application/xml")

    def _content(self, path: str, start: int, end: int) -> bytes:
        if (real := self._tree.paths.get(path)) is None:
            return content(path, start, end)
        with open(real, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    # --- both ------------------------------------------------------------------------------------------------

    async def _send(self, request: web.Request, path: str, size_bytes: int) -> web.StreamResponse:
        start, end, status = 0, size_bytes, 200
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            start, status = int(wanted[1]), 206
            end = min(size_bytes, int(wanted[2]) + 1 if wanted[2] else size_bytes)
            if start >= size_bytes:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size_bytes}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        response = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(end - start)})
        await response.prepare(request)
        if request.method == "GET":
            # A mount may close the connection of a body that it no longer needs.
            with contextlib.suppress(ConnectionError):
                for offset in range(start, end, 1 << 20):
                    stop = min(end, offset + (1 << 20))
                    await response.write(self._content(path, offset, stop))
                    self._sent_bytes += stop - offset
        return response


def _dav_entry(href: str, size_bytes: int | None) -> str:
    kind = (
        "<D:resourcetype><D:collection/></D:resourcetype>"
        if size_bytes is None
        else f"<D:resourcetype/><D:getcontentlength>{size_bytes}</D:getcontentlength>"
    )
    modified = email.utils.formatdate(CREATED_S, usegmt=True)
    return (
        f"<D:response><D:href>{html.escape(urllib.parse.quote(href))}</D:href><D:propstat><D:prop>{kind}"
        f"<D:getlastmodified>{modified}</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status>"
        "</D:propstat></D:response>"
    )


async def serve(server: Server) -> None:
    """Serve on a free port of loopback, print the URL, and never return."""
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)  # noqa: T201
    await asyncio.Event().wait()


def main() -> None:
    """Read the options, and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--tree", default="grid:1002:1000:20")
    parser.add_argument("--no-index", action="store_true", help="answer 404 to the project's listing")
    options = parser.parse_args()
    asyncio.run(serve(Server(Tree(options.tree), options.delay, not options.no_index)))


if __name__ == "__main__":
    main()
