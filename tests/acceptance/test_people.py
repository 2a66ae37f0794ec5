"""A person at a terminal against the real `serve`: what is stuck is cleared with the very commands that are printed."""

import contextlib
import json
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import pytest_asyncio
import yaml

from tests.acceptance.terminal import ME, paste, relight, says, stands
from tests.faults.evidence import read_effects
from tests.faults.harness import SYSTEM, Stage, staged
from tests.servers import Databases, Vhosts, unique

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LIFECYCLE = f"lifecycle/{SYSTEM}"
INCIDENT = "incident"
"""A file that must not be there, or no verification passes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One process for the whole file; every story leaves the system operational."""
    async with staged(tmp_path_factory.mktemp("people"), databases, vhosts, Stage) as stage:
        described = yaml.safe_load(stage.file.read_text())
        described["restart"]["limits"]["stop"] = "4s"
        described["verify"].append({"files": INCIDENT, "access": "absent"})
        stage.file.write_text(yaml.safe_dump(described))
        await stage.start()
        await stage.until("ready", stage.ready)
        await stage.load.connect()
        await stands(stage, "operational")
        yield stage


def pid_of(stage: Stage, component: str) -> int:
    """The process of a component, from Relight's own record of it."""
    record = json.loads((stage.folder / "home" / "processes" / f"{SYSTEM}.{component}" / "state.json").read_text())
    return int(record["pid"])


# ---- act


async def test_restart_that_waits_is_aborted_with_the_printed_command_and_a_wrong_act_says_why(stage: Stage) -> None:
    worker = pid_of(stage, "worker")
    refused = await relight(stage, "act", LIFECYCLE, "retry", "--reason", "why not", status=1)
    assert "lifecycle/shop is operational; operator.retry moves nothing there" in refused
    os.kill(pid_of(stage, "front"), signal.SIGSTOP)
    try:
        due = "2099-01-01T02:00:00+00:00"
        await relight(stage, "restart", SYSTEM, "--due", due, "--reason", "some time")
        text = await says(stage, "waits for its due time")
        assert "if nobody acts: give the restart up and resume at" in text
        early = await relight(stage, "act", LIFECYCLE, "hands-off", "--reason", "mine", status=1)
        assert "refused: nothing of shop was stopped yet" in early
        said = await paste(stage, text, "abort")
        assert "lifecycle/shop is preparing_for_restart.resuming" in said
    finally:
        os.kill(pid_of(stage, "front"), signal.SIGCONT)
    await stands(stage, "operational")
    assert pid_of(stage, "worker") == worker


async def halted(stage: Stage) -> str:
    """A restart whose verification does not pass: everything is started, paused. What status says."""
    await relight(stage, "restart", SYSTEM, "--reason", "tonight")
    await stands(stage, "shutting_down", "starting_up.initializing", "starting_up.verifying")
    (stage.file.parent / INCIDENT).touch()
    text = await says(stage, "waits for a person, for ever: halted", f"files {INCIDENT}: it is there")
    assert worker_did(stage)[-1] == "start"
    return text


def worker_did(stage: Stage) -> list[str]:
    """What the worker's process and its participant really did, in order; questions left out."""
    done = (effect.what for effect in read_effects(stage.effects) if effect.component == "worker")
    return [what for what in done if what != "report"]


@pytest.mark.parametrize("act", ["adopt", "abort"])
async def test_start_that_failed_its_verification_leaves_nobody_paused_when_a_person_ends_it(
    stage: Stage, act: str
) -> None:
    text = await halted(stage)
    await paste(stage, text, act)
    await stands(stage, "degraded")
    assert worker_did(stage)[-2:] == ["start", "resume"]
    (stage.file.parent / INCIDENT).unlink()
    await paste(stage, await says(stage, "for ever: degraded"), "adopt")
    await stands(stage, "operational")


# ---- report


async def test_report_is_a_page_in_storage_and_on_the_terminal(stage: Stage) -> None:
    said = await relight(stage, "restart", SYSTEM, "--watch", "--reason", "for the report")
    (url,) = re.findall(r"OPERATIONAL .* report (file://\S+)", said)
    written = Path(url.removeprefix("file://")).read_text()
    (view,) = (
        one for one in json.loads(await relight(stage, "status", SYSTEM, "--json")) if "lifecycle" in one["machine"]
    )
    assert view["data"]["last_restart"]["report"] == url
    printed = await relight(stage, "report", LIFECYCLE)
    assert printed.startswith("# Restart of shop: done\n")
    for text in (written, printed):
        assert f"| Asked for by | {ME} at " in text
        assert text.count("- [x] ") == 8  # the system has no database to back up
        assert "✓ proven by stop:front, stop:worker, confirm_stopped, start:worker, start:front" in text
    assert await relight(stage, "report", LIFECYCLE, "--restart", view["data"]["last_restart"]["id"]) == printed
    assert "says nothing of the restart 'never'" in await relight(
        stage, "report", LIFECYCLE, "--restart", "never", status=1
    )


# ---- dead


def measurement(**changes: Any) -> bytes:
    about = {
        "specversion": "1.0", "id": str(uuid.uuid4()), "source": "test/people", "type": "relight.metric.observed",
        "subject": SYSTEM, "data": {"metric": "m5", "value": 99.0}, **changes,
    }  # fmt: skip
    return json.dumps(about).encode()


async def newest(stage: Stage, kind: str = "dead") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await relight(stage, "dead", "list", "--json"))[kind][0]
    return found


async def died(stage: Stage, body: bytes, key: str = f"{SYSTEM}.metric.observed") -> dict[str, Any]:
    count = "SELECT count(*) FROM relight.dead_letters"
    before = await stage.value(count)
    await stage.load.raw(body, key)

    async def there() -> bool:
        return bool(await stage.value(count) > before)

    await stage.until("a dead letter", there, 15)
    return await newest(stage)


async def test_dead_letter_that_may_live_is_replayed_once_under_the_persons_name(stage: Stage) -> None:
    first = measurement(data={"metric": "m5", "value": 1.0})
    await stage.load.raw(first, f"{SYSTEM}.metric.observed")
    letter = await died(stage, measurement(id=json.loads(first)["id"]))  # a known id with another body
    shown = await relight(stage, "dead", "show", letter["id"])
    assert "known already, with another body" in shown
    assert "it would be read today" in shown
    said = await relight(stage, "dead", "replay", letter["id"], "--reason", "the publisher was mended")
    assert "applied at alert/shop/m5" in said
    assert ME in await relight(stage, "history", "alert/shop/m5")
    again = await relight(stage, "dead", "replay", letter["id"], status=1)
    assert f"was settled before: replayed by {ME}" in again
    assert "the publisher was mended" in again
    listed = json.loads(await relight(stage, "dead", "list", "--json"))["dead"]
    assert letter["id"] not in [row["id"] for row in listed]


async def test_dead_letter_that_would_die_again_is_not_replayed_and_says_why(stage: Stage) -> None:
    letter = await died(stage, measurement(type="relight.weather.changed"), f"{SYSTEM}.weather.changed")
    said = await relight(stage, "dead", "replay", letter["id"], status=1)
    assert "it would be refused again: the type 'relight.weather.changed' is not known" in said
    ours = await died(stage, measurement(type="relight.timer.fired", data={
        "instance": LIFECYCLE, "entry": 1, "kind": "dwell"}), f"{SYSTEM}.timer.fired")  # fmt: skip
    said = await relight(stage, "dead", "replay", ours["id"], status=1)
    assert "relight.timer.fired is raised by Relight itself" in said
    dropped = await relight(stage, "dead", "drop", letter["id"], ours["id"], "--reason", "a typing error")
    assert "dropped 2" in dropped
    kept = json.loads(await relight(stage, "dead", "list", "--all", "--json"))["dead"]
    (row,) = (row for row in kept if row["id"] == letter["id"])
    assert (row["settled"]["how"], row["settled"]["by"], row["settled"]["why"]) == ("dropped", ME, "a typing error")
    assert "was settled before" in await relight(stage, "dead", "drop", letter["id"], "--reason", "x", status=1)
    assert "there is no 'd999999'" in await relight(stage, "dead", "show", "d999999", status=1)


async def test_undelivered_notification_is_delivered_once_somebody_has_made_room(stage: Stage) -> None:
    connection = await aio_pika.connect(stage.amqp_url)
    async with connection:
        channel = await connection.channel()
        full = await channel.declare_queue(
            unique("full"), arguments={"x-max-length": 1, "x-overflow": "reject-publish"}, auto_delete=False
        )
        await full.bind("relight.status", f"{SYSTEM}.alert.#")
        await channel.default_exchange.publish(aio_pika.Message(b"taken"), full.name)
        await stage.load.raw(measurement(data={"metric": "m3", "value": 99.0}), f"{SYSTEM}.metric.observed")

        async def stuck() -> bool:
            return bool(await stage.value("SELECT count(*) FROM relight.undelivered"))

        await stage.until("an undelivered notification", stuck, 20)
        row = await newest(stage, "undelivered")
        said = await relight(stage, "dead", "replay", row["id"], status=1)
        assert "was refused again" in said
        assert "make room or unbind it" in said
        await full.purge()
        said = await relight(stage, "dead", "replay", row["id"])
        assert f"delivered {row['id']}: {row['routing_key']}" in said
        message = await full.get(timeout=10)
        assert message.body.decode() == row["body"]
        assert message.message_id == row["message_id"]
        await message.ack()
        with contextlib.suppress(aio_pika.exceptions.AMQPError):
            await full.delete(if_unused=False, if_empty=False)
    assert await stage.value("SELECT count(*) FROM relight.undelivered WHERE settled IS NULL") == 0
