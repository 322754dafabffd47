"""artifactfs.modellab.pagination: which pages are fetched, how many at once, and where they end."""

import contextlib
from collections.abc import Callable

import msgspec
import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors
from artifactfs.modellab import pagination
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
        """Answer as `ask` of `fetch_pages`."""
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


class Preview(Service):
    """Gives `cap` rows a page at most, and tells of it the fields that `tells` names, as far as it knows them right."""

    def __init__(self, total: int, first: int, tells: str, cap: int = 100, /, **wrong: int | None) -> None:
        super().__init__(total, first)
        self.tells = tells.split()
        self.cap = cap
        self.wrong = wrong

    def answer(self, number: int, size: int) -> Page[int]:
        size = min(size, self.cap)
        start = (number - self.first) * size
        last = self.first + max(0, (self.total - 1) // size)
        true = {
            "number": number,
            "size": size,
            "total": self.total,
            "last_number": last,
            "next_number": number + 1 if number < last else None,
        } | self.wrong
        told = {name: value for name, value in true.items() if name in self.tells}
        rows = list(range(max(0, start), max(0, min(start + size, self.total))))
        found = Page(rows, says_last=told.get("next_number", 0) is None)
        return msgspec.structs.replace(found, **told)


def never(_row: int) -> bool:
    return False


async def first(service: Service, count: int, is_deleted: Callable[[int], bool] = never) -> list[int]:
    return await pagination.fetch_pages("rows", service.page, count, lambda row: row, is_deleted, set())


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(
    ("count", "asked", "waited"), [(0, 0, 0), (50, 1, 1), (200, 2, 2), (500, 5, 2), (900, 9, 2), (1000, 10, 3)]
)
async def test_pages_come_side_by_side(
    start: int, count: int, asked: int, waited: int, autojump_clock: MockClock
) -> None:
    """7: a request for each 100 rows shown and no more; a caller waits for the first page, and for eight at once."""
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


@pytest.mark.parametrize("refusal", [errors.NotFound("answered 404"), errors.BadRequest("answered 400")])
async def test_a_page_past_the_end_that_is_refused(
    refusal: errors.ServiceError, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """1.2: 404 or 400 for a page past the end ends the list, as an empty page does: counted, or named and gone."""
    counted = Preview(200, 0, "")
    counted.fails[2] = refusal
    assert await first(counted, 1000) == list(range(200))
    gone = Shrinking(1000)
    gone.fails |= dict.fromkeys(range(3, 10), refusal)
    assert await first(gone, 1000) == list(range(250))
    assert not caplog.records
    # The first page is the list itself.
    gone.fails[0] = refusal
    with pytest.raises(type(refusal)):
        await first(gone, 1000)


async def test_a_server_that_refuses_every_number(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """1.2: where the total says that a page or more is missing, the log says so."""
    service = Preview(250, 0, "number size total")
    service.fails[1] = errors.BadRequest("answered 400")
    assert await first(service, 1000) == list(range(100))
    assert ["only the first 100 are listed" in record.getMessage() for record in caplog.records] == [True]


async def test_a_waiting_caller_gives_up(autojump_clock: MockClock) -> None:
    """Nothing goes on for a caller that is gone."""
    service = Service(2000)
    with contextlib.suppress(trio.TooSlowError), trio.fail_after(SLOW_S * 1.5):
        await first(service, 2000)
    assert (service.under_way, service.at_once) == (0, 8)


# --- pages that end too soon --------------------------------------------------------------------------------


@pytest.mark.parametrize("first_number", [0, 1, 7])
@pytest.mark.parametrize("cap", [25, 100])
@pytest.mark.parametrize(
    "tells",
    ["number size total", "number size total next_number", "number size total next_number last_number",
     "number total", "number last_number", "number next_number", "number size total last_number", "number"],
)  # fmt: skip
async def test_pages_that_tell_little(first_number: int, cap: int, tells: str, autojump_clock: MockClock) -> None:
    """1: 250 of 250 rows, whatever the pages tell of themselves; and a request for each page and none more.

    Where neither a total nor the last page is given, the end is seen only at a page that is not full.
    """
    service = Preview(250, first_number, tells, cap)
    assert sorted(await first(service, 1000)) == list(range(250))
    needed = 250 // cap + bool(250 % cap)
    blind = not {"total", "last_number", "next_number"} & set(tells.split())
    assert len(service.asked) == needed + (blind and 250 % cap == 0)
    service.asked.clear()
    assert sorted((await first(service, 100))[:100]) == list(range(100))
    assert len(service.asked) == 100 // cap


@pytest.mark.parametrize("tells", ["number size total", "number size total last_number"])
@pytest.mark.parametrize("first_number", [0, 1])
async def test_a_next_number_of_null(tells: str, first_number: int, autojump_clock: MockClock) -> None:
    """1: null on every page does not end the list where the total or the last page's number says that there is more."""
    service = Preview(250, first_number, f"{tells} next_number", next_number=None)
    assert sorted(await first(service, 1000)) == list(range(250))
    assert len(service.asked) == 3
    alone = Preview(250, first_number, "number size next_number", next_number=None)
    assert await first(alone, 1000) == list(range(100))
    assert len(alone.asked) == 1


@pytest.mark.parametrize(("first_number", "requests"), [(0, 3), (1, 4)])
@pytest.mark.parametrize("cap", [25, 100])
async def test_pages_that_tell_nothing(first_number: int, requests: int, cap: int, autojump_clock: MockClock) -> None:
    """1: without numbers pages are counted from 0; where the first comes twice, from 1, at the cost of one request."""
    service = Preview(240, first_number, "", cap)
    assert await first(service, 1000) == list(range(240))
    assert len(service.asked) == requests + (7 if cap == 25 else 0)
    few = Preview(20, first_number, "", cap)
    assert await first(few, 1000) == list(range(20))
    assert few.asked == [None]


@pytest.mark.parametrize(("total", "requests"), [(0, 3), (1, 3), (99, 3), (251, 4), (100_000, 4)])
async def test_a_total_that_is_wrong(total: int, requests: int, autojump_clock: MockClock) -> None:
    """1: a total of less than what has come tells nothing; one of more than there is costs a request."""
    service = Preview(250, 0, "number size total", total=total)
    assert await first(service, 1000) == list(range(250))
    assert len(service.asked) == requests


class Growing(Preview):
    """Gets a new row, which is the first of all then, with each page that is asked for."""

    def answer(self, number: int, size: int) -> Page[int]:
        page = super().answer(number, size)
        page.rows[:] = [self.total - 1 - row for row in page.rows]
        self.total += 1
        return page


async def test_a_total_that_grows(autojump_clock: MockClock) -> None:
    """1: rows that move to the next page meanwhile come once, and none of the others is missing."""
    service = Growing(250, 1, "number size total")
    found = await first(service, 1000)
    assert found == list(range(249, -1, -1))


async def test_numbers_of_answers_that_count_otherwise(autojump_clock: MockClock) -> None:
    """1: a server that is asked from 1 on and tells its numbers from 0: the first page comes twice, then the others."""

    class Shifted(Preview):
        def answer(self, number: int, size: int) -> Page[int]:
            page = super().answer(max(number, 1), size)
            return Page(page.rows, max(number, 1) - 1, None, None, page.total, page.size)

    service = Shifted(250, 1, "number size total")
    assert await first(service, 1000) == list(range(250))
    assert service.asked == [None, 1, 2, 3]


async def test_pages_with_fewer_rows_in_the_middle(autojump_clock: MockClock) -> None:
    """1: what is hidden from a page, and counted in the total, hides no page behind it."""

    class Hiding(Preview):
        def answer(self, number: int, size: int) -> Page[int]:
            page = super().answer(number, size)
            page.rows[:] = [row for row in page.rows if row // 10 % 2]
            return page

    for tells, requests in (("number size total", 4), ("number size total last_number", 3), ("number next_number", 3)):
        service = Hiding(250, 0, tells)
        assert await first(service, 1000) == [row for row in range(250) if row // 10 % 2]
        assert len(service.asked) == requests


async def test_a_page_of_odd_rows_only(autojump_clock: MockClock) -> None:
    """1: a page of which no row can be shown ends nothing, and counts: there is no endless looking for better ones."""

    class Odd(Preview):
        def answer(self, number: int, size: int) -> Page[int]:
            page = super().answer(number, size)
            odd = ["'x'"] * len(page.rows)
            return Page([], page.number, None, None, page.total, page.size, odd=odd) if number == 0 else page

    service = Odd(250, 0, "number size total")
    assert await first(service, 1000) == list(range(100, 250))
    assert len(service.asked) == 3
    assert await first(Odd(10**9, 0, "number size total"), 150) == list(range(100, 200))


@pytest.mark.parametrize(
    ("number", "last", "total", "requests"),
    [
        (0, 2, 300, 3),
        (1, 3, None, 3),
        (None, None, 300, 3),
        (None, 2, 300, 3),
        (0, None, None, 3),
        (0, 0, 300, 1),
        (None, None, 100, 1),
    ],
)
async def test_a_server_that_does_not_page(
    number: int | None, last: int | None, total: int | None, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """1: where a server says that there is more, and gives the same page again, the log says so; once."""
    told: set[str] = set()
    asked = 0

    async def page(_query: dict[str, str]) -> Page[int]:
        nonlocal asked
        asked += 1
        return Page(list(range(100)), number, None, last, total)

    for _ in range(3):
        asked = 0
        assert len(await pagination.fetch_pages("runs", page, 200, lambda row: row, never, told)) == 100
        assert asked <= requests
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == (requests > 1)
    assert all("only the first 100 are listed" in line for line in lines)


async def test_all_that_was_wanted_is_no_cut(caplog: pytest.LogCaptureFixture) -> None:
    """1: nothing is logged of pages that were not requested."""

    async def page(_query: dict[str, str]) -> Page[int]:
        return Page(list(range(100)), 0, None, 7, 800)

    assert len(await pagination.fetch_pages("runs", page, 100, lambda row: row, never, set())) == 100
    assert not caplog.records


# --- deleted rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "asked"), [(200, 4), (100, 3), (50, 4), (1, 4)])
@pytest.mark.parametrize("tells_last", [True, False])
async def test_deleted_rows_take_no_places(count: int, asked: int, tells_last: bool, autojump_clock: MockClock) -> None:
    """1.2: others come in their places, at a request for each 100 rows, and one where fewer than 100 are shown."""
    service = Service(65_614, tells_last=tells_last)
    assert await first(service, count, lambda row: row < 200) == list(range(200, 200 + count))
    assert len(service.asked) == asked
    few = Service(30)
    assert await first(few, 50, lambda row: row < 20) == list(range(20, 30))
    assert few.asked == [None]


async def test_deleted_rows_without_end(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """1.2: no more than 2,000 rows are looked through for others, and the log says so."""
    service = Service(65_614)
    assert await first(service, 200, lambda row: row >= 100) == list(range(100))
    assert len(service.asked) == 22
    assert [record.getMessage() for record in caplog.records] == [
        "2100 of the first 2200 rows are deleted: only the others are listed, more are entered by their id"
    ]
