"""The pages of `/runs` and `/projects`: which to ask for, and when there are no more. Source: model-lab-api.md, Pages.

A page names the next, and only what it names is followed: pages count from 0 or from 1. Where it also names the last,
those between are asked for side by side: a service that takes its time is waited for once or twice, not ten times, and
fewer rows move between pages meanwhile.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from artifactfs import errors
from artifactfs.modellab.models import Page

log = logging.getLogger(__name__)

T = TypeVar("T")

# The documented maximum of page[size].
PAGE_SIZE = 100
# Half of what the transport has under way at a time: others look, too.
_SIDE_BY_SIDE = 8


async def first_rows(
    what: str,
    ask: Callable[[dict[str, str]], Awaitable[Page[T]]],
    count: int,
    id_of: Callable[[T], int],
    told: set[str],
) -> list[T]:
    """Return the rows of the pages that hold the first `count`, each id once. `ask` gets a page by its parameters.

    `told`: of what the log already has that it is cut. Raises what `ask` raises of the first page to fail.
    """
    if count <= 0:
        return []
    # One size for every page: the numbers of later pages count in it.
    size = min(PAGE_SIZE, count)

    async def page_of(number: int | None) -> Page[T]:
        return await ask({"page[size]": str(size)} | ({} if number is None else {"page[number]": str(number)}))

    found: dict[int, T] = {}
    rows = 0
    numbers: list[int | None] = [None]
    while numbers:
        for page in await _side_by_side(page_of, numbers):
            # Rows move between pages while reading; a page without a new id ends it.
            fresh = {id_of(row): row for row in page.rows if id_of(row) not in found}
            rows += len(page.rows)
            found |= fresh
            numbers = _following(page, size, count - rows) if fresh else []
            if not numbers:
                break
    # The last page that was looked at.
    if rows < count and what not in told:
        if page.next_number is None and _says_more(page, size, rows):
            told.add(what)
            log.warning(
                "this server says that there are more %s, and does not name the next page: only the first %d are "
                "listed, others are entered by their id",
                what,
                rows,
            )
        elif page.number is None and len(page.rows) == PAGE_SIZE:
            told.add(what)
            log.info("this server does not number its pages of %s: only the first %d are listed", what, rows)
    return list(found.values())


def _says_more(page: Page[T], size: int, rows: int) -> bool:
    """Whether a page, the last that is named, says itself that others follow it. `rows`: how many there were so far.

    Nothing is made of it but a line in the log: pages count from 0 or from 1, and the total may count what is hidden.
    """
    if page.total is not None and page.total <= rows:
        return False
    if page.number is not None and page.last_number is not None:
        return page.last_number > page.number and len(page.rows) >= size
    return page.total is not None and len(page.rows) >= size


def _following(page: Page[T], size: int, wanted: int) -> list[int | None]:
    """Return the numbers of the pages after `page` that are known to be there and hold what is `wanted`."""
    if page.next_number is None or wanted <= 0:
        return []
    following = page.next_number
    # A page with fewer rows than were asked for, or a gap in the numbers: who knows what they count. One at a time.
    if page.last_number is None or page.number is None or following != page.number + 1 or len(page.rows) < size:
        return [following]
    last = min(page.last_number, following + -(-wanted // size) - 1, following + _SIDE_BY_SIDE - 1)
    return list(range(following, max(last, following) + 1))


async def _side_by_side(
    page_of: Callable[[int | None], Awaitable[Page[T]]], numbers: list[int | None]
) -> list[Page[T]]:
    if len(numbers) == 1:
        return [await page_of(numbers[0])]
    found: dict[int | None, Page[T]] = {}
    failures: list[errors.ServiceError] = []

    async def one(number: int | None) -> None:
        try:
            found[number] = await page_of(number)
        except errors.ServiceError as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(one, number)
    if failures:
        raise failures[0]
    return [found[number] for number in numbers]
