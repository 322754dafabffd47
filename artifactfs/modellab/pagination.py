"""The pages of `/runs` and `/projects`: which to fetch, and when there are no more. Source: model-lab-api.md, Pages.

A page may name the next page, the last one, and the number of rows; any of them may be absent or wrong. The next page
is the one that is named, else the number after this one's, as long as the last page's number or the total says that
more follows, or neither is there and the page is full. The list ends with a page without a new row, and with one that
the server refuses (400, 404), as servers do past the end. Pages count from 0 or from 1. Where a page also names the
last, the pages between are fetched concurrently: a slow service costs one or two waits, not ten, and fewer rows move
between pages meanwhile. Deleted rows are left out; where they fill pages, others take their places.
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
# Rows beyond those to return that are looked through where rows are deleted: in three concurrent fetches. Arbitrary.
_MAX_DELETED = 2_000
# Half of the transport's connections: other requests need some, too.
_CONCURRENCY = 8


async def fetch_pages(
    what: str,
    ask: Callable[[dict[str, str]], Awaitable[Page[T]]],
    count: int,
    id_of: Callable[[T], int],
    is_deleted: Callable[[T], bool],
    logged_as_cut: set[str],
    size: int = 0,
) -> list[T]:
    """Return the first rows that are not deleted, at most `count`, each id once. `ask` gets a page by its parameters.

    Of `count` rows those that are deleted lack, unless they fill a page, or more than 2,000 are. `logged_as_cut`: the
    lists that the log already reports as cut. `size`: rows to ask for in a page; 0 for as few as possible. Raises the
    error of the first page to fail, or of any other page but NotFound and BadRequest.
    """
    if count <= 0:
        return []
    # One size for every page: the numbers of later pages count in it.
    size = size or min(PAGE_SIZE, count)

    async def page_of(number: int | None) -> Page[T]:
        if number is None:
            return await ask({"page[size]": str(size)})
        try:
            return await ask({"page[size]": str(size), "page[number]": str(number)})
        except (errors.NotFound, errors.BadRequest):
            refused.add(number)
            return Page([])

    found: dict[int, T] = {}
    rows, total, deleted = 0, 0, 0
    refused: set[int | None] = set()
    numbers: list[int | None] = [None]
    # Whether a page named these numbers. Counted numbers may be one less than the server's, once.
    is_named, may_shift = True, True
    while numbers:
        for number, page in zip(numbers, await _concurrently(page_of, numbers), strict=True):
            fresh = {id_of(row): row for row in page.rows if id_of(row) not in found}
            found |= fresh
            if fresh or (page.odd and not page.rows):
                rows += page.sent
                total = page.total or 0
                deleted += sum(map(is_deleted, fresh.values()))
                # A page more for a page of them: a few cost no request.
                lacking = min(deleted, _MAX_DELETED) // size * size
                numbers = _following(page, number, size, count + lacking, rows)
                if numbers and lacking and size < PAGE_SIZE:
                    # So many small pages would be many requests.
                    return await fetch_pages(what, ask, count, id_of, is_deleted, logged_as_cut, PAGE_SIZE)
                is_named = page.next_number is not None
            elif page.rows and may_shift and not is_named and number is not None and page.number != number:
                # The same page once more, without the requested number: pages count from 1.
                may_shift, numbers = False, [number + 1]
            else:
                # Rows move between pages while reading; a page without a new id ends it.
                is_cut = (page.rows and not is_named) or (number in refused and total - rows >= size)
                if is_cut and what not in logged_as_cut:
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
    live = [row for row in found.values() if not is_deleted(row)]
    if deleted > _MAX_DELETED and len(live) < count and what not in logged_as_cut:
        logged_as_cut.add(what)
        log.warning(
            "%d of the first %d %s are deleted: only the others are listed, more are entered by their id",
            deleted,
            rows,
            what,
            extra=NOTICE,
        )
    return live[:count]


def _following(page: Page[T], asked: int | None, size: int, count: int, rows: int) -> list[int | None]:
    """Return the numbers of the pages to fetch after `page`.

    `asked`: the requested number of `page`. `rows`: how many rows were sent so far, of the `count` to look through.
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
