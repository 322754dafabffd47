"""The layers of the code (architecture.md, "Rooms"): who imports whom, read with `ast`. New modules count by room."""

import ast
import functools
from collections.abc import Iterator

import pytest

from tests.parsed import PACKAGE, modules

# From the bottom up; a room imports rooms with a lower number, and itself. A module of the package's top that is not
# named here (cachecli, say) is a command's and belongs to the top.
LAYER = {
    "errors": 0, "util": 1, "logs": 2, "domain": 3, "pins": 3,
    "settings": 3, "modellab": 4, "metadata": 4, "tree": 5, "content": 5,
    "fuse": 6, "control": 7, "mount": 8,
}  # fmt: skip
TOP = 9
# Who may know which library: the rest hears of it from them.
KNOWS = {
    "httpx": {"modellab"},
    "httpcore": {"modellab"},
    "h11": {"modellab"},
    "pyfuse3": {"fuse", "mount"},
    "starlette": {"emulator"},
    "uvicorn": {"emulator"},
}
# Every room may import it, and it imports none: the version.
NEUTRAL = {"__init__"}


def room(module: str) -> str:
    """Return the room of a module: its directory, or itself at the package's top."""
    return module.split(".")[1] if "." in module else "__init__"


def layer(name: str) -> int:
    return LAYER.get(name, TOP)


def imports(name: str, tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, imported module, whether when the module itself is imported) of every import in a module."""

    def walk(node: ast.AST, at_top: bool) -> Iterator[tuple[int, str, bool]]:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.Import):
                for alias in inner.names:
                    yield inner.lineno, alias.name, at_top
            elif isinstance(inner, ast.ImportFrom):
                assert inner.level == 0, f"{name}:{inner.lineno}: imports are absolute here"
                for alias in inner.names:
                    # `from artifactfs import errors` names a module, `from artifactfs.errors import X` does not; either
                    # way the room is the second part.
                    yield inner.lineno, f"{inner.module}.{alias.name}", at_top
            else:
                function = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(inner, at_top and not function)

    yield from walk(tree, True)


@functools.cache
def all_imports() -> list[tuple[str, int, str, bool]]:
    """Return (module, line, imported module, at top) of every import."""
    return [(module.name, *found) for module in modules() for found in imports(module.name, module.tree)]


@functools.cache
def ours() -> list[tuple[str, int, str, str, bool]]:
    """Return (module, line, its room, the room imported, at top) of every import within the package."""
    found = []
    tops = {room(module.name) for module in modules()}
    for name, line, imported, at_top in all_imports():
        if imported.split(".")[0] == PACKAGE.name:
            target = room(imported)
            found.append((name, line, room(name), target if target in tops else "__init__", at_top))
    return found


def test_the_package_was_found() -> None:
    """The tests below look at something: the rooms that must be there are, and imports are seen."""
    rooms = {room(module.name) for module in modules()}
    assert rooms >= {"cli", "mount", "fuse", "tree", "modellab", "settings", "errors", "logs", "emulator", "__init__"}
    edges = {(source, target) for _, _, source, target, _ in ours()}
    assert {("tree", "domain"), ("fuse", "tree"), ("mount", "fuse"), ("modellab", "errors")} <= edges


def test_arrows_point_down() -> None:
    """cli → mount → fuse → {tree, content}, modellab → settings → {errors, logs, clock, …}: no other way."""
    wrong = [
        f"{name}:{line}: {source} imports {target}"
        for name, line, source, target, _ in ours()
        if "emulator" not in (source, target)
        and target not in NEUTRAL
        and source != target
        and not (layer(target) < layer(source) or layer(source) == layer(target) == TOP)
    ]
    assert not wrong


def test_tree_and_content_do_not_know_each_other() -> None:
    """What exists and what is in it are two rooms, which fuse brings together."""
    wrong = [
        f"{name}:{line}"
        for name, line, source, target, _ in ours()
        if source != target and {source, target} == {"tree", "content"}
    ]
    assert not wrong


@pytest.mark.parametrize("room_above", ["tree", "content"])
def test_tree_and_content_do_not_know_the_service(room_above: str) -> None:
    """They know the service by a Protocol, its values by domain, its policy of retries by arguments."""
    wrong = [
        f"{name}:{line}" for name, line, source, target, _ in ours() if (source, target) == (room_above, "modellab")
    ]
    assert not wrong


@pytest.mark.parametrize("library", sorted(KNOWS))
def test_rooms_that_import_a_library(library: str) -> None:
    """Only modellab knows httpx, only fuse and mount know pyfuse3, only the emulator knows its server."""
    who = {room(name) for name, _, imported, _ in all_imports() if imported.split(".")[0] == library}
    assert who, f"no room imports {library}: has this test lost sight of it?"
    assert who <= KNOWS[library]


def test_the_emulator_stands_alone() -> None:
    """It imports nothing else of artifactfs: a fake built on our own parser would share its mistakes."""
    wrong = [
        f"{name}:{line}: imports {target}"
        for name, line, source, target, _ in ours()
        if source == "emulator" and target != "emulator"
    ]
    assert not wrong


def test_nothing_needs_the_emulator() -> None:
    """Nothing else imports it when it is itself imported: its libraries are an extra."""
    wrong = [
        f"{name}:{line}"
        for name, line, source, target, at_top in ours()
        if target == "emulator" and source != "emulator" and at_top
    ]
    assert not wrong


def test_only_the_settings_read_the_environment() -> None:
    """os.environ and os.getenv are the settings' alone; `os.environ` handed on whole to a child process counts too."""
    wrong = []
    seen = False
    for module in modules():
        for node in module.nodes:
            attribute = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb")
            imported = (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and any(alias.name in ("environ", "environb", "getenv", "getenvb") for alias in node.names)
            )
            if not isinstance(node, ast.expr | ast.stmt) or not (attribute or imported):
                continue
            if room(module.name) == "settings":
                seen = True
            elif room(module.name) != "emulator":
                wrong.append(f"{module.name}:{node.lineno}")
    assert seen
    assert not wrong


def test_the_standard_library_does_not_reach_the_network() -> None:
    """6.1: keys go out through modellab's one transport: nothing else opens connections or follows redirects."""
    doors = {"urllib.request", "http.client", "requests", "aiohttp", "urllib3"}
    wrong = [
        f"{name}:{line}: {imported}"
        for name, line, imported, _ in all_imports()
        if any(imported == door or imported.startswith(door + ".") for door in doors)
    ]
    assert not wrong
