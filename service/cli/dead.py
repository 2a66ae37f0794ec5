"""`relight dead`: what could not be taken in (d…) and what could not be delivered (u…), looked at, replayed, dropped.

Nothing is deleted: whatever a person does is kept with the row, under the name of who did it here.
"""

import asyncio
import getpass
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.envelope import Read, Rejected, read
from service.cli.connect import store
from service.cli.console import Screen
from service.cli.home import find
from service.cli.local_door import TAKEN_IN_WITHIN, Request, put
from service.cli.publish import CONFIRM_WITHIN
from service.cli.render import Tone
from service.cli.restart import local_zone
from service.cli.words import day, short
from service.errors import RelightError, Unavailable
from service.ports import DeadRow, EventKey, Reader, Sent, Settled, Settlement, UndeliveredRow
from service.settings import Settings
from service.timeouts import time_limit

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore

DEAD, UNDELIVERED = "d", "u"


def listed(settings: Settings, screen: Screen, all_of_them: bool, limit: int, as_json: bool) -> int:
    """A row each, newest first; without `all_of_them` only what nobody has settled yet."""
    dead, undelivered = asyncio.run(_rows(settings, limit, all_of_them))
    if as_json:
        screen.json({"dead": [_json(row) for row in dead], "undelivered": [_json(row) for row in undelivered]})
        return 0
    if not dead and not undelivered:
        screen.say("nothing: everything that arrived was taken in, and every notification was delivered")
        return 0
    zone = local_zone()
    rows = [
        (
            f"{DEAD}{row.id}", day(row.letter.at, zone), row.letter.queue,
            f"{row.letter.routing_key} {row.letter.event_id or ''}".strip(),
            row.letter.user or "", short("; ".join(row.letter.reasons), 90), _done(row.settled),
        )
        for row in dead
    ] + [
        (
            f"{UNDELIVERED}{row.id}", day(row.at, zone), row.message.exchange,
            f"{row.message.routing_key} {row.message.message_id}", "", short(row.why, 90), _done(row.settled),
        )
        for row in undelivered
    ]  # fmt: skip
    screen.table(("ID", "AT", "WHERE", "WHAT", "BY", "WHY", "SETTLED"), rows)
    screen.say(
        "`relight dead show ID` has all of it; `relight dead replay ID` and `relight dead drop ID --reason WHY` end it",
        Tone.QUIET,
    )
    return 0


def show(settings: Settings, screen: Screen, name: str, as_json: bool) -> int:
    """One row with its body, and for a dead letter whether it would be taken in today."""
    row, hurdle = asyncio.run(_with_store(settings, lambda opened: _row_and_hurdle(opened, name)))
    if as_json:
        screen.json({**_json(row), "refused_again_because": hurdle})
        return 0
    for key, value in _json(row).items():
        if key not in ("body", "settled"):
            screen.say(f"{key + ':':<14}{'; '.join(value) if isinstance(value, list) else value}")
    screen.say(f"{'settled:':<14}{_done(row.settled) or 'no'}")
    if isinstance(row, DeadRow):
        screen.say(f"{'replayed:':<14}{f'it would be refused again: {hurdle}' if hurdle else 'it would be read today'}")
    screen.say(str(_json(row)["body"]))
    return 0


def replay(settings: Settings, screen: Screen, name: str, reason: str, user: str | None, as_json: bool) -> int:
    """0 when it was taken in (or delivered) now, 1 when it was refused or died again. Raises RelightError with why."""
    said = asyncio.run(_with_store(settings, lambda opened: _replay(settings, opened, name, reason, user)))
    if as_json:
        screen.json({"id": name, "replayed": True, "outcomes": said.outcomes, "event": said.event})
    else:
        screen.say(said.words, Tone.GOOD if said.well else Tone.BAD)
    return 0 if said.well else 1


def drop(settings: Settings, screen: Screen, names: list[str], reason: str) -> int:
    """Settles each of them; 1 when one was not there or settled before."""

    async def drop_all(opened: "PostgresStore") -> list[str]:
        rows = [await _row(opened, name) for name in names]
        problems = []
        for name, row in zip(names, rows, strict=True):
            if not await _settle(opened, row, Settled.DROPPED, reason):
                problems.append(f"{name} was settled before: {_done((await _row(opened, name)).settled)}")
        return problems

    problems = asyncio.run(_with_store(settings, drop_all))
    for problem in problems:
        screen.problem(problem)
    screen.say(f"dropped {len(names) - len(problems)}, as {_me()}; `relight dead list --all` still shows them")
    return 1 if problems else 0


@dataclass(frozen=True, slots=True)
class _Said:
    words: str
    well: bool
    outcomes: Mapping[str, str]
    event: str | None = None


async def _replay(settings: Settings, opened: "PostgresStore", name: str, reason: str, user: str | None) -> _Said:
    row, hurdle = await _row_and_hurdle(opened, name)
    if row.settled is not None:
        raise RelightError(f"{name} was settled before: {_done(row.settled)}. Nothing was replayed.")
    if isinstance(row, UndeliveredRow):
        return await _deliver(settings, opened, row, name, reason)
    if hurdle is not None:
        raise RelightError(
            f"{name} was not replayed, for it would be refused again: {hurdle}\n"
            f"Publish a corrected event instead, and then `relight dead drop {name} --reason WHY`."
        )
    event, body = _anew(row)
    key = EventKey(str(event["source"]), str(event["id"]))
    if user is not None:
        await _publish(settings, row.letter.routing_key, key, body, user)
    else:
        await put(opened, Request(key.id, str(event["subject"]), body.decode()))
    # Settled at once: it was put through the door, and its new id makes a second replay a known event.
    await _settle(opened, row, Settled.REPLAYED, reason)
    outcomes = await _outcomes(opened, key)
    if outcomes is None:
        raise RelightError(
            f"{name} was replayed as {key.id}, but nobody took it in within {TAKEN_IN_WITHIN.seconds} s: no `relight "
            "serve` decides for this system. It is kept: the next one that starts takes it in."
        )
    words = ", ".join(
        f"{outcome} at {instance}" if instance != "-" else outcome for instance, outcome in outcomes.items()
    )
    well = all(outcome in ("applied", "absorbed") for outcome in outcomes.values())
    more = "" if well else "; `relight history INSTANCE` and `relight dead list` say why"
    return _Said(f"replayed {name} as event {key.id}: {words}{more}", well, outcomes, key.id)


async def _deliver(
    settings: Settings, opened: "PostgresStore", row: UndeliveredRow, name: str, reason: str
) -> _Said:  # fmt: skip
    """The same message with its own id once more: subscribers that have it drop it."""
    from service.adapters.rabbitmq import RabbitBroker
    from service.clock import SystemClock

    url = find(settings.servers).amqp_url
    try:
        async with (
            RabbitBroker(url, clock=SystemClock()) as broker,
            broker.publisher() as publisher,
            time_limit(CONFIRM_WITHIN),
        ):
            while not broker.available()["publishing"]:  # noqa: ASYNC110  # the port says how it is, not when it changes
                await asyncio.sleep(0.05)
            (verdict,) = await publisher.publish([row.message])
    except TimeoutError as error:
        raise Unavailable("RabbitMQ", f"{name} was not confirmed within {CONFIRM_WITHIN:.0f} s") from error
    if verdict is not Sent.CONFIRMED:
        raise RelightError(
            f"{name} was refused again: some queue that is bound to {row.message.exchange} is full and refuses what it "
            "cannot take.\nFind it among the broker's queues, make room or unbind it, then replay it. The status log "
            "has the message."
        )
    await _settle(opened, row, Settled.REPLAYED, reason)
    return _Said(f"delivered {name}: {row.message.routing_key} {row.message.message_id}", well=True, outcomes={})


async def _publish(settings: Settings, routing_key: str, key: EventKey, body: bytes, user: str) -> None:
    from service.adapters.rabbitmq import publish_event
    from service.cli.publish import url_of

    await publish_event(url_of(settings, user), routing_key, body, key.id, CONFIRM_WITHIN)


async def _outcomes(opened: "PostgresStore", key: EventKey) -> Mapping[str, str] | None:
    for _ in range(round(TAKEN_IN_WITHIN.total_seconds() * 5)):
        if (found := await opened.outcomes(key)) is not None:
            return found
        await asyncio.sleep(0.2)
    return None


def _anew(row: DeadRow) -> tuple[dict[str, Any], bytes]:
    """The event with an id of its own: the old one has its outcome already. The same letter always gets the same."""
    event: dict[str, Any] = json.loads(row.letter.body)
    event["causationid"] = f"{event['source']} {event['id']}"
    event["id"] = f"dead-letter-{row.id}"
    return event, json.dumps(event).encode()


async def _row_and_hurdle(opened: "PostgresStore", name: str) -> "tuple[DeadRow | UndeliveredRow, str | None]":
    row = await _row(opened, name)
    return row, await _hurdle(opened, row) if isinstance(row, DeadRow) else None


async def _hurdle(opened: Reader, row: DeadRow) -> str | None:
    """Why the letter would be refused again, as far as can be told without trying."""
    match read(row.letter.body, row.letter.routing_key or None):
        case Rejected(reasons=reasons):
            return "; ".join(reasons)
        case Read(kind=kind, envelope=envelope) if kind.engine_raised:
            return f"{envelope.type} is raised by Relight itself, never accepted from outside"
        case Read(envelope=envelope) if not await opened.instances(envelope.subject):
            return f"no system is called {envelope.subject!r} here"
        case _:
            return None


async def _row(opened: "PostgresStore", name: str) -> DeadRow | UndeliveredRow:
    kind, number = name[:1], name[1:]
    found: tuple[DeadRow | UndeliveredRow, ...] = ()
    if number.isdecimal() and len(number) < 19:
        if kind == DEAD:
            found = await opened.dead(1, settled=True, only=int(number))
        elif kind == UNDELIVERED:
            found = await opened.undelivered(1, settled=True, only=int(number))
    if not found:
        raise RelightError(f"there is no {name!r}; `relight dead list --all` shows what there is: d1, u7, …")
    return found[0]


async def _settle(opened: "PostgresStore", row: DeadRow | UndeliveredRow, how: Settled, reason: str) -> bool:
    settle = opened.settle_dead if isinstance(row, DeadRow) else opened.settle_undelivered
    return await settle(row.id, how, _me(), reason)


async def _rows(
    settings: Settings, limit: int, all_of_them: bool
) -> tuple[tuple[DeadRow, ...], tuple[UndeliveredRow, ...]]:
    async with store(settings) as opened:
        dead = await opened.dead(limit, settled=all_of_them)
        return dead, await opened.undelivered(limit, settled=all_of_them)


async def _with_store(settings: Settings, work: "Callable[[PostgresStore], Any]") -> Any:
    async with store(settings) as opened:
        return await work(opened)


def _me() -> str:
    return f"{getpass.getuser()} (local)"


def _done(settled: Settlement | None) -> str:
    return f"{settled.how} by {settled.by} at {day(settled.at, local_zone())}: {settled.why}" if settled else ""


def _json(row: DeadRow | UndeliveredRow) -> dict[str, Any]:
    if isinstance(row, UndeliveredRow):
        message = row.message
        return {
            "id": f"{UNDELIVERED}{row.id}", "at": row.at, "exchange": message.exchange,
            "routing_key": message.routing_key, "message_id": message.message_id, "reasons": [row.why],
            "body": message.body, "settled": row.settled,
        }  # fmt: skip
    letter = row.letter
    return {
        "id": f"{DEAD}{row.id}", "at": letter.at, "queue": letter.queue, "routing_key": letter.routing_key,
        "source": letter.source, "event_id": letter.event_id, "user": letter.user, "attempts": letter.attempts,
        "reasons": list(letter.reasons), "body": letter.body.decode("utf-8", "backslashreplace"),
        "settled": row.settled,
    }  # fmt: skip
