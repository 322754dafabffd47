"""The pages of `/runs` and `/projects`: which to fetch, and when there are no more. Source: model-lab-api.md, Pages.

A page may name the next page, the last one, and the number of rows; any of them may be absent or wrong. The next page
is the one that is named, else the number after this one's, as long as the last page's number or the total says that
more follows, or neither is there and the page is full. The list ends with a page without a new row. Pages count from 0
or from 1. Where a page also names the last, the pages between are fetched concurrently: a slow service costs one or two
waits, not ten, and fewer rows move between pages meanwhile.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from artifactfs import errors
from artifactfs.logs import NOTICE
from artifactfs.modellab.models import Page

log = logging.getLogger(__name__)

T = TypeVar("T")

# The documented maximum of page[size]; and its default, which holds where a server does not know page[size].
PAGE_SIZE = 100
_DEFAULT_SIZE = 25
# Half of the transport's connections: other requests need some, too.
_CONCURRENCY = 8


async def fetch_pages(
    what: str,
    ask: Callable[[dict[str, str]], Awaitable[Page[T]]],
    count: int,
    id_of: Callable[[T], int],
    logged_as_cut: set[str],
) -> list[T]:
    """Return the rows of the pages that hold the first `count`, each id once. `ask` gets a page by its parameters.

    `logged_as_cut`: the lists that the log already reports as cut. Raises the error of the first page to fail.
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
    # Whether a page named these numbers. Counted numbers may be one less than the server's, once.
    is_named, may_shift = True, True
    while numbers:
        for number, page in zip(numbers, await _concurrently(page_of, numbers), strict=True):
            fresh = {id_of(row): row for row in page.rows if id_of(row) not in found}
            found |= fresh
            if fresh or (page.odd and not page.rows):
                rows += page.sent
                numbers = _following(page, number, size, count, rows)
                is_named = page.next_number is not None
            elif page.rows and may_shift and not is_named and number is not None and page.number != number:
                # The same page once more, without the requested number: pages count from 1.
                may_shift, numbers = False, [number + 1]
            else:
                # Rows move between pages while reading; a page without a new id ends it.
                if page.rows and not is_named and what not in logged_as_cut:
                    logged_as_cut.add(what)
                    log.warning(
                        "this server does not give the pages of %s that follow: only the first %d are listed, others "
                        "are entered by their id",
                        what,
                        rows,
                        extra=NOTICE,
                    )
                numbers = []
            if not numbers:
                break
    return list(found.values())


def _following(page: Page[T], asked: int | None, size: int, count: int, rows: int) -> list[int | None]:
    """Return the numbers of the pages to fetch after `page`.

    `asked`: the requested number of `page`. `rows`: how many rows were sent so far, of the `count` to return.
    """
    if rows >= count:
        return []
    following = page.next_number
    if following is None:
        if not _says_more(page, size, rows):
            return []
        # A server that does not number its pages is taken to count from 0, as recorded.
        following = 1 + max(page.number or 0, asked or 0)
    each = min(size, page.size) if page.size else size
    # After a page with too few rows, or a gap in the numbers, the numbers prove nothing. One page at a time.
    if page.last_number is None or page.number is None or following != page.number + 1 or page.sent < each:
        return [following]
    last = min(page.last_number, following + -(-(count - rows) // each) - 1, following + _CONCURRENCY - 1)
    return list(range(following, max(last, following) + 1))


def _says_more(page: Page[T], size: int, rows: int) -> bool:
    """Whether a page without a next number says that a page follows. `rows`: how many rows were sent so far."""
    if page.number is not None and page.last_number is not None:
        return page.number < page.last_number
    # A total below the number of rows proves nothing.
    if page.total is not None and page.total >= rows:
        return page.total > rows
    return not page.says_last and page.sent in (size, page.size, _DEFAULT_SIZE)


async def _concurrently(
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
