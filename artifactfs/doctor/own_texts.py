"""The texts that artifactfs itself writes, read from its own source: the fixed parts of its messages.

A message is a template with holes: `f"run {run_id} cannot be listed: {error}"`. A bundle shows the fixed parts, which
hold nothing of a user; redaction.py replaces the contents of the holes.
"""

import ast
import builtins
import errno
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from artifactfs import errors

_PACKAGE = Path(__file__).parents[1]
# The sample of the emulator has names of runs.
_LEFT_OUT = "emulator"
# A template has two words side by side, and this many letters: a shorter one may as well be a name. Arbitrary.
_TWO_WORDS = re.compile(r"[A-Za-z]+ [a-z]+")
_LETTERS = 8
_MAX_LENGTH = 300
_PERCENT_HOLE = re.compile(r"%(?:\([a-z_]+\))?[-#0-9.+ ]*[a-zA-Z]")
# Texts of the libraries below.
_OF_LIBRARIES = (
    "All connection attempts failed",
    "Name or service not known",
    "Temporary failure in name resolution",
    "No address associated with hostname",
    "certificate verify failed",
    "self-signed certificate",
    "unable to get local issuer certificate",
    "certificate has expired",
    "certificate is not yet valid",
    "Hostname mismatch",
    "Server disconnected without sending a response",
)

# The fixed parts of a message, in their order; between two of them is a hole.
Template = tuple[str, ...]


@functools.cache
def modules() -> frozenset[str]:
    """Return the names of artifactfs' modules: `artifactfs.tree.tree`."""
    return frozenset(map(_name, _PACKAGE.rglob("*.py")))


@functools.cache
def exceptions() -> frozenset[str]:
    """Return the names of Python's exceptions and of artifactfs' own."""
    known = {**vars(builtins), **vars(errors)}
    return frozenset(name for name, value in known.items() if isinstance(value, type) and issubclass(value, Exception))


@functools.cache
def paths() -> frozenset[str]:
    """Return the paths of the system that artifactfs' source names: `/dev/fuse`."""
    strings = (part for texts in _by_module().values() for parts in texts for part in parts)
    return frozenset(text for text in strings if re.fullmatch(r"/(?:dev|etc|proc|run|usr)/[a-z0-9./_-]+", text))


@functools.cache
def templates() -> tuple[Template, ...]:
    """Return the templates of all messages, the longest first: of two that fit, the first says more."""
    found: set[Template] = {(text,) for text in _OF_LIBRARIES} | {(os.strerror(number),) for number in errno.errorcode}
    found.update(parts for texts in _by_module().values() for parts in texts if _says_something(parts))
    return tuple(sorted(found, key=lambda parts: (-sum(map(len, parts)), parts)))


@functools.cache
def templates_of(source: str) -> tuple[Template, ...]:
    """Return the templates of a module or package, also those that say little: for a text that comes from there.

    Those with the most holes come first: such a one is a whole message.
    """
    texts = (texts for name, texts in _by_module().items() if f"{name}.".startswith(f"{source}."))
    found = {parts for each in texts for parts in each if _has_holes(parts)}
    return tuple(sorted(found, key=lambda parts: (-len(parts), -sum(map(len, parts)), parts)))


@functools.cache
def _by_module() -> dict[str, frozenset[Template]]:
    sources = (path for path in _PACKAGE.rglob("*.py") if path.relative_to(_PACKAGE).parts[0] != _LEFT_OUT)
    return {_name(path): frozenset(_of_module(_parsed(path))) for path in sources}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_bytes())


def _of_module(tree: ast.AST) -> Iterator[Template]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces: list[str] = [""]
            for value in node.values:
                if isinstance(value, ast.Constant):
                    pieces[-1] += str(value.value)
                else:
                    pieces.append("")
            yield tuple(filter(None, pieces))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield tuple(filter(None, (part.replace("%%", "%") for part in _PERCENT_HOLE.split(node.value))))


def _says_something(parts: Template) -> bool:
    text = "".join(parts)
    is_prose = any(map(_TWO_WORDS.search, parts)) and sum(map(str.isalpha, text)) >= _LETTERS
    return is_prose and len(text) <= _MAX_LENGTH and "\n" not in text


def _has_holes(parts: Template) -> bool:
    text = "".join(parts)
    is_prose = re.search(r"[A-Za-z]{2}", text) is not None
    return is_prose and (len(parts) > 1 or text != text.strip()) and "\n" not in text
