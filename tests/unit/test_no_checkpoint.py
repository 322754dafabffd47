"""`@no_checkpoint` refuses what may be suspended, where that is defined."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from artifactfs.util.no_checkpoint import no_checkpoint


def add(left: int, right: int) -> int:
    return left + right


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


def test_a_plain_function_stays_as_it_is() -> None:
    """The mark costs no call."""
    assert no_checkpoint(add) is add


@pytest.mark.parametrize("function", [coroutine, generator, async_generator])
def test_a_function_that_may_be_suspended_is_refused(function: Callable[..., object]) -> None:
    """The error names the function, and says what to do."""
    with pytest.raises(TypeError, match=rf"^{function.__name__} may be suspended, .*: make it a plain `def`$"):
        no_checkpoint(function)


def test_a_method_is_refused_while_its_class_is_made() -> None:
    """A module with such a method cannot be imported."""
    with pytest.raises(TypeError, match=r"Account\.move may be suspended"):

        class Account:
            @no_checkpoint
            async def move(self) -> None: ...
