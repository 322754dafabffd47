"""The control plane, `/_emulator/...`: what a test asks and tells the emulator while it serves.

Owns the JSON of these requests. They want no keys, are never counted, delayed or made to fail, and no part of the API.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from artifactfs.emulator.artifact_tree import CREATED_AT, LabError, MemoryTree
from artifactfs.emulator.faults import FaultError, Script
from artifactfs.emulator.lab_state import Emulator
from artifactfs.emulator.live import Live, LiveError
from artifactfs.emulator.model import GENERATED_PROJECT, Project, Row, Run, project_attributes
from artifactfs.emulator.responses import answer
from artifactfs.emulator.switches import SwitchError

DELETED_AT = "2026-05-17T00:00:00Z"

Asked: TypeAlias = Callable[[Emulator, Request], Awaitable[Response]]


class BadOrder(ValueError):
    """A control request that makes no sense: the sentence says why."""


def routes(emulator: Emulator) -> list[Route]:
    """Return the routes of the control plane."""
    plan: list[tuple[str, str, Asked]] = [
        ("GET", "stats", stats),
        ("GET", "switches", switches),
        ("GET", "tree", tree),
        ("GET", "sha256", sha256),
        ("POST", "reset", reset),
        ("POST", "switches", set_switches),
        ("POST", "faults", set_faults),
        ("POST", "keys", set_keys),
        ("POST", "live", set_live),
        ("POST", "files", change_files),
        ("POST", "runs", change_run),
        ("POST", "projects", change_project),
        ("POST", "crowd", crowd),
    ]
    known = [Route(f"/_emulator/{name}", _guarded(emulator, asked), methods=[method]) for method, name, asked in plan]
    return [*known, Route("/_emulator/{name:path}", _guarded(emulator, unknown), methods=["GET", "POST"])]


def _guarded(emulator: Emulator, asked: Asked) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        # Whole before it is answered, needed or not: a connection that is closed before its request has arrived is
        # reset, answer and all.
        await request.body()
        try:
            return await asked(emulator, request)
        except (BadOrder, FaultError, LabError, LiveError, SwitchError) as problem:
            return answer({"error": str(problem)}, 400)

    return endpoint


async def unknown(_emulator: Emulator, request: Request) -> Response:
    """Answer that there is no such order."""
    raise BadOrder(f"no {request.method} {request.path_params['name']} here")


async def stats(emulator: Emulator, _request: Request) -> Response:
    """Answer with what was asked so far."""
    return answer(emulator.stats.told())


async def reset(emulator: Emulator, _request: Request) -> Response:
    """Forget what was asked so far, and answer with it: so requests are counted in portions, each once."""
    forgotten = emulator.stats.told()
    emulator.stats.reset()
    return answer(forgotten)


async def switches(emulator: Emulator, _request: Request) -> Response:
    """Answer with all switches."""
    return answer(vars(emulator.switches))


async def set_switches(emulator: Emulator, request: Request) -> Response:
    """Set the switches that the body names, and answer with all of them."""
    emulator.switches = emulator.switches.changed(await _object(request))
    return answer(vars(emulator.switches))


async def set_faults(emulator: Emulator, request: Request) -> Response:
    """Replace the fault script by the body's list."""
    emulator.script = Script.parse(await _json(request))
    return answer({})


async def set_live(emulator: Emulator, request: Request) -> Response:
    """Replace the live script by the body's list; its times count from now."""
    emulator.live = Live.parse(await _json(request), emulator.clock())
    return answer({})


async def set_keys(emulator: Emulator, request: Request) -> Response:
    """Let in other keys from now on, those that the body names, and no longer the ones before."""
    order = await _object(request)
    known = {field.name for field in dataclasses.fields(emulator.keys)}
    if unknown := sorted(set(order) - known):
        raise BadOrder(f"no key {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    if not all(isinstance(key, str) and key.isascii() and key for key in order.values()):
        raise BadOrder("a key is a string")
    emulator.keys = dataclasses.replace(emulator.keys, **{name: str(key) for name, key in order.items()})
    return answer({})


async def tree(emulator: Emulator, request: Request) -> Response:
    """Answer with a run's truth: {path: bytes, or null for a directory}."""
    run = _run(emulator, request.query_params.get("run"))
    return answer({path: None if file is None else file.size for path, file in run.tree.walk("")})


async def sha256(emulator: Emulator, request: Request) -> Response:
    """Answer with the SHA-256 (hex) and the size of a file's true content."""
    run = _run(emulator, request.query_params.get("run"))
    path = request.query_params.get("path", "")
    file = run.tree.find(path)
    if file is None:
        raise BadOrder(f"no file at {path!r}")
    found = file

    def digest() -> str:
        total = hashlib.sha256()
        for piece in run.tree.read(path, found, 0, found.size):
            total.update(piece)
        return total.hexdigest()

    return answer({"sha256": await anyio.to_thread.run_sync(digest), "size": found.size})


async def change_files(emulator: Emulator, request: Request) -> Response:
    """Change a run's tree; the run is made if there is none. All that the body names, in the order of `_CHANGES`."""
    order = await _object(request)
    if unknown := sorted(set(order) - set(_CHANGES) - {"run", "project", "file", "size", "created_at"}):
        raise BadOrder(f"cannot {unknown[0]!r}; there are: {', '.join(_CHANGES)}, file")
    run = _found_or_made(emulator, order)
    if not isinstance(run.tree, MemoryTree):
        raise BadOrder(f"run {run.id} is a directory on the disk: change it there")
    for name, change in _CHANGES.items():
        if name in order:
            change(run.tree, order[name])
    if "file" in order:
        facts = {name: order[name] for name in ("size", "created_at") if name in order}
        _add(run.tree, {str(order["file"]): facts})
    return answer({"run": run.id, "project": run.project, "path_in_project": run.prefix})


async def change_run(emulator: Emulator, request: Request) -> Response:
    """Create a run or change its attributes: `set`, `unset`, `delete` (softly), `remove` (never was)."""
    order = await _object(request)
    if unknown := sorted(set(order) - {"run", "project", "set", "unset", "delete", "remove", "parent"}):
        raise BadOrder(f"no field {unknown[0]!r}; there are: run, project, parent, set, unset, delete, remove")
    if order.get("remove"):
        emulator.lab.forget(_integer(order.get("run"), "run"))
        return answer({})
    run = _found_or_made(emulator, order)
    changes = _mapping(order.get("set", {}), "set")
    run.tell(dict(changes))
    if order.get("delete"):
        run.attributes["deleted_at"] = DELETED_AT
    if order.get("parent") is not None:
        run.parent = _integer(order["parent"], "parent")
    for name in _names(order.get("unset", []), "unset"):
        run.attributes.pop(name, None)
    return answer({"run": run.id, "project": run.project, "path_in_project": run.prefix, "attributes": run.attributes})


async def change_project(emulator: Emulator, request: Request) -> Response:
    """Create a project or change its attributes: `set`, `delete` (softly)."""
    order = await _object(request)
    if unknown := sorted(set(order) - {"project", "set", "delete"}):
        raise BadOrder(f"no field {unknown[0]!r}; there are: project, set, delete")
    project_id = _integer(order.get("project"), "project")
    project = emulator.lab.project(project_id)
    if project is None:
        project = Project(project_id, project_attributes(project_id))
        emulator.lab.add_project(project)
    project.attributes.update(_mapping(order.get("set", {}), "set"))
    if order.get("delete"):
        project.attributes["deleted_at"] = DELETED_AT
    return answer({"project": project_id, "attributes": project.attributes})


async def crowd(emulator: Emulator, request: Request) -> Response:
    """Make as many empty runs in as many projects, numbered from `first` on: an organisation of a real size."""
    order = await _object(request)
    first, runs, projects = (_integer(order.get(name), name) for name in ("first", "runs", "projects"))
    for number in range(projects):
        emulator.lab.add_project(Project(first + number, project_attributes(first + number)))
    for number in range(runs):
        emulator.lab.create(first + number, first + number % max(projects, 1))
    return answer({})


def _add(tree: MemoryTree, files: object) -> None:
    for path, facts in _mapping(files, "add").items():
        values = {"size": facts} if isinstance(facts, int) else _mapping(facts, "add")
        tree.add(path, _size(values.get("size", 0)), _time(values.get("created_at")) or CREATED_AT, _content(values))


def _change(tree: MemoryTree, files: object) -> None:
    for path, facts in _mapping(files, "change").items():
        values = _mapping(facts, "change")
        size = _size(values["size"]) if "size" in values else None
        tree.change(path, size, _time(values.get("created_at")), _content(values))


def _append(tree: MemoryTree, files: object) -> None:
    for path, more in _mapping(files, "append").items():
        tree.append(path, more.encode() if isinstance(more, str) else _bytes(more) or _size(more))


def _truncate(tree: MemoryTree, files: object) -> None:
    for path, size in _mapping(files, "truncate").items():
        tree.truncate(path, _size(size))


def _touch(tree: MemoryTree, files: object) -> None:
    for path, time in _mapping(files, "touch").items():
        tree.touch(path, _time(time) or CREATED_AT)


def _rename(tree: MemoryTree, names: object) -> None:
    for old, new in _mapping(names, "rename").items():
        tree.rename(old, str(new))


def _remove(tree: MemoryTree, paths: object) -> None:
    for path in _names(paths, "remove"):
        tree.remove(path)


def _mkdir(tree: MemoryTree, paths: object) -> None:
    for path in _names(paths, "mkdir"):
        tree.mkdir(path)


def _grid(tree: MemoryTree, shape: object) -> None:
    values = _mapping(shape, "grid")
    tree.grid(_integer(values.get("dirs"), "grid.dirs"), _integer(values.get("files"), "grid.files"))


def _wide(tree: MemoryTree, count: object) -> None:
    tree.wide(_integer(count, "wide"))


_CHANGES: dict[str, Callable[[MemoryTree, object], None]] = {
    "remove": _remove,
    "rename": _rename,
    "mkdir": _mkdir,
    "add": _add,
    "change": _change,
    "append": _append,
    "truncate": _truncate,
    "touch": _touch,
    "grid": _grid,
    "wide": _wide,
}


def _found_or_made(emulator: Emulator, order: Row) -> Run:
    run_id = _integer(order.get("run"), "run")
    emulator.catch_up()
    found = emulator.lab.run(run_id)
    return found or emulator.lab.create(run_id, _integer(order.get("project", GENERATED_PROJECT), "project"))


def _run(emulator: Emulator, text: str | None) -> Run:
    emulator.catch_up()
    run = emulator.lab.run(int(text)) if text and text.isdecimal() else None
    if run is None:
        raise BadOrder(f"no run {text!r}")
    return run


async def _json(request: Request) -> object:
    try:
        body: object = json.loads(await request.body())
    except ValueError as problem:
        raise BadOrder(f"the body is not JSON: {problem}") from problem
    return body


async def _object(request: Request) -> Row:
    return dict(_mapping(await _json(request), "the body"))


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadOrder(f"{name} is an object, not {value!r}")
    return value


def _names(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadOrder(f"{name} is a list of strings, not {value!r}")
    return value


def _integer(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadOrder(f"{name} is a number from 0, not {value!r}")
    return value


def _size(value: object) -> int:
    return _integer(value, "a size")


def _time(value: object) -> str | None:
    return None if value is None else str(value)


def _content(values: Mapping[str, object]) -> bytes | None:
    return str(values["text"]).encode() if "text" in values else _bytes(values)


def _bytes(value: object) -> bytes | None:
    """Return what `{"base64": …}` holds; None for anything else."""
    if not isinstance(value, dict) or "base64" not in value:
        return None
    try:
        return base64.b64decode(str(value["base64"]), validate=True)
    except ValueError as problem:
        raise BadOrder(f"base64 is not that: {problem}") from problem
