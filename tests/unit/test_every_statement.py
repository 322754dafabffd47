"""The contract against its tests: each numbered statement has one, through a real mount, whose docstring names it.

A docstring names them at its start: "5.2: ...", "5.1, 5.3: ...", "3.1 and 3.2: ...".
"""

import ast
import functools
import os
import re
from collections.abc import Iterator

from tests.harness import CHECKOUT

CONTRACT_TESTS = os.path.join(CHECKOUT, "tests", "contract")
PAGE = os.path.join(CHECKOUT, "docs", "semantics.md")
STATEMENTS = {1: 9, 2: 6, 3: 6, 4: 5, 5: 8, 6: 6, 8: 9}

# What issue 6 builds: statements, or parts of them, by a word that a test's docstring would have. As soon as a test of
# that number has it, its line here is to go.
NOT_BUILT: list[tuple[str, str, str]] = []

_HEAD = re.compile(r"([1-8]\.\d+(?:(?:, | and |, and )[1-8](?:\.\d+)?)*):")


def numbers_of(docstring: str) -> set[str]:
    """Return the statements that a docstring names at its start."""
    head = _HEAD.match(docstring)
    return set(re.findall(r"\d\.\d+", head[1])) if head else set()


def documented(source: str) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of the tests in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, " ".join((ast.get_docstring(node) or "").split())


@functools.cache
def contract_tests() -> dict[str, list[str]]:
    """Return the docstrings of the tests of real mounts, by the statements that they name."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(CONTRACT_TESTS)):
        if name.startswith("test_semantics_"):
            with open(os.path.join(CONTRACT_TESTS, name), encoding="utf-8") as file:
                for _, docstring in documented(file.read()):
                    for number in numbers_of(docstring):
                        found.setdefault(number, []).append(docstring)
    return found


def numbered() -> list[str]:
    """Return the statements that this file knows of."""
    return [f"{section}.{number}" for section, last in STATEMENTS.items() for number in range(1, last + 1)]


def missing(numbers: list[str], tested: dict[str, list[str]]) -> list[str]:
    return [number for number in numbers if number not in tested]


def built(listed: list[tuple[str, str, str]], tested: dict[str, list[str]]) -> list[str]:
    """Return what is listed as not built, and has a test."""
    return [
        f"{number} {word}"
        for number, word, _ in listed
        if any(word.lower() in docstring.lower() for docstring in tested.get(number, []))
    ]


def test_each_statement_has_a_test() -> None:
    """Each number of the contract is named by the docstring of a test with a real mount, and no test names another."""
    tested = contract_tests()
    assert missing(numbered(), tested) == []
    assert sorted(set(tested) - set(numbered())) == []


def test_the_numbers_are_those_of_the_contract() -> None:
    """The numbers above are those of the page."""
    with open(PAGE, encoding="utf-8") as file:
        found = re.findall(r"^- (\d+\.\d+) ", file.read(), re.MULTILINE)
    assert found == numbered()


def test_what_is_not_built_has_no_test() -> None:
    """What has got a test is no longer listed as not built; what is listed is a statement, and has a reason."""
    assert built(NOT_BUILT, contract_tests()) == []
    assert {number for number, _, _ in NOT_BUILT} <= set(numbered())
    assert all(reason for _, _, reason in NOT_BUILT)


def test_the_forms_of_a_docstring() -> None:
    """One number, several, and what is none: each form is read, and a gap or a line to be taken out is found."""
    forms = {"5.2: x": {"5.2"}, "5.1, 5.3: x": {"5.1", "5.3"}, "1.6, 7: x": {"1.6"}, "3.1 and 3.2: x": {"3.1", "3.2"}}
    assert {text: numbers_of(text) for text in forms} == forms
    assert numbers_of("What 5.2: says") == set()
    source = '''class TestX:
    async def test_y(self):
        """4.1:
        z"""
def other():
    """4.2: no test"""
'''
    assert list(documented(source)) == [("test_y", "4.1: z")]
    assert missing(["5.1", "5.2"], {"5.1": ["x"]}) == ["5.2"]
    listed = [("5.8", "--wait", "why"), ("5.9", "--wait", "why"), ("5.8", "--wait2", "why")]
    assert built(listed, {"5.8": ["5.8: with --Wait it goes on trying"]}) == ["5.8 --wait"]
