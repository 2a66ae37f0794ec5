"""RabbitMQ takes nothing, refuses for a stranger's sake, loses a queue, and brings events twice, late and in disorder.

The broker is the session's; each story leaves it as it was.
"""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from service.embedded import RabbitServer
from service.embedded.management import Management
from tests.faults.evidence import read_heard
from tests.faults.harness import METRICS, SYSTEM
from tests.faults.load import SOURCE, Load
from tests.faults.scene import BACK, LIFECYCLE, Scene, scene
from tests.servers import Databases

one_loop = pytest.mark.asyncio(loop_scope="module")

ALARM, NO_ALARM = "0.00001", "0.6"
"""Shares of the machine's memory above which the broker takes nothing any more."""
METRICS_QUEUE = "relight.intake.metrics.0"
HOUR = 3600.0
"""Seconds between two wishes for a restart where only the first one is meant."""
CROWD = 120
"""Events that are published two or three times each."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(
    databases: Databases, rabbit_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    async with scene(tmp_path_factory.mktemp("broker") / "a", databases, rabbit_server, Scene) as stage:
        await stage.begin()
        yield stage


@one_loop
async def test_memory_alarm_stops_no_restart_and_what_is_to_be_said_is_said_afterwards(
    stage: Scene, rabbit_server: RabbitServer
) -> None:
    lost = stage.said("owner.lost")
    async with stage.under_load(restart_every=HOUR):
        async with alarmed(rabbit_server):
            await stage.until("operational", stage.is_operational, BACK)
            asked = await restarts(stage)
            await asked_for_on_the_command_line(stage)
            await stage.until("it restarted", lambda: restarted(stage, asked), BACK)
            assert await stage.value("SELECT count(*) FROM relight.outbox") > 0, "a broker under alarm takes no words"
            assert stage.said("owner.lost") == lost, "a broker that takes nothing is not away"
        stage.over("the broker's memory alarm")
        await stage.until("all was said", lambda: all_is_said(stage), BACK)
        await stage.until("it goes on", stage.grows(await stage.rows() + 50), BACK)
    await stage.everything_answers()


@one_loop
async def test_strangers_full_queue_under_load_costs_nobody_else_a_notification(stage: Scene) -> None:
    async with stage.under_load():
        async with stage.strangers_full_queue():
            await stage.until("refused ones are set aside", lambda: set_aside(stage, 30), BACK)
        stage.over("a stranger's full queue")
        await stage.until("it goes on", stage.grows(await stage.rows() + 50), BACK)
        await stage.until("all was said", lambda: all_is_said(stage), BACK)
        before = await stage.value("SELECT count(*) FROM relight.undelivered")
        await stage.until("it goes on", stage.grows(await stage.rows() + 50), BACK)
        assert await stage.value("SELECT count(*) FROM relight.undelivered") == before, "nobody refuses any more"
    # The checker excuses whoever did not hear these; here somebody listened beside the stranger all along.
    await stage.until("everybody else hears everything", lambda: set_aside_is_heard(stage), BACK)


@one_loop
async def test_what_stood_in_a_deleted_queue_is_repeated_by_its_publisher_and_has_its_effect_once(
    stage: Scene, rabbit_server: RabbitServer
) -> None:
    events = crowd()
    await stage.load.connect()
    try:
        for number, (key, data) in enumerate(events.items()):
            await publish(stage.load, key, data)
            if number == CROWD // 2:
                await management(rabbit_server).delete(f"/queues/{urlsplit(stage.amqp_url).path[1:]}/{METRICS_QUEUE}")
                stage.over("a deleted queue")
        await stage.until("everything has an outcome", lambda: repeated_until_known(stage, events), BACK)
    finally:
        await stage.load.close()
    note_confirmed(stage, events)
    await stage.everything_answers()


@one_loop
async def test_events_twice_late_and_in_disorder_have_one_outcome_each(stage: Scene) -> None:
    chance, events = random.Random(4), crowd()
    before = await stage.counted('relight_events_total{outcome="duplicate"}')
    other = Load(stage.amqp_url, SYSTEM, stage.folder / "others.jsonl")
    copies = [key for key in events for _ in range(chance.choice([2, 3]))]
    chance.shuffle(copies)
    async with stage.under_load():
        await other.connect()
        try:
            publishers = [stage.load, other]
            await asyncio.gather(*(publish(publishers[n % 2], key, events[key]) for n, key in enumerate(copies)))
            await stage.until("one outcome each", lambda: all_have_outcomes(stage, events), BACK)
            # And a last copy of each when its outcome is long known.
            await asyncio.gather(*(publish(other, key, data) for key, data in events.items()))
            stage.over("events twice and in disorder")
        finally:
            await other.close()
        await stage.until("copies were known", lambda: duplicates(stage, before + len(copies)), BACK)
    note_confirmed(stage, events)


@one_loop
async def test_cancel_that_comes_when_nothing_is_left_to_cancel_is_refused_and_moves_nothing(stage: Scene) -> None:
    await stage.rest()
    await stage.load.connect()
    try:
        state, seq = await stage.value("SELECT (state, seq) FROM relight.instances WHERE instance = $1", LIFECYCLE)
        cancel = await stage.load.publish("restart.cancelled", {"reason": "too late"}, LIFECYCLE)
        await stage.until("an outcome", lambda: all_have_outcomes(stage, [cancel]), BACK)
    finally:
        await stage.load.close()
    found = await stage.value("SELECT outcomes::text FROM relight.inbox WHERE source = $1 AND id = $2", SOURCE, cancel)
    assert json.loads(found) == {LIFECYCLE: "refused"}
    after = await stage.value("SELECT (state, seq) FROM relight.instances WHERE instance = $1", LIFECYCLE)
    assert after == (state, seq + 1)
    stage.over("an event that came late")


@one_loop
async def test_after_all_moods_the_checker_finds_nothing(stage: Scene) -> None:
    await stage.judged()


def crowd() -> dict[str, dict[str, object]]:
    """Measurements by their ids that move their alerts up and down."""
    measured = [{"metric": f"m{n % METRICS}", "value": float(n // METRICS % 2 * 95)} for n in range(CROWD)]
    return {f"{uuid.uuid4()}": data for data in measured}


# ---- what the broker is put into


@asynccontextmanager
async def alarmed(server: RabbitServer) -> AsyncIterator[None]:
    """No more memory, as far as the broker knows: it reads nothing more from connections that publish."""
    await server.ctl("set_vm_memory_high_watermark", ALARM)
    try:
        yield
    finally:
        await server.ctl("set_vm_memory_high_watermark", NO_ALARM)


def management(server: RabbitServer) -> Management:
    parts = urlsplit(server.management_url)
    return Management(parts.port or 15672, parts.username or "", parts.password or "")


# ---- what is published and asked


def event(key: str, data: dict[str, object]) -> bytes:
    """The same bytes for the same key: otherwise it would be another event."""
    found = {
        "specversion": "1.0", "id": key, "source": SOURCE, "type": "relight.metric.observed", "subject": SYSTEM,
        "data": data,
    }  # fmt: skip
    return json.dumps(found).encode()


async def publish(load: Load, key: str, data: dict[str, object]) -> None:
    await load.raw(event(key, data), f"{SYSTEM}.metric.observed")


def note_confirmed(stage: Scene, events: Mapping[str, dict[str, object]]) -> None:
    """For the checker: each of these was confirmed at least once."""
    with stage.published.open("a") as file:
        for key, data in events.items():
            line = {"source": SOURCE, "id": key, "verdict": "confirmed", "instance": f"alert/{SYSTEM}/{data['metric']}"}
            file.write(json.dumps(line) + "\n")


async def lacking(stage: Scene, keys: Collection[str]) -> list[str]:
    """Those that have no outcome."""
    query = "SELECT coalesce(array_agg(id), '{}') FROM relight.inbox WHERE source = $1 AND id = ANY ($2)"
    known = set(await stage.value(query, SOURCE, list(keys)))
    return [key for key in keys if key not in known]


async def all_have_outcomes(stage: Scene, keys: Collection[str]) -> bool:
    return not await lacking(stage, keys)


async def repeated_until_known(stage: Scene, events: Mapping[str, dict[str, object]]) -> bool:
    """What a publisher does that wants to be sure; True when nothing is left to repeat."""
    left = await lacking(stage, events)
    for key in left:
        await publish(stage.load, key, events[key])
    return not left


async def duplicates(stage: Scene, least: float) -> bool:
    return await stage.counted('relight_events_total{outcome="duplicate"}') >= least


async def asked_for_on_the_command_line(stage: Scene) -> None:
    """A restart, through the database: a broker under alarm takes no events either."""
    asked = await asyncio.to_thread(stage.command, "restart", SYSTEM, "--reason", "under an alarm")
    assert asked.returncode == 0, asked.stdout + asked.stderr


async def restarts(stage: Scene) -> int:
    """How often the system became operational again."""
    query = "SELECT count(*) FROM relight.log WHERE instance = $1 AND state_from LIKE 'starting_up.%' AND state_to = $2"
    return int(await stage.value(query, LIFECYCLE, "operational"))


async def restarted(stage: Scene, before: int) -> bool:
    return await restarts(stage) > before


async def all_is_said(stage: Scene) -> bool:
    """Nothing that was decided before now is still to be said."""
    newest = await stage.value("SELECT coalesce(max(id), 0) FROM relight.outbox")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if not await stage.value("SELECT count(*) FROM relight.outbox WHERE id <= $1", newest):
            return True
        await asyncio.sleep(0.05)
    return False


async def set_aside(stage: Scene, least: int) -> bool:
    return bool(await stage.value("SELECT count(*) >= $1 FROM relight.undelivered", least))


async def set_aside_is_heard(stage: Scene) -> bool:
    """Whether the subscriber has heard every notification that the stranger refused."""
    refused = await stage.value("SELECT array_agg(message_id) FROM relight.undelivered")
    return {note.id for note in read_heard(stage.heard)}.issuperset(refused)
