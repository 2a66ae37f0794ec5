"""What must hold after every story, as findings by name; an empty list is a good end."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator

from machines.registry import MACHINES
from service.engine.records import fold
from service.ports import EventKey
from tests.simulation.story import Story


def findings(story: Story) -> list[str]:
    """Every invariant that does not hold, in words."""
    return [
        *_events(story), *_logs(story), *_notifications(story), *_rest(story), *_restarts(story), *_operations(story),
    ]  # fmt: skip


def _events(story: Story) -> Iterator[str]:
    for identity in story.published:
        row = story.store.tables.inbox.get(EventKey("publisher", identity))
        if row is None:
            yield f"lost: {identity} has no outcome"
        elif len(row[0].outcomes) != 1:
            yield f"outcomes: {identity} has {row[0].outcomes}"
    if story.store.tables.dead:
        yield f"dead: {story.store.tables.dead[0].reasons}"


def _logs(story: Story) -> Iterator[str]:
    tables = story.store.tables
    for instance, snapshot in tables.instances.items():
        rows = [row for (owner, _), row in sorted(tables.log.items()) if owner == instance]
        try:
            folded = fold(rows)
        except ValueError as error:
            yield f"log: {error}"
            continue
        if folded != snapshot:
            yield f"fold: {instance} folds to {folded}, stored is {snapshot}"
        for before, after in itertools.pairwise(rows):
            if before.state_to != after.state_from:
                yield f"gap: {instance} went to {before.state_to} and on from {after.state_from}"
        counted = Counter(row.event for row in rows if row.event.source == "publisher")
        yield from (f"twice: {key.id} has {n} rows at {instance}" for key, n in counted.items() if n > 1)


def _notifications(story: Story) -> Iterator[str]:
    told: dict[str, list[int]] = {}
    seen: set[str] = set()
    for entry in story.broker.log:
        envelope = json.loads(entry.body)
        if envelope["id"] in seen:
            continue
        seen.add(envelope["id"])
        data = envelope["data"]
        if envelope["type"] in ("relight.transition", "relight.refused") and data.get("seq") is not None:
            told.setdefault(data["instance"], []).append(data["seq"])
    for instance, snapshot in story.store.tables.instances.items():
        expected = list(range(1, snapshot.seq + 1))
        if told.get(instance, []) != expected:
            yield f"notifications: {instance} has {snapshot.seq} rows, told in the order {told.get(instance)}"
    if story.store.tables.outbox:
        # Confirmed rows may still wait for their deletion; unsent ones may not be there any more.
        ids = {message.message_id for _, message in story.store.tables.outbox.values()}
        if ids - seen:
            yield f"unsent: {sorted(ids - seen)[:3]}"


def _rest(story: Story) -> Iterator[str]:
    for instance, snapshot in story.store.tables.instances.items():
        state = MACHINES[snapshot.machine].state(snapshot.state)
        if not (state.resting or state.final):
            yield f"stuck: {instance} still stands in {snapshot.state} since {snapshot.entered_at}"


def _operations(story: Story) -> Iterator[str]:
    """What was taken in and not refused was released, in the order in which it was taken in; nothing else was."""
    tables, operations = story.store.tables, set(story.operations)
    absorbed = [
        key.id
        for key, (row, _) in tables.inbox.items()
        if key.id in operations and set(row.outcomes.values()) == {"absorbed"}
    ]
    bodies = [json.loads(body) for body in story.broker.bodies("relight.operations.metrics")]
    released = list(dict.fromkeys(body["id"] for body in bodies))
    if released != absorbed:
        yield f"operations: taken in were {absorbed}, released were {released}"
    if tables.gates.rows:
        yield f"held: {[row.event.id for row in tables.gates.rows.values()]} still wait"


def _restarts(story: Story) -> Iterator[str]:
    lifecycle = [row for (instance, _), row in sorted(story.store.tables.log.items()) if instance.startswith("life")]
    for row in lifecycle:
        data = json.loads(row.record)["snapshot"]["data"]
        if row.kind == "transition" and row.state_to == "shutting_down":
            sealed = data.get("system_snapshot") or {}
            if sealed.get("url") not in story.world.storage.documents:
                yield f"snapshot: shutting_down with {sealed}, which is not in storage"
    snapshot = story.store.tables.instances.get("lifecycle/metrics")  # type: ignore[call-overload]
    if snapshot is not None and snapshot.state == "operational":
        for (_, component), participant in story.world.commands.participants.items():
            if participant.paused:
                yield f"paused: {component} is still paused while the system is operational"
