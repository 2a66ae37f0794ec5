"""The port `Notifier` on real receivers: mail and HTTP on loopback, one that is dead, one that never answers."""

import io
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from service.adapters.apprise import AppriseChannels
from service.clock import SystemClock
from service.logs import configure
from service.settings import LogFormat, Logs
from tests.receivers import Hook, Mail, hook, mail, mute, nobody

SECRET = "hush-hush"
WITHIN = timedelta(seconds=10)


@pytest.fixture
def post() -> Iterator[Mail]:
    with mail() as server:
        yield server


@pytest.fixture
def web() -> Iterator[Hook]:
    with hook() as server:
        yield server


@pytest.fixture
def channels() -> AppriseChannels:
    return AppriseChannels(SystemClock())


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that Relight's own log says, at its most talkative."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level, ours = root.handlers[:], root.level, structlog.get_config()
    configure(Logs(log_format=LogFormat.JSON, log_level="debug"), stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**ours)


async def test_message_arrives_by_mail_and_by_http_with_title_and_body(
    channels: AppriseChannels, post: Mail, web: Hook
) -> None:
    before = datetime.now(UTC)
    told = await channels.tell({"mail": post.url, "hook": web.url}, "metrics restarts", "at 02:00", "warning", WITHIN)
    assert {name: one.error for name, one in told.items()} == {"mail": None, "hook": None}
    assert all(one.at is not None and before <= one.at <= datetime.now(UTC) for one in told.values())
    ((recipients, subject, text),) = post.mails
    assert (recipients, subject) == (("ops@example.org",), "metrics restarts")
    assert "at 02:00" in text
    ((body),) = web.posts
    assert (body["title"], body["message"], body["type"]) == ("metrics restarts", "at 02:00", "warning")


async def test_dead_channel_delays_nobody_beside_it(channels: AppriseChannels, web: Hook) -> None:
    with mute() as silent:
        began, before = time.monotonic(), datetime.now(UTC)
        urls = {f"mute{n}": f"{silent}{n}" for n in range(12)} | {"hook": web.url}
        told = await channels.tell(urls, "title", "body", "info", timedelta(seconds=2))
        assert time.monotonic() - began < 4, "twelve hanging channels wait side by side"
    assert told["hook"].at is not None
    assert told["hook"].at - before < timedelta(seconds=2), "the live one was not kept waiting"
    assert [one.at for name, one in told.items() if name != "hook"] == [None] * 12
    assert all("did not answer" in (one.error or "") for name, one in told.items() if name != "hook")


async def test_every_failure_says_its_cause_and_no_word_of_the_url(
    channels: AppriseChannels, web: Hook, logged: io.StringIO
) -> None:
    web.status = 503
    logging.getLogger("urllib3").warning("the log is open")
    with nobody() as dead:
        port = dead.split(":")[2].split("/")[0]
        urls = {
            "dead": dead,
            "mail": f"mailto://relay:hush-hush-mail@127.0.0.1:{port}/?from=a@example.org&to=b@example.org&mode=insecure",
            "busy": web.url,
            "wrong": "hush-hush://no/such/service",
            "slack": "slack://hush-hush-slack",
        }
        told = await channels.tell(urls, "title", "body", "critical", WITHIN)
    errors = {name: one.error or "" for name, one in told.items()}
    assert "refused" in errors["dead"]
    assert "refused" in errors["mail"]
    assert "503" in errors["busy"]
    assert "none that Apprise knows" in errors["wrong"]
    assert "none that Apprise knows" in errors["slack"]
    assert SECRET not in " ".join(errors.values())
    assert "the log is open" in logged.getvalue()
    assert SECRET not in logged.getvalue()
