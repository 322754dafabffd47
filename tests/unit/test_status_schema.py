"""artifactfs.control.status_schema and reports: how healthy a mount is, and what its reports look like."""

import os

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifactfs.control import exposition, status_schema
from artifactfs.control.status_schema import Failed, HealthInputs, Status, health_of

NONE = HealthInputs(None, None, None, None, 0.0, None, None, 5.0)


@pytest.mark.parametrize(
    ("told", "state", "since"),
    [
        ({}, "ok", 5.0),
        ({"old_since": 7.0}, "degraded", 7.0),
        ({"old_since": 7.0, "paused_since": 8.0, "paused_s": 30.0}, "rate_limited", 8.0),
        ({"old_since": 7.0, "failing_since": 9.0}, "failing", 9.0),
        ({"old_since": 7.0, "strange_since": 9.0}, "failing", 9.0),
        ({"failing_since": 9.0, "silent_since": 6.0}, "not_answering", 6.0),
        ({"silent_since": 6.0, "denied_since": 8.5, "denied_last": True, "old_since": 1.0}, "keys_rejected", 8.5),
        ({"denied_since": 8.5, "failing_since": 9.0}, "failing", 9.0),
        ({"denied_since": 8.5, "old_since": 9.0}, "degraded", 9.0),
        ({"denied_since": 8.5}, "keys_rejected", 8.5),
    ],
)
def test_the_worst_counts(told: dict[str, float], state: str, since: float) -> None:
    """5.3: of all that is wrong the worst is told, since when, and what to do; only where nothing is wrong nothing."""
    found = health_of(msgspec.structs.replace(NONE, **told), "api.test")
    assert found[:2] == (state, since)
    assert found[2]
    assert bool(found[3]) == (state != "ok")


@pytest.mark.parametrize(
    ("told", "said", "todo"),
    [
        (
            {"old_served": True},
            "api.test failed when it was asked for a listing; old listings are served",
            "last error",
        ),
        ({}, "api.test failed when it was asked for a listing; there is no old one to serve", "last error"),
        ({"old_served": True, "only_slow": True}, "old listings are served: api.test takes longer", "if it goes on"),
    ],
)
def test_what_is_degraded(told: dict[str, bool], said: str, todo: str) -> None:
    """5.3: old listings are said to be served where they are, and errors to be seen where there are some."""
    found = health_of(msgspec.structs.replace(NONE, old_since=7.0, **told), "api.test")
    assert found[0] == "degraded"
    assert found[2].startswith(said)
    assert todo in found[3]
    assert ("last error" in found[3]) == ("only_slow" not in told)


def a_status(**told: object) -> Status:
    values: dict[str, object] = {
        "schema": 1, "version": "1", "mountpoint": '/m"\\\n', "pid": 1, "user_id": 0, "mounted_since": "x", "at": "x",
        "uptime_s": 1.5, "health": status_schema.Health("ok", "x", "fine"), "origin": "o", "site": None,
        "account": None,
        "profile": None, "ranges": None, "requests": status_schema.Requests(), "rate_limits": (),
        "cache": status_schema.Cache(None), "reading": status_schema.Reading(), "listings": status_schema.Listings(),
        "open": status_schema.Open(),
        "failures": 0, "last_error": None,
    }  # fmt: skip
    return Status(**(values | told))  # type: ignore[arg-type]  # the fields' own types


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_odd_names_in_metrics() -> None:
    """5.3: quotes, backslashes, line ends lone surrogates and controls in names do not break the format."""
    limit = status_schema.RateLimit('a"b\\c\nd\ud800\x9b\u202e', 10, 5, 1.5, 0.0)
    found = samples(exposition.metrics_text(a_status(rate_limits=(limit,))))
    assert found["artifactfs_info", "1", '/m"\\\n', "o", ""] == 1
    assert found["artifactfs_rate_limit_reset_seconds", 'a"b\\c\nd?\\x9b\\u202e'] == 1.5
    assert found["artifactfs_uptime_seconds",] == 1.5


def test_what_is_not_known_is_left_out() -> None:
    """5.3: an unknown size is no 0; and no family is there without a sample."""
    text = exposition.metrics_text(a_status())
    found = samples(text)
    assert not any(name[0] in ("artifactfs_cache_bytes", "artifactfs_rate_limit") for name in found)
    assert b"artifactfs_rate_limit" not in text
    assert found["artifactfs_health", "ok"] == 1
    assert sum(value for name, value in found.items() if name[0] == "artifactfs_health") == 1


def test_a_histogram_adds_up() -> None:
    """5.3: buckets hold what is below them, the last all."""
    times = status_schema.Times(3, 0.7, (0.1, 1.0), (1, 2))
    found = samples(exposition.metrics_text(a_status(requests=status_schema.Requests(times={"run": times}))))
    buckets = [found["artifactfs_answer_seconds_bucket", "run", bound] for bound in ("0.1", "1", "+Inf")]
    assert buckets == [1, 2, 3]
    assert (found["artifactfs_answer_seconds_count", "run"], found["artifactfs_answer_seconds_sum", "run"]) == (3, 0.7)


def test_the_json_is_read_back() -> None:
    """5.3: what is written is read by the schema, a path that is no UTF-8 written out."""
    one = a_status(
        mountpoint="/\udc80", last_error=Failed("m", "t", 2, "a", "b"),
        listings=status_schema.Listings(last_walk=status_schema.LastWalk(1, 2, 3.0, {"run": 1}, 4)),
    )  # fmt: skip
    read = msgspec.json.decode(exposition.status_json(one), type=Status)
    assert read == msgspec.structs.replace(one, mountpoint="/\\x80")


def test_strict_readers_take_the_json() -> None:
    """What is no UTF-8 is written out, and all else stays as it is."""
    told = {"a": os.fsdecode(b"/mnt/\xff"), "b": "\ud83d", "c": "\U0001f600 \\x \u00e9"}
    text = exposition.json_text([told])
    assert msgspec.json.decode(text) == [{"a": "/mnt/\\xff", "b": "\\ud83d", "c": told["c"]}]


def test_errors_in_sentences() -> None:
    """5.3: time, what happened, how often, and what to do, the last first; nothing that a terminal would obey."""
    failures = [Failed("x \x1b[2J", "do it", 3, "T1", "T2"), Failed("y", "", 1, "T0", "T0")]
    assert exposition.errors_text(failures, "T3").decode().splitlines() == [
        "T2  x \\x1b[2J (the last of 3 since T1)", "    what to do: do it", "T0  y (once)",
    ]  # fmt: skip
    assert exposition.errors_text([], "T3") == b"no failures until T3\n"
