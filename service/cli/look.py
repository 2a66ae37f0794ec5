"""`relight status`, `history` and `watch`: how things stand, what happened, what is happening. Changes nothing."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import Any

from machines.lifecycle import NAME as LIFECYCLE
from machines.model import SETTLED, InstanceId, Snapshot
from machines.registry import VERSIONS
from service.cli.connect import status_topic, store
from service.cli.console import Screen
from service.cli.render import Tone, one_line, read
from service.cli.restart import local_zone
from service.cli.waits import SAID, acts, given_up, waits, waits_for_a_worker
from service.cli.words import clock, day, short, span
from service.errors import RelightError
from service.ports import GateView, InstanceView, LogRow, StepRow
from service.settings import Settings


def status(settings: Settings, screen: Screen, system: str | None, as_json: bool) -> int:
    """A row an instance, and below it what is under way. 1 when the system is not known."""
    views, gates = asyncio.run(_standing(settings, system))
    if system is not None and not views:
        raise RelightError(f"Relight knows no system called {system!r}; `relight status` shows all")
    if as_json:
        now = datetime.now(UTC)
        screen.json([_view(view, now, gates) for view in views])
        return 0
    if not views:
        screen.say("no instances yet: `relight serve` registers each system when it starts")
        return 0
    zone, now = local_zone(), datetime.now(UTC)
    screen.table(
        ("INSTANCE", "STATE", "SINCE", "FOR", "SEQ", "STEPS"),
        [
            (
                view.snapshot.instance,
                view.snapshot.state,
                day(view.snapshot.entered_at, zone),
                span(now - view.snapshot.entered_at),
                str(view.snapshot.seq),
                _progress(view.steps),
            )
            for view in views
        ],
    )
    for view in views:
        past = given_up(view.snapshot, zone)
        for wait in (*waits(view, now, zone), *([past] if past is not None else [])):
            screen.say(f"{view.snapshot.instance}: {wait.text}", Tone.WAIT)
            for fact in wait.facts:
                screen.say(f"    {fact}", Tone.BAD)
            for way in wait.ways:
                screen.say(f"    {way.command(view.snapshot.instance):<72}  {way.effect}", Tone.QUIET)
    for gate in gates:
        held = f"{gate.waiting} operation{'' if gate.waiting == 1 else 's'} held since {clock(gate.since, zone)}"
        screen.say(f"{gate.system}: {held}; the first expires at {clock(gate.expiring, zone)}", Tone.WAIT)
    return 0


async def _standing(
    settings: Settings, system: str | None
) -> tuple[tuple[InstanceView, ...], tuple[GateView, ...]]:  # fmt: skip
    async with store(settings) as opened:
        return await opened.instances(system), await opened.gates(system)


def _progress(steps: tuple[StepRow, ...]) -> str:
    return f"{sum(step.status in SETTLED for step in steps)}/{len(steps)}" if steps else ""


def _gate(snapshot: Snapshot, gates: tuple[GateView, ...]) -> dict[str, Any] | None:
    """What the gate of a lifecycle's system holds; None when it holds nothing."""
    for gate in gates:
        if snapshot.instance == f"{LIFECYCLE}/{gate.system}":
            return {"held": gate.waiting, "since": gate.since, "first_expires": gate.expiring}
    return None


def _view(view: InstanceView, now: datetime, gates: tuple[GateView, ...] = ()) -> dict[str, Any]:
    snapshot = view.snapshot
    machine = VERSIONS.get((snapshot.machine, snapshot.machine_version))
    known = [s for s in machine.states if s.name == snapshot.state] if machine is not None else []
    return {
        "instance": snapshot.instance,
        "system": snapshot.system,
        "machine": snapshot.machine,
        "machine_version": snapshot.machine_version,
        "config_hash": snapshot.config_hash,
        "epoch": snapshot.epoch,
        "seq": snapshot.seq,
        "state": snapshot.state,
        "status": known[0].status if known else None,
        "entry": snapshot.entry,
        "entered_at": snapshot.entered_at,
        "dwell_until": snapshot.dwell_until,
        "deadline_at": snapshot.deadline_at,
        "then": (known[0].then or None) if known else None,
        "data": dict(snapshot.data),
        "hash": snapshot.hash,
        "gate": _gate(snapshot, gates),
        "acts": [
            {"act": way.act, "step": way.step, "effect": way.effect, "command": way.command(snapshot.instance)}
            for way in acts(view)
        ],
        "steps": [
            {
                "name": step.key.name,
                "action": step.planned.action,
                "component": step.planned.component,
                "status": "waiting_for_worker" if waits_for_a_worker(step, now) else step.status.value,
                "attempt": step.attempt,
                "attempts": step.planned.attempts,
                "place": step.place,
                "worker": step.worker,
                "ready_at": step.ready_at,
                "waits_until": view.silent_at(step.key.name),
                "error": step.error,
                "result": dict(step.result),
            }
            for step in view.steps
        ],
    }


def history(settings: Settings, screen: Screen, instance: str, after: int, limit: int, as_json: bool) -> int:
    """The rows of a log, oldest first. 1 when there is no such instance."""
    rows = asyncio.run(_history(settings, InstanceId(instance), after, limit))
    if as_json:
        for row in rows:
            screen.json(_row(row))
        return 0
    zone = local_zone()
    screen.table(
        ("SEQ", "AT", "FROM", "TO", "EVENT", "BY", "REASON"),
        [
            (
                str(row.seq),
                day(row.at, zone),
                row.state_from,
                row.state_to if row.kind == "transition" else "refused",
                row.event_type.removeprefix("relight."),
                row.user or "",
                short(_reason(row), SAID),
            )
            for row in rows
        ],
    )
    return 0


async def _history(settings: Settings, instance: InstanceId, after: int, limit: int) -> tuple[LogRow, ...]:
    async with store(settings) as opened:
        rows = await opened.history(instance, after, limit)
        if rows:
            return rows
        known = [view.snapshot.instance for view in await opened.instances()]
        if instance in known:
            return ()
        raise RelightError(f"there is no instance {instance!r}; there are: {', '.join(known) or 'none yet'}")


def _reason(row: LogRow) -> str:
    record = json.loads(row.record)
    return str(record.get("reason") or "; ".join(record.get("reasons", [])))


def _row(row: LogRow) -> dict[str, Any]:
    """`record` stays the text that was hashed: parsed and printed again it might not be the same bytes."""
    return {
        "instance": row.instance,
        "epoch": row.epoch,
        "seq": row.seq,
        "kind": row.kind,
        "at": row.at,
        "from": row.state_from,
        "to": row.state_to,
        "event": {"source": row.event.source, "id": row.event.id, "type": row.event_type},
        "user": row.user,
        "causation": row.causation,
        "correlation": row.correlation,
        "machine_version": row.machine_version,
        "config_hash": row.config_hash,
        "record": row.record,
        "previous": row.previous,
        "hash": row.hash,
    }


def watch(settings: Settings, screen: Screen, binding: str, as_json: bool) -> int:
    """Notifications as they come, until Ctrl-C (which is how watching is meant to end)."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(settings, screen, binding, as_json))
    return 0


async def _watch(settings: Settings, screen: Screen, binding: str, as_json: bool) -> None:
    zone = local_zone()
    async with status_topic(settings).watching(binding) as notifications:
        screen.note(f"watching relight.status, binding {binding}; Ctrl-C ends")
        async for key, body in notifications:
            if as_json:
                screen.json({"routing_key": key, "event": json.loads(body)})
                continue
            said = read(body)
            if said is not None:
                screen.line(one_line(said, zone))
            else:
                screen.say(f"{key}  (a notification that this version does not know)", Tone.QUIET)
