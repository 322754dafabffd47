"""artifactfs.control: the health of a mount, its counters, and the form of its reports."""

import os

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifactfs.content.read_stats import CacheState, ReadStats
from artifactfs.control import status_schema
from artifactfs.control.counters import COUNTERS, Readings, metrics_text, sections
from artifactfs.control.health import HealthInputs, health_of
from artifactfs.control.recent_errors import errors_text
from artifactfs.control.status_schema import Failed, Health, Status, json_text, status_json
from artifactfs.domain import RequestUsage
from artifactfs.fuse.handles import KernelState
from artifactfs.metadata.write_behind import MetadataState
from artifactfs.modellab.circuit_breaker import OfflineState
from artifactfs.modellab.rate_limits import LimitState
from artifactfs.modellab.request_stats import HEAD_BOUNDS_S, LatencyHistogram, StatsSnapshot
from artifactfs.tree.tree_stats import TreeState

NONE = HealthInputs(None, None, None, None, 0.0, None, None, 5.0)


@pytest.mark.parametrize(
    ("told", "state", "since"),
    [
        ({}, "ok", 5.0),
        ({"stale_since": 7.0}, "degraded", 7.0),
        ({"stale_since": 7.0, "paused_since": 8.0, "paused_s": 30.0}, "rate_limited", 8.0),
        ({"stale_since": 7.0, "failing_since": 9.0}, "failing", 9.0),
        ({"stale_since": 7.0, "strange_since": 9.0}, "failing", 9.0),
        ({"failing_since": 9.0, "silent_since": 6.0}, "not_answering", 6.0),
        ({"silent_since": 6.0, "denied_since": 8.5, "denied_last": True, "stale_since": 1.0}, "keys_rejected", 8.5),
        ({"denied_since": 8.5, "failing_since": 9.0}, "failing", 9.0),
        ({"denied_since": 8.5, "stale_since": 9.0}, "degraded", 9.0),
        ({"denied_since": 8.5}, "keys_rejected", 8.5),
        (
            {
                "offline": OfflineState(4.0, "gone", "wait"),
                "failing_since": 9.0,
                "denied_since": 8.5,
                "denied_last": True,
            },
            "offline",
            4.0,
        ),
    ],
)
def test_the_worst_counts(told: dict[str, object], state: str, since: float) -> None:
    """5.3: the worst problem is reported, since when, and what to do; without a problem nothing."""
    found = health_of(msgspec.structs.replace(NONE, **told), "api.test")
    assert found[:2] == (state, since)
    assert found[2]
    assert bool(found[3]) == (state != "ok")


@pytest.mark.parametrize(
    ("told", "said", "todo"),
    [
        (
            {"stale_served": True},
            "api.test failed to list; stale listings are served",
            "last error",
        ),
        ({}, "api.test failed to list; there is no stale listing to serve", "last error"),
        (
            {"stale_served": True, "only_slow": True},
            "stale listings are served: api.test takes longer",
            "if it goes on",
        ),
    ],
)
def test_what_is_degraded(told: dict[str, bool], said: str, todo: str) -> None:
    """5.3: old listings are said to be served where they are, and errors to be seen where there are some."""
    found = health_of(msgspec.structs.replace(NONE, stale_since=7.0, **told), "api.test")
    assert found[0] == "degraded"
    assert found[2].startswith(said)
    assert todo in found[3]
    assert ("last error" in found[3]) == ("only_slow" not in told)


def readings(**changed: object) -> Readings:
    traffic = StatsSnapshot({"run": {"ok": 3}}, {}, 0, None, 0.0)
    tree = TreeState(1, 2, 3, 4, 0, None, False, False, 0.0, (), 0, 0, None, 0)
    identity = {"version": "1", "mountpoint": '/m"\\\n', "origin": "o", "account": ""}
    health = Health("ok", "x", "fine")
    usage, cache, reading = RequestUsage({}), None, ReadStats(memory_bytes=5, disk_bytes=7)
    known = Readings(identity, 1.5, health, 0, traffic, usage, (), cache, None, reading, tree, None)
    return msgspec.structs.replace(known, **changed)


def a_status(**changed: object) -> Status:
    values: dict[str, object] = {
        "schema": 1, "version": "1", "mountpoint": '/m"\\\n', "pid": 1, "user_id": 0, "mounted_since": "x", "at": "x",
        "uptime_s": 1.5, "health": Health("ok", "x", "fine"), "origin": "o", "site": None, "account": None,
        "profile": None, "ranges": None, "rate_limits": (), "streaming": (), "indexes": (), "last_traversal": None,
        "failures": 0, "last_error": None,
    }  # fmt: skip
    return Status(**(values | sections(readings()) | changed))  # type: ignore[arg-type]  # the fields' own types


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_each_counter_is_in_both_reports() -> None:
    """5.3: a row of the registry is a key of status.json, and a sample of the metrics, with its type and its help."""
    heads = {"run": LatencyHistogram((1, *[0] * len(HEAD_BOUNDS_S)), 0.1)}
    whole = readings(
        traffic=StatsSnapshot({"run": {"ok": 3}}, heads, 0, None, 0.0),
        limits=(LimitState("a", 10, 5, 1.5, 0.0, None),),
        cache=CacheState("/c", 1, 2, 3, 4, 5, 6, keeps_up=True),
        metadata=MetadataState("/m", 1, 2, 3, 4, 5.0),
        kernel=KernelState(1, 2, 3, 4),
    )
    text = metrics_text(whole).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for counter in COUNTERS:
        section, dot, key = counter.path.partition(".")
        assert not dot or key in sections(whole)[section]
        if counter.kind and counter.metric != "indexes":
            family = families[counter.family.removesuffix("_total")]
            assert (family.type, family.documentation) == (counter.kind, counter.help)
    assert text.count("# TYPE artifactfs_read_bytes_total") == 1
    found = samples(text.encode())
    assert [found["artifactfs_read_bytes_total", source] for source in ("memory", "disk", "service")] == [5, 7, 0]
    assert found["artifactfs_requests_total", "run", "ok"] == 3
    assert found["artifactfs_cache_keeps_up",] == 1


def test_odd_names_in_metrics() -> None:
    """5.3: quotes, backslashes, line ends lone surrogates and controls in names do not break the format."""
    limit = LimitState('a"b\\c\nd\ud800\x9b\u202e', 10, 5, 1.5, 0.0, None)
    found = samples(metrics_text(readings(limits=(limit,))))
    assert found["artifactfs_info", "1", '/m"\\\n', "o", ""] == 1
    assert found["artifactfs_rate_limit_reset_seconds", 'a"b\\c\nd?\\x9b\\u202e'] == 1.5
    assert found["artifactfs_uptime_seconds",] == 1.5


def test_what_is_not_known_is_left_out() -> None:
    """5.3: an unknown size is no 0; and no family is there without a sample."""
    text = metrics_text(readings())
    found = samples(text)
    assert not any(name[0] in ("artifactfs_cache_bytes", "artifactfs_rate_limit") for name in found)
    assert b"artifactfs_rate_limit" not in text
    assert found["artifactfs_health", "ok"] == 1
    assert sum(value for name, value in found.items() if name[0] == "artifactfs_health") == 1


def test_a_histogram_adds_up() -> None:
    """5.3: buckets hold what is below them, the last all."""
    counts = [0] * (len(HEAD_BOUNDS_S) + 1)
    counts[HEAD_BOUNDS_S.index(0.1)], counts[HEAD_BOUNDS_S.index(1.0)], counts[-1] = 1, 1, 1
    traffic = StatsSnapshot({}, {"run": LatencyHistogram(tuple(counts), 0.7)}, 0, None, 0.0)
    found = samples(metrics_text(readings(traffic=traffic)))
    buckets = [found["artifactfs_answer_seconds_bucket", "run", bound] for bound in ("0.05", "0.1", "1", "+Inf")]
    assert buckets == [0, 1, 2, 3]
    assert (found["artifactfs_answer_seconds_count", "run"], found["artifactfs_answer_seconds_sum", "run"]) == (3, 0.7)


def test_the_json_is_read_back() -> None:
    """5.3: what is written is read by the schema, a path that is no UTF-8 written out."""
    one = a_status(
        mountpoint="/\udc80", last_error=Failed("m", "t", 2, "a", "b"),
        last_traversal=status_schema.LastTraversal(1, 2, 3.0, {"run": 1}, 4),
    )  # fmt: skip
    read = msgspec.json.decode(status_json(one), type=Status)
    assert read == msgspec.structs.replace(one, mountpoint="/\\x80")


def test_strict_readers_take_the_json() -> None:
    """What is no UTF-8 is written out, and all else stays as it is."""
    told = {"a": os.fsdecode(b"/mnt/\xff"), "b": "\ud83d", "c": "\U0001f600 \\x \u00e9"}
    text = json_text([told])
    assert msgspec.json.decode(text) == [{"a": "/mnt/\\xff", "b": "\\ud83d", "c": told["c"]}]


def test_errors_in_sentences() -> None:
    """5.3: time, what happened, how often, and what to do, the last first; nothing that a terminal would obey."""
    failures = [Failed("x \x1b[2J", "do it", 3, "T1", "T2"), Failed("y", "", 1, "T0", "T0")]
    assert errors_text(failures, [], "T3").decode().splitlines() == [
        "T2  x \\x1b[2J (the last of 3 since T1)", "    what to do: do it", "T0  y (once)",
    ]  # fmt: skip
    notice = Failed("z", "", 1, "T0", "T0")
    assert errors_text([], [notice], "T3") == b"no failures since the mount began, T3\nT0  notice: z (once)\n"
