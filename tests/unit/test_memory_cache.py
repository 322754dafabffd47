"""artifactfs.content.memory_cache: what stays in memory, what goes first, and that it adds up."""

from artifactfs.content.memory_cache import BlockPool, MemoryBlock, ReadaheadBudget

A, B = b"A", b"B"


def block(size: int = 10, filled: int | None = None) -> MemoryBlock:
    return MemoryBlock(bytearray(size), size if filled is None else filled)


def held(pool: BlockPool, key: bytes, count: int = 20) -> list[int]:
    return [index for index in range(count) if pool.get(key, index) is not None]


def test_first_in_first_out() -> None:
    """4.4: memory is bounded; what was put first goes first, read or not."""
    pool = BlockPool(30)
    for index in range(5):
        pool.put(A, index, block())
        assert pool.get(A, 0) is not None or index > 2
    assert held(pool, A) == [2, 3, 4]
    assert pool.size_bytes == 30


def test_one_block_always_fits() -> None:
    """4.4: a block larger than all there is stays until the next one comes."""
    pool = BlockPool(5)
    pool.put(A, 0, block())
    assert held(pool, A) == [0]
    pool.put(A, 1, block())
    assert held(pool, A) == [1]
    assert pool.size_bytes == 10


def test_what_is_unread_stays() -> None:
    """4.3: what was fetched ahead is not dropped for blocks that were read."""
    pool = BlockPool(80)
    for index in range(4):
        pool.put(A, index, block(), ahead=True)
    for index in range(20):
        pool.put(B, index, block())
    assert held(pool, A) == [0, 1, 2, 3]
    assert held(pool, B) == [16, 17, 18, 19]
    pool.mark_read(A, 0)
    pool.put(B, 20, block())
    assert held(pool, A) == [0, 1, 2, 3]
    for index in range(21, 30):
        pool.put(B, index, block())
    assert held(pool, A) == [1, 2, 3]
    assert pool.size_bytes == 80


def test_what_is_unread_does_not_take_all() -> None:
    """4.4: unread blocks make room for what is fetched ahead of others, oldest first."""
    pool = BlockPool(80)
    for index in range(20):
        pool.put(A, index, block(), ahead=True)
        assert pool.size_bytes <= 80
    assert pool.readahead_capacity < 20
    assert 19 in held(pool, A)
    assert 0 not in held(pool, A)


def test_versions_with_unread_blocks() -> None:
    """4.5: versions that something unread is held of are counted, until it is read or its readers are gone."""
    pool = BlockPool(1000)
    pool.put(A, 0, block(), ahead=True)
    pool.put(A, 1, block(), ahead=True)
    pool.put(B, 0, block(), ahead=True)
    assert pool.readers_ahead_of == 2
    pool.mark_read(A, 0)
    pool.mark_read(A, 0)
    assert pool.readers_ahead_of == 2
    pool.demote_readahead(A)
    assert pool.readers_ahead_of == 1
    pool.discard(B)
    assert pool.readers_ahead_of == 0
    assert pool.readahead_capacity == 875
    assert held(pool, A) == [0, 1]


def test_more_of_a_block_is_never_replaced_by_less() -> None:
    """4.3: two sources may bring the same block: what came further counts."""
    pool = BlockPool(100)
    longer = block(10, filled=10)
    pool.put(A, 0, longer)
    pool.put(A, 0, block(10, filled=3))
    assert pool.get(A, 0) is longer
    pool.put(A, 1, block(4, filled=4))
    pool.put(A, 1, block(10, filled=6))
    assert pool.size_bytes == 20


def test_a_block_in_parts() -> None:
    """4.1, 4.3: parts come in any order, meet, and are never written again; what is missing between them is known."""
    made = MemoryBlock(bytearray(10), 0)
    for start, data in ((6, b"gh"), (2, b"cd"), (1, b"XYe"), (0, b"a")):
        made.fill(start, memoryview(data))
        assert made.count == sum(end - start for start, end in made.parts)
    assert made.parts == [(0, 4), (6, 8)]
    assert bytes(made.data) == b"aXcd\0\0gh\0\0"
    assert (made.filled, made.end_from(2), made.end_from(4), made.end_from(6)) == (4, 4, 4, 8)
    assert (made.next_from(0), made.next_from(4), made.next_from(6)) == (6, 6, None)
    made.fill(3, memoryview(b"DefGHij"))
    assert made.parts == [(0, 10)]
    assert bytes(made.data) == b"aXcdefghij"


def test_another_name_adds_up() -> None:
    """4.4: blocks that get their final name replace what is there under it, and are counted once."""
    pool = BlockPool(100)
    pool.put(A, 0, block(10, filled=10))
    pool.put(A, 1, block(10, filled=2), ahead=True)
    pool.put(B, 0, block(8, filled=8))
    pool.put(B, 1, block(10, filled=9))
    pool.rename(A, B)
    assert held(pool, A) == []
    assert pool.size_bytes == 20
    found = pool.get(B, 1)
    assert found is not None
    assert found.filled == 9
    pool.discard(B)
    assert pool.size_bytes == 0
    assert pool.readers_ahead_of == 0


def test_a_budget_is_given_back_once() -> None:
    """4.5: what is under way ahead of readers is bounded, and comes back whatever happens."""
    budget = ReadaheadBudget(100)
    first = budget.take(70)
    assert first is not None
    assert budget.take(31) is None
    second = budget.take(30)
    assert second is not None
    first()
    first()
    assert budget.used == 30
    second()
    assert budget.used == 0


def test_one_that_is_larger_than_the_budget_gets_it_alone() -> None:
    """4.5: a budget smaller than a piece does not stop reading ahead."""
    budget = ReadaheadBudget(10)
    give_back = budget.take(50)
    assert give_back is not None
    assert budget.take(1) is None
    give_back()
