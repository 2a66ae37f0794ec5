"""Telling people as stories: who is told what, what a dead channel costs, and what required delivery means."""

import pytest

from schemas.base import Json
from service.errors import Retry
from tests.unit.steps_world import Shop

RESTART: dict[str, Json] = {
    "id": "r1", "reason": "new release", "requested_by": "ana", "requested_at": "2026-03-01T00:00:00+00:00",
    "due": "2026-03-01T00:15:00+00:00",
}  # fmt: skip
BOTH = {"warning": ["env:MAIL", "env:SLACK"], "critical": ["env:PAGER"], "info": ["env:MAIL"]}


def shop(**changes: Json) -> Shop:
    made = Shop(**{"channels": BOTH, "zone": "Europe/Berlin", "allow": {"restart": ["ana"]}, **changes})
    secrets = {"env:MAIL": "mailto://hush@mail", "env:SLACK": "slack://hush/token", "env:PAGER": "pagerduty://hush"}
    made.memory.secrets.values.update(secrets)
    made.data["restart"] = RESTART
    made.state = "preparing_for_restart.notifying"
    return made


async def tell(at: Shop, occasion: str = "planned", severity: str = "warning", delivery: str = "best_effort") -> dict:
    return dict(await at.perform("notice.tell", occasion=occasion, severity=severity, delivery=delivery))


async def test_everybody_is_told_which_system_when_who_why_and_how_to_cancel() -> None:
    at = shop()
    result = await tell(at)
    assert [url for url, *_ in at.memory.notifier.told] == ["mailto://hush@mail", "slack://hush/token"]
    _, title, body, severity = at.memory.notifier.told[0]
    assert severity == "warning"
    assert title == "shop restarts: its pause begins at 01:15:00 on Sun 2026-03-01 (Europe/Berlin)"
    for said in ("System: shop", "asked for by ana: new release", "relight act lifecycle/shop abort", "r1"):
        assert said in body
    assert result["detail"] == "told 2/2"
    assert result["delivered_at"] == "2026-03-01T00:00:00+00:00"
    assert [one["channel"] for one in result["deliveries"]] == ["env:MAIL", "env:SLACK"]
    assert "hush" not in str(result)


async def test_one_live_channel_is_enough_and_the_dead_one_is_named() -> None:
    at = shop()
    at.memory.notifier.dead["slack://hush/token"] = "the connection was refused"
    result = await tell(at, delivery="required")
    assert result["detail"] == "told 1/2; not env:SLACK: the connection was refused"
    assert result["deliveries"][1] == {
        "channel": "env:SLACK", "delivered_at": None, "error": "the connection was refused"
    }  # fmt: skip


async def test_missing_secret_is_a_channel_that_failed_and_stops_no_other() -> None:
    at = shop()
    del at.memory.secrets.values["env:MAIL"]
    result = await tell(at, delivery="required")
    assert "env:MAIL is missing" in result["deliveries"][0]["error"]
    assert result["deliveries"][1]["error"] is None


async def test_required_delivery_that_reached_nobody_is_tried_again_and_says_what_to_mend() -> None:
    at = shop()
    at.memory.notifier.dead = dict.fromkeys(("mailto://hush@mail", "slack://hush/token"), "it did not answer")
    with pytest.raises(Retry) as caught:
        await tell(at, delivery="required")
    assert "nobody of shop could be told on channels.warning" in str(caught.value)
    assert "env:MAIL: it did not answer; env:SLACK: it did not answer" in str(caught.value)
    assert "hush" not in str(caught.value)
    at.memory.notifier.dead.clear()
    at.time.passed = 40
    assert (await tell(at, delivery="required"))["delivered_at"] == "2026-03-01T00:00:40+00:00"


async def test_best_effort_never_fails() -> None:
    at = shop()
    at.memory.notifier.dead = dict.fromkeys(("mailto://hush@mail", "slack://hush/token"), "it did not answer")
    result = await tell(at)
    assert "delivered_at" not in result
    assert result["detail"].startswith("told 0/2")


async def test_system_without_channels_is_told_in_the_log_and_on_the_topic_alone() -> None:
    at = shop(channels={})
    assert await tell(at, severity="critical", delivery="required") == {
        "told": ["relight.status shop.lifecycle.preparing_for_restart.notifying", "log"]
    }


async def test_required_notice_announces_the_pause_from_when_people_hear_of_it() -> None:
    at = shop(restart={"notice": {"lead": "15m", "delivery": "required"}})
    at.time.passed = 120
    await tell(at, delivery="required")
    assert "01:17:00" in at.memory.notifier.told[0][1]


@pytest.mark.parametrize(
    ("occasion", "severity", "state", "data", "said"),
    [
        (
            "asked", "warning", "preparing_for_restart.awaiting_approval",
            {"restart": {**RESTART, "approval": {"plan": "ab" * 32, "by": ["ben", "lea"], "on_silence": "deny"}}},
            ["ben, lea", f"relight approve lifecycle/shop --plan {'ab' * 32}", "given up at 01:30:00", "new release"],
        ),
        (
            "given_up", "warning", "preparing_for_restart.resuming",
            {"restart": RESTART, "failure": {"state": "x", "reason": "not tonight", "steps": {"tell": "mail is down"}}},
            ["does not happen", "not tonight", "tell: mail is down"],
        ),
        (
            "up_again", "info", "starting_up.restoring",
            {"restart": RESTART, "down_since": "2026-02-28T23:58:00+00:00", "verified": {"checks": {"a": 1, "b": 2}}},
            ["down for 2m (promised: at most 10m)", "2 checks passed"],
        ),
        ("up_again", "info", "starting_up.restoring", {"restart": RESTART}, ["NOT verified"]),
        (
            "called", "critical", "halted",
            {"restart": RESTART, "failure": {"state": "starting_up.verifying", "steps": {"check:0": "no trades"}}},
            ["It is DOWN", "check:0: no trades", "relight status shop", "retry, adopt or abort", "r1"],
        ),
        (
            "called", "critical", "degraded",
            {"last_abort": {**RESTART, "failure": {"state": "x", "reason": "cancelled", "steps": {}}}},
            ["runs as far as anybody knows", "cancelled", "relight act lifecycle/shop", "r1"],
        ),
    ],
)  # fmt: skip
async def test_each_occasion_says_what_its_readers_need(
    occasion: str, severity: str, state: str, data: dict[str, Json], said: list[str]
) -> None:
    at = shop(allow={"approve": {"by": ["ben", "lea"], "within": "30m"}})
    at.data, at.state = data, state
    await tell(at, occasion=occasion, severity=severity)
    _, title, body, kind = at.memory.notifier.told[0]
    assert kind == severity
    assert "shop" in title
    assert [words for words in said if words not in body] == []


def test_plan_names_the_channels_by_their_references() -> None:
    told = shop().plan("notice.tell", severity="warning", occasion="planned", delivery="required")
    assert told.startswith("tell env:MAIL, env:SLACK, one of which has to be reached")
    assert "hush" not in told
