"""The bounds and paces of a tree that its mount, or a test, chooses."""

import random
from collections.abc import Callable

import msgspec


class TreeTuning(msgspec.Struct, frozen=True):
    """See each field. The defaults suit a client of 16 connections.

    `probe_interval_s`: while the service is in trouble, a refresh is tried this often. `max_prefetches`: requests
    ahead of traversals in flight. `prefetch_steps`: directories that the prefetcher looks at in one turn of the event
    loop, a millisecond of work. `max_runs`: runs that are remembered, about 500 bytes each; links of an organisation
    of 65,614 runs, listed shelf by shelf, cost no request. `max_index_bytes`: memory of all project indexes together,
    about. `choose` picks the directories that an index is checked with.
    """

    probe_interval_s: float = 5.0
    max_prefetches: int = 14
    prefetch_steps: int = 500
    max_runs: int = 100_000
    max_index_bytes: int = 128 << 20
    choose: Callable[[list[str], int], list[str]] = random.sample
