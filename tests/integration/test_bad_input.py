"""Bad input against the real process: refused aloud or kept as dead, counted, and nobody behind it waits."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.faults.evidence import Notification
from tests.faults.harness import SYSTEM, Stage, describe, staged
from tests.faults.load import SOURCE, status_log
from tests.servers import Databases, Vhosts

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = "_none._none._refused"
SHOP = f"{SYSTEM}._none._refused"
VAULT = "vault"
"""A second system, whose owners let nobody of this test do anything."""
SOON = 5.0
"""Seconds in which an event behind a bad one is settled; it takes milliseconds on a machine that is not busy."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One process for the whole file: whatever is sent to it must leave it well."""
    async with staged(tmp_path_factory.mktemp("bad"), databases, vhosts, Stage) as stage:
        closed = describe(stage.folder, stage.effects, "somebody-else") | {"system": VAULT}
        stage.folder.joinpath("vault.yaml").write_text(yaml.safe_dump(closed))
        stage.systems.append(stage.folder / "vault.yaml")
        await stage.start()
        await stage.until("ready", stage.ready)
        await stage.load.connect()
        yield stage


def event(**changes: Any) -> dict[str, Any]:
    """A good measurement with some of it changed."""
    good = {
        "specversion": "1.0", "id": str(uuid.uuid4()), "source": "test/bad", "type": "relight.metric.observed",
        "subject": SYSTEM, "data": {"metric": "m5", "value": 1.0},
    }  # fmt: skip
    return {**good, **changes}


def text(**changes: Any) -> bytes:
    return json.dumps(event(**changes)).encode()


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Raw(str):
    """A routing key whose bytes are no UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return super().encode() + b".\xff\xfe"


@dataclass(frozen=True)
class Bad:
    """What arrives, where, and what is said of it. `user`: with the verified name of its publisher."""

    body: Callable[[], bytes]
    reason: str
    said_at: str = SHOP
    key: str = f"{SYSTEM}.metric.observed"
    user: bool = True


OBSERVED = "relight.metric.observed"
ENGINES = {"instance": f"lifecycle/{SYSTEM}", "entry": 1, "kind": "deadline"}

DEAD = {
    "unreadable": Bad(lambda: b"{nonsense", "not JSON", NOBODY),
    "empty": Bad(lambda: b"", "not JSON", NOBODY),
    "no object": Bad(lambda: b"[1, 2]", "not an object", NOBODY),
    "oversized": Bad(lambda: text(padding="x" * 256 * 1024), "at most 262144 are allowed", NOBODY),
    "too deep": Bad(lambda: text(extension=nested(40)), "nested deeper", NOBODY),
    "endlessly deep": Bad(lambda: b"[" * 200_000, "not JSON", NOBODY),
    "not UTF-8": Bad(lambda: text(id="?").replace(b"?", b"\xff\xfe"), "not UTF-8", NOBODY),
    "half a surrogate": Bad(lambda: text(id="?").replace(b"?", b"\\ud800"), "not JSON", NOBODY),
    "unknown type": Bad(lambda: text(type="relight.tea.ready"), "is not known", SHOP, f"{SYSTEM}.tea.ready"),
    "foreign type": Bad(lambda: text(type="com.example.metric.observed"), "is not known"),
    "unknown system": Bad(
        lambda: text(subject="atlantis"), "no system is called 'atlantis'", NOBODY, "atlantis.metric.observed"
    ),
    "nameless system": Bad(lambda: text(subject="../etc"), "subject", NOBODY),
    "unknown field": Bad(lambda: text(data={"metric": "m5", "value": 1.0, "colour": "red"}), "data.colour"),
    "missing field": Bad(lambda: text(data={"metric": "m5"}), "data.value"),
    "wrong type of field": Bad(lambda: text(data={"metric": "m5", "value": "high"}), "data.value"),
    "no number": Bad(lambda: text(data={"metric": "m5", "value": 1}).replace(b": 1}", b": NaN}"), "", NOBODY),
    "endless number": Bad(lambda: text(data={"metric": "m5", "value": 1}).replace(b": 1}", b": 1e999}"), "value"),
    "wrong specversion": Bad(lambda: text(specversion="0.3"), "specversion"),
    "no id": Bad(lambda: text(id=""), "id: "),
    "another system's key": Bad(lambda: text(subject=VAULT), "does not agree", f"{VAULT}._none._refused"),
    "another type's key": Bad(
        lambda: text(type="relight.restart.cancelled", data={"reason": "no"}), "does not agree"
    ),
    "engine-raised": Bad(
        lambda: text(type="relight.timer.fired", data=ENGINES), "never accepted from outside", SHOP,
        f"{SYSTEM}.timer.fired",
    ),
    "nul in its id": Bad(lambda: text(id="a\0b"), "U+0000"),
    "nul in its source": Bad(lambda: text(source="a\0b"), "U+0000"),
    "nul in its data": Bad(
        lambda: text(type="relight.restart.requested", data={"reason": "a\0b"}), "U+0000", SHOP,
        f"{SYSTEM}.restart.requested",
    ),
    "an endless id": Bad(lambda: text(id="x" * 200_000), "id: "),
    "no text in its routing key": Bad(text, "does not agree", SHOP, Raw(f"{SYSTEM}.metric")),
    "nul in its routing key": Bad(text, "does not agree", SHOP, f"{SYSTEM}.metric\0"),
    "a chain without end": Bad(lambda: text(causationdepth=17), "at most 16"),
    "a moment outside of time": Bad(
        lambda: text(data={"metric": "m5", "value": 99.0, "at": "0001-01-01T00:00:00+23:59"}), ""
    ),
    "a due time outside of time": Bad(
        lambda: text(type="relight.restart.requested", data={"reason": "x", "due": "9999-12-31T23:59:59Z"}), "",
        SHOP, f"{SYSTEM}.restart.requested",
    ),
}  # fmt: skip
"""Nobody's instance could take these: kept byte for byte as dead letters. A reason "" is anybody's words."""


@pytest.mark.parametrize("what", DEAD)
async def test_it_is_kept_as_dead_said_and_counted_and_the_next_event_is_applied(stage: Stage, what: str) -> None:
    bad, body = DEAD[what], DEAD[what].body()
    dead = await stage.counted('relight_events_total{outcome="dead"}')
    await stage.load.raw(body, bad.key, user=bad.user)
    await applied(stage, within=SOON)
    await stage.until("a dead letter", lambda: letter(stage, body), SOON)
    kept = await letter(stage, body)
    assert kept["queue"].startswith("relight.")
    assert bad.reason in " ".join(kept["reasons"]), kept["reasons"]
    assert kept["user"]
    assert ("\\xff" in kept["key"]) == isinstance(bad.key, Raw)
    assert await stage.counted('relight_events_total{outcome="dead"}') == dead + 1
    note = await said(
        stage, lambda note: note.data.get("reasons") == kept["reasons"] and note.routing_key == bad.said_at
    )
    assert note.type == "refused"
    assert note.data["seq"] is None


async def test_known_id_with_another_body_is_dead_and_the_first_stands(stage: Stage) -> None:
    key = str(uuid.uuid4())
    first, second = (text(id=key, data={"metric": "m4", "value": value}) for value in (1.0, 2.0))
    await stage.load.raw(first, f"{SYSTEM}.metric.observed")
    await stage.load.raw(second, f"{SYSTEM}.metric.observed")
    await applied(stage, within=SOON)
    kept = await letter(stage, second)
    assert "known already, with another body" in kept["reasons"][0]
    assert not await letter(stage, first)
    assert await outcomes(stage, "test/bad", key) == {f"alert/{SYSTEM}/m4": "absorbed"}


async def test_known_id_with_the_same_body_is_no_news(stage: Stage) -> None:
    body = text(data={"metric": "m4", "value": 3.0})
    dead = await stage.value("SELECT count(*) FROM relight.dead_letters")
    for _ in range(3):
        await stage.load.raw(body, f"{SYSTEM}.metric.observed")
    await applied(stage, within=SOON)
    assert await stage.value("SELECT count(*) FROM relight.dead_letters") == dead


NOT_ALLOWED = {
    "no verified user": (SYSTEM, "restart.requested", {"reason": "please"}, False, "no verified user", "lifecycle"),
    "another user": (VAULT, "restart.requested", {"reason": "please"}, True, "may not restart vault", "lifecycle"),
    "an observer who is none": (
        VAULT, "metric.observed", {"metric": "m1", "value": 99.0}, True, "may not observe", "alert",
    ),
    "a right that nobody has": (
        SYSTEM, "operator.acted", {"instance": f"lifecycle/{SYSTEM}", "act": "abort", "reason": "please"}, True,
        "only the local command line may", "lifecycle",
    ),
    "an answer for another": (
        SYSTEM, "participant.answered",
        {"component": "worker", "commandid": f"lifecycle/{SYSTEM}:1:pause:worker", "token": 1, "outcome": "done"}, True,
        "only shop.worker may", "lifecycle",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_ALLOWED)
async def test_who_is_not_allowed_is_refused_aloud_and_moves_nothing(stage: Stage, what: str) -> None:
    system, name, data, user, reason, machine = NOT_ALLOWED[what]
    key = str(uuid.uuid4())
    refused = await stage.counted('relight_events_total{outcome="refused"}')
    body = text(id=key, type=f"relight.{name}", subject=system, data=data)
    await stage.load.raw(body, f"{system}.{name}", user=user)
    await applied(stage, within=SOON)
    note = await said(stage, lambda note: (note.data.get("event") or {}).get("id") == key)
    assert note.routing_key == f"{system}.{machine}._refused"
    assert reason in note.data["reasons"][0]
    assert note.data["seq"] is not None
    assert await stage.counted('relight_events_total{outcome="refused"}') == refused + 1
    kinds = await stage.value("SELECT array_agg(kind) FROM relight.log WHERE event_id = $1", key)
    assert kinds == ["refusal"]


async def test_crowd_of_bad_events_costs_no_good_one_its_place(stage: Stage) -> None:
    before = await stage.value("SELECT count(*) FROM relight.dead_letters")
    bad = list(DEAD.values())
    sent: list[str] = []

    async def send(number: int) -> None:
        one = bad[number % len(bad)]
        await stage.load.raw(one.body(), one.key, user=one.user)

    async with asyncio.TaskGroup() as crowd:
        for number in range(5 * len(bad)):
            crowd.create_task(send(number))
            if number % 5 == 0:
                sent.append(await stage.load.publish(*observed(99.0 if len(sent) % 2 == 0 else 1.0, "m3")))
    await stage.until("every good event settled", lambda: all_settled(stage, sent), 20)
    # Those whose bytes are always the same are one event, known from its first time on.
    await stage.until("every bad one kept", lambda: more_dead(stage, before + 3 * len(bad)), 20)
    assert await stage.ready()
    assert stage.process is not None
    assert stage.process.returncode is None


# ---- what the stories ask


def observed(value: float, metric: str = "m0") -> tuple[str, dict[str, Any], str]:
    return "metric.observed", {"metric": metric, "value": value}, f"alert/{SYSTEM}/{metric}"


async def applied(stage: Stage, within: float) -> None:
    """One good measurement, which crosses a threshold, on each lane's own way: settled in time."""
    state = await stage.value("SELECT state FROM relight.instances WHERE instance = $1", f"alert/{SYSTEM}/m0")
    began = time.monotonic()
    key = await stage.load.publish(*observed(1.0 if state == "critical" else 99.0))
    await stage.until("the event behind settled", lambda: settled(stage, key), within)
    assert await outcomes(stage, SOURCE, key) == {f"alert/{SYSTEM}/m0": "applied"}
    assert time.monotonic() - began < within


async def outcomes(stage: Stage, source: str, key: str) -> dict[str, str]:
    found = await stage.value("SELECT outcomes FROM relight.inbox WHERE source = $1 AND id = $2", source, key)
    return dict(json.loads(found)) if found else {}


async def settled(stage: Stage, key: str) -> bool:
    return bool(await outcomes(stage, SOURCE, key))


async def all_settled(stage: Stage, keys: list[str]) -> bool:
    return bool(await stage.value("SELECT count(*) = $2 FROM relight.inbox WHERE id = ANY ($1)", keys, len(keys)))


async def more_dead(stage: Stage, count: int) -> bool:
    return bool(await stage.value("SELECT count(*) >= $1 FROM relight.dead_letters", count))


async def letter(stage: Stage, body: bytes) -> dict[str, Any]:
    """The dead letter with exactly this body; empty when there is none."""
    query = """SELECT jsonb_build_object('reasons', reasons, 'queue', queue, 'user', "user", 'key', routing_key)
               FROM relight.dead_letters WHERE body = $1 LIMIT 1"""
    found = await stage.value(query, body)
    return dict(json.loads(found)) if found else {}


async def said(stage: Stage, which: Callable[[Notification], bool]) -> Notification:
    """The notification on the status log. Raises AssertionError when there is none."""
    for _ in range(3):
        for note in await status_log(stage.amqp_url):
            if which(note):
                return note
    raise AssertionError("nothing was said of it")
