"""A batch as the parameters of the function `relight.commit`: rows as tuples in arrays, the rare rest as JSON.

asyncpg asks of each element of an array whether it is one more dimension of it. A tuple is a row of a composite type:
it is asked about once.
"""

import base64
import json
from collections.abc import Mapping, Sequence, Sized
from datetime import datetime

from machines.model import StepStatus
from service.adapters.postgres.rows import dump, dump_planned, optional_dump, quick_dump, readable
from service.errors import Poison
from service.ports import Batch, DeadLetter, GateChange, HeldRow, StepChange, StepRow, TimerRow

Fields = dict[str, object]


def parameters(batch: Batch) -> tuple[object, ...]:
    """In the order of the function's signature, and each row in that of its type (`relight.new_log` and the others).

    A moment that is the batch's own is left out. Raises Poison for what JSON cannot say.
    """
    at = batch.at
    return (
        batch.shard,
        batch.token,
        at,
        [(row.key.source, row.key.id, row.body_hash, quick_dump(dict(row.outcomes))) for row in batch.inbox],
        [
            (
                row.instance, row.epoch, row.seq, row.kind, None if row.at == at else row.at, row.state_from,
                row.state_to, row.event.source, row.event.id, row.event_type, row.user, row.causation, row.correlation,
                row.machine_version, row.config_hash, row.record, row.previous, row.hash,
            )
            for row in batch.log
        ],
        [
            (
                new.instance, new.system, new.machine, new.machine_version, new.config_hash, new.epoch, new.seq,
                new.state, new.entry, None if new.entered_at == at else new.entered_at, new.dwell_until,
                new.deadline_at, quick_dump(new.data), new.hash, write.expected_seq,
            )
            for write in batch.snapshots
            for new in (write.snapshot,)
        ],
        [(out.exchange, out.routing_key, out.message_id, out.body) for out in batch.outbox],
        batch.signals_done,
        batch.sent,
        [(seen.instance, seen.minute, seen.count, seen.total) for seen in batch.observations],
        _rest(batch),
    )  # fmt: skip


def _rest(batch: Batch) -> str | None:
    rest: dict[str, Sized] = {
        "leave": [{"instance": instance, "entry": entry} for instance, entry in batch.leave],
        "steps_new": [_new_step(row) for row in batch.steps_new],
        "step_changes": [_change(change) for change in batch.step_changes],
        "timers_fired": [_timer(row) for row in batch.timers_fired],
        "timers": [_timer(row) for row in batch.timers],
        "dead": [_dead(letter) for letter in batch.dead],
        "gates": _gates(batch.gates, batch.at),
    }
    given = {name: rows for name, rows in rest.items() if rows}
    if not given:
        return None
    try:
        return json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Poison(f"a value cannot be stored as JSON: {error}") from error


def _gates(gates: Sequence[GateChange], at: datetime) -> Mapping[str, list[Fields]]:
    parts: dict[str, list[Fields]] = {
        "expired": [
            {"system": gate.system, "id": row.id, "source": row.event.source, "event_id": row.event.id,
             "instance": gate.instance}
            for gate in gates for row in gate.expired
        ],
        "released": [{"system": gate.system, "at": at.isoformat()} for gate in gates if gate.released],
        "held": [_held(row) for gate in gates for row in gate.new],
        "counts": [{"system": gate.system, "held": gate.held} for gate in gates],
    }  # fmt: skip
    return {name: rows for name, rows in parts.items() if rows}


def _held(row: HeldRow) -> Fields:
    message = row.message
    return {
        "system": row.system,
        "source": row.event.source,
        "event_id": row.event.id,
        "user": row.user,
        "local": row.local,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "message_id": message.message_id,
        "body": message.body,
        "held_at": row.held_at.isoformat(),
        "expires_at": row.expires_at.isoformat(),
    }


def _new_step(row: StepRow) -> Fields:
    return {
        "instance": row.key.instance,
        "entry": row.key.entry,
        "name": row.key.name,
        "system": row.system,
        "place": row.place,
        "position": row.planned.position,
        "planned": dump_planned(row.planned),
        "status": row.status,
        "state": row.state,
        "config_hash": row.config_hash,
        "attempt": row.attempt,
        "ready_at": _moment(row.ready_at),
        "token": row.token,
        "worker": row.worker,
        "lease_until": _moment(row.lease_until),
        "answer": optional_dump(row.answer),
        "result": dump(row.result),
        "error": row.error,
    }


def _change(change: StepChange) -> Fields:
    return {
        "instance": change.key.instance,
        "entry": change.key.entry,
        "name": change.key.name,
        "status": change.status,
        "only_from": None if len(change.only_from) == len(StepStatus) else sorted(change.only_from),
        "ready_at": _moment(change.ready_at),
        "answer": optional_dump(change.answer),
        "attempt": change.attempt,
        "error": change.error,
    }


def _timer(row: TimerRow) -> Fields:
    return {"instance": row.instance, "kind": row.kind, "entry": row.entry, "due_at": row.due_at.isoformat()}


def _dead(letter: DeadLetter) -> Fields:
    # Whatever arrived must find its place here: this is where an event ends that nothing else could take.
    return {
        "queue": readable(letter.queue),
        "routing_key": readable(letter.routing_key),
        "reasons": [readable(reason) for reason in letter.reasons],
        "body": base64.b64encode(letter.body).decode(),
        "source": None if letter.source is None else readable(letter.source),
        "event_id": None if letter.event_id is None else readable(letter.event_id),
        "user": None if letter.user is None else readable(letter.user),
        "attempts": letter.attempts,
        "at": letter.at.isoformat(),
    }


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
