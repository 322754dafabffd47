"""artifactfs.modellab.pages: which pages are asked for, how many at once, and where they end. Time is the clock's."""

import contextlib

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab import pages
from artifactfs.modellab.models import Page

SLOW_S = 1.5


class Service:
    """`total` rows, numbered from 0, in pages counted from `first`; each answer takes a while."""

    def __init__(self, total: int, first: int = 0, *, tells_last: bool = True) -> None:
        self.total = total
        self.first = first
        self.tells_last = tells_last
        self.asked: list[int | None] = []
        self.fails: dict[int, errors.ServiceError] = {}
        self.under_way = 0
        self.at_once = 0

    async def page(self, query: dict[str, str]) -> Page[int]:
        """Answer as `ask` of `first_rows`."""
        size = int(query["page[size]"])
        asked = query.get("page[number]")
        self.asked.append(None if asked is None else int(asked))
        number = self.first if asked is None else int(asked)
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        try:
            if number in self.fails:
                raise self.fails[number]
            await trio.sleep(SLOW_S)
        finally:
            self.under_way -= 1
        return self.answer(number, size)

    def answer(self, number: int, size: int) -> Page[int]:
        """Return a page."""
        start = (number - self.first) * size
        last = self.first + max(0, (self.total - 1) // size)
        rows = list(range(start, min(start + size, self.total)))
        return Page(rows, number, number + 1 if number < last else None, last if self.tells_last else None)


async def first(service: Service, count: int) -> list[int]:
    return await pages.first_rows("rows", service.page, count, lambda row: row, set())


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(
    ("count", "asked", "waited"), [(0, 0, 0), (50, 1, 1), (200, 2, 2), (500, 5, 2), (900, 9, 2), (1000, 10, 3)]
)
async def test_pages_come_side_by_side(
    start: int, count: int, asked: int, waited: int, autojump_clock: MockClock
) -> None:
    """7: a request for each 100 rows shown and no more; who waits, waits for the first page, and for eight at once."""
    service = Service(65_614, start)
    begun = trio.current_time()
    assert await first(service, count) == list(range(count))
    assert len(service.asked) == asked
    assert trio.current_time() - begun == pytest.approx(waited * SLOW_S)
    assert service.at_once <= 8


async def test_fewer_rows_than_were_wanted(autojump_clock: MockClock) -> None:
    """The last page is the last that is asked for."""
    service = Service(403)
    assert await first(service, 1000) == list(range(403))
    assert service.asked[0] is None
    assert sorted(number for number in service.asked[1:] if number is not None) == [1, 2, 3, 4]


async def test_no_last_number(autojump_clock: MockClock) -> None:
    """A server that names only the next page is asked for one after the other."""
    service = Service(350, tells_last=False)
    assert await first(service, 1000) == list(range(350))
    assert (service.asked, service.at_once) == ([None, 1, 2, 3], 1)


class Small(Service):
    """Gives 30 rows a page, whatever is asked for, and still counts its pages by what was asked for."""

    def answer(self, number: int, size: int) -> Page[int]:
        return Page(list(range(30 * number, 30 * number + 30)), number, number + 1 if number < 9 else None, 9)


async def test_pages_smaller_than_was_asked_for(autojump_clock: MockClock) -> None:
    """How many pages hold what is wanted is not known: one after the other, until there is enough."""
    service = Small(300)
    found = await first(service, 100)
    assert found[:100] == list(range(100))
    assert (service.asked, service.at_once) == ([None, 1, 2, 3], 1)


class Repeating(Service):
    """Does not know page[number]: every page is the first, of a hundred."""

    def answer(self, number: int, size: int) -> Page[int]:
        return Page(list(range(size)), 0, 1, 99)


async def test_a_server_that_repeats_itself(autojump_clock: MockClock) -> None:
    """A page without a new row ends the list, whatever numbers come with it."""
    service = Repeating(0)
    assert await first(service, 5000) == list(range(100))
    assert len(service.asked) <= 9


class Shrinking(Service):
    """Loses all rows but the first 250 after the first page."""

    def answer(self, number: int, size: int) -> Page[int]:
        if number > self.first:
            self.total = 250
        return super().answer(number, size)


async def test_rows_that_go_meanwhile(autojump_clock: MockClock) -> None:
    """A page that is not there any more ends the list."""
    service = Shrinking(1000)
    assert await first(service, 1000) == list(range(250))


@pytest.mark.parametrize("number", [0, 1, 4, 9])
async def test_one_page_fails(number: int, autojump_clock: MockClock) -> None:
    """What is raised is the page's own error; none of the others is still under way."""
    service = Service(2000)
    service.fails[number] = errors.ServerFailed("answered 500")
    with pytest.raises(errors.ServerFailed, match="answered 500"):
        await first(service, 2000)
    assert service.under_way == 0


async def test_who_waits_gives_up(autojump_clock: MockClock) -> None:
    """Nothing goes on for somebody who is gone."""
    service = Service(2000)
    with contextlib.suppress(trio.TooSlowError), trio.fail_after(SLOW_S * 1.5):
        await first(service, 2000)
    assert (service.under_way, service.at_once) == (0, 8)


# --- pages that end too soon --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "last", "total", "warned"),
    [
        (0, 2, 300, True),
        (1, 3, None, True),
        (None, None, 300, True),
        (None, 2, 300, True),
        (0, 0, 300, False),
        (0, 1, 100, False),
        (None, None, 100, False),
        (0, None, None, False),
    ],
)
async def test_more_than_is_named_is_said_once(
    number: int | None, last: int | None, total: int | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """1: where a server says that there is more, and names no next page, the log says that it is not listed; once."""
    told: set[str] = set()

    async def page(_query: dict[str, str]) -> Page[int]:
        return Page(list(range(100)), number, None, last, total)

    for _ in range(3):
        assert len(await pages.first_rows("runs", page, 200, lambda row: row, told)) == 100
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == warned
    assert all("only the first 100 are listed" in line for line in lines)


async def test_all_that_was_wanted_is_no_cut(caplog: pytest.LogCaptureFixture) -> None:
    """1: nothing is said of pages that nobody asked for."""

    async def page(_query: dict[str, str]) -> Page[int]:
        return Page(list(range(100)), 0, None, 7, 800)

    assert len(await pages.first_rows("runs", page, 100, lambda row: row, set())) == 100
    assert not caplog.records
