"""artifactfs.mount.offline: which failures let a mount begin offline, and which are its end (8.3, 8.4)."""

import logging
import os

import pytest
import trio
from trio.testing import MockClock

from artifactfs import errors, settings
from artifactfs.errors import ExitCode, UserError
from artifactfs.modellab.client import ModelLab
from artifactfs.mount import offline, preflight
from artifactfs.mount.sd_notify import Notifier
from tests.transports import OK, connect

ACCOUNT = "=mine"
AWAY: list[errors.ServiceError] = [
    errors.Unreachable("no route"),
    errors.ConnectionRefused("refused"),
    errors.ConnectionLost("reset"),
    errors.TimedOut("no answer"),
    errors.ServerFailed("503", 503),
    errors.RateLimited("429", 3600.0),
    # A network that wants a log-in first: a certificate of its own, a page, a redirect to one.
    errors.TlsFailed("TLS failed: self-signed certificate"),
    errors.UnexpectedAnswer("an HTML page"),
    errors.UnexpectedAnswer("302, a redirect that is not followed", 302),
]
# The service's own word.
NO: list[tuple[errors.ServiceError, ExitCode]] = [
    (errors.AccessDenied("403", 403), ExitCode.KEYS_REJECTED),
    (errors.AccessDenied("401", 401), ExitCode.KEYS_REJECTED),
    (errors.NoList("404", 404), ExitCode.NOT_MODEL_LAB),
    (errors.BadRequest("400", 400), ExitCode.NOT_MODEL_LAB),
    (errors.AnswerTooLarge("256 MiB"), ExitCode.NOT_MODEL_LAB),
]


class Lab(ModelLab):
    """A service that fails in one way, or takes its time to accept the keys."""

    def __init__(self, failure: Exception | None = None, pause_s: float = 0.0) -> None:
        super().__init__(connect(OK)[0], deadline_s=30.0)
        self.failure = failure
        self.pause_s = pause_s
        self.asked = 0

    async def check_keys(self) -> None:
        self.asked += 1
        await trio.sleep(self.pause_s)
        if self.failure is not None:
            raise self.failure


class Told(Notifier):
    """Who started the mount."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def loaded(word: str, **flags: str | bool) -> settings.Settings:
    given = {"offline": word, "api_url": "https://api.test", **flags}
    return settings.load(given, config_file=os.devnull, environ={}, need_keys=False)


@pytest.mark.parametrize("failure", AWAY, ids=str)
@pytest.mark.parametrize("wait", [False, True])
async def test_a_service_that_is_away(
    failure: errors.ServiceError, wait: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """8.4: auto mounts offline at once, with `wait`, too, and says why and what comes of it."""
    told = Told()
    state = await offline.begin(Lab(failure), loaded("auto", wait=wait), told, ACCOUNT)
    assert state is not None
    assert trio.current_time() == 0
    assert failure.fact in state.fact
    assert "every 30 s" in state.fix
    assert len(told.warnings) == 1
    assert failure.fact in told.warnings[0]
    assert "mounted offline" in told.warnings[0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(("failure", "code"), NO, ids=str)
async def test_a_service_that_says_no(failure: errors.ServiceError, code: ExitCode, autojump_clock: MockClock) -> None:
    """5.8, 8.4: keys that are refused, and a server of another kind, fail the mount, whatever is stored."""
    with pytest.raises(UserError) as caught:
        await offline.begin(Lab(failure), loaded("auto"), Told(), ACCOUNT)
    assert caught.value.code is code


@pytest.mark.parametrize(("word", "account"), [("never", ACCOUNT), ("auto", None)])
async def test_what_fails_as_before(
    word: str, account: str | None, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.8, 8.4: without the setting, and where nothing of the site is stored, a mount fails, or waits."""
    monkeypatch.setattr(preflight, "boottime", trio.current_time)
    failure = errors.Unreachable("no route")
    with pytest.raises(UserError) as caught:
        await offline.begin(Lab(failure), loaded(word), Told(), account)
    assert caught.value.code is ExitCode.UNREACHABLE
    lab = Lab(failure)
    with pytest.raises(UserError, match="gave up after 60 s"):
        await offline.begin(lab, loaded(word, wait=True, wait_max="60"), Told(), account)
    assert lab.asked > 2


async def test_a_service_that_is_slow(autojump_clock: MockClock) -> None:
    """8.4: it has ten seconds, where there is something to show without it."""
    state = await offline.begin(Lab(pause_s=20.0), loaded("auto"), Told(), ACCOUNT)
    assert state is not None
    assert trio.current_time() == 10
    assert "did not answer within 10 s" in state.fact
    assert await offline.begin(Lab(pause_s=20.0), loaded("auto"), Told(), None) is None
    assert await offline.begin(Lab(pause_s=20.0), loaded("never"), Told(), ACCOUNT) is None


async def test_offline_the_service_is_not_asked(autojump_clock: MockClock) -> None:
    """8.3: with --offline no request is sent; without anything stored there is nothing to mount."""
    lab = Lab()
    state = await offline.begin(lab, loaded("always"), Told(), ACCOUNT)
    assert state is not None
    assert "--offline" in state.fact
    with pytest.raises(UserError) as caught:
        await offline.begin(lab, loaded("always"), Told(), None)
    assert caught.value.code is ExitCode.MOUNT_REFUSED
    assert str(caught.value).startswith("nothing of api.test is stored in ")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"what is stored in .* cannot be used: Read-only file system; see that "):
        await offline.begin(lab, loaded("always"), Told(), None, "Read-only file system")
    with pytest.raises(UserError, match="nothing is stored with metadata_size 0"):
        await offline.begin(lab, loaded("always", metadata_size="0"), Told(), ACCOUNT)
    assert lab.asked == 0
