"""What must hold after every story, as findings in words; an empty list is a good end. It only reads.

Of the engine only the fold is used, which is what the snapshots are compared with.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta

from machines.model import ENDED
from machines.registry import MACHINES
from schemas.components import OnSilence
from service.engine.records import fold
from service.ports import EventKey, LogRow
from service.simulation.story import QUIET, Story
from service.simulation.systems import system

OVERDUE = timedelta(seconds=30)
"""How late a due time may be looked at once everything is at rest."""


def findings(story: Story) -> list[str]:
    """Every invariant that does not hold."""
    return [found for rule in RULES for found in rule(story)]


def _events(story: Story) -> Iterator[str]:
    """Each confirmed event has one outcome, at the instance that it means, and at most one log row there."""
    tables = story.store.tables
    told = Counter((row.instance, row.event) for row in tables.log.values())
    for sent in story.people.sent:
        key = EventKey(sent.source, sent.id)
        if key not in tables.inbox:
            yield f"lost: {sent.id} has no outcome"
            continue
        outcomes = dict(tables.inbox[key][0].outcomes)
        expected = {"-"} if sent.too_deep else {sent.instance}
        if set(outcomes) != expected:
            yield f"outcomes: {sent.id} is for {sent.instance} and has {outcomes}"
        for instance, outcome in outcomes.items():
            rows = next((n for (owner, event), n in told.items() if event == key and owner == instance), 0)
            if outcome == "applied" and rows not in (1, 2):
                yield f"rows: {sent.id} was applied to {instance} and has {rows} log rows"
            if outcome in ("absorbed", "refused") and rows != (outcome == "refused"):
                yield f"rows: {sent.id} was {outcome} by {instance} and has {rows} log rows"
    known = {sent.id for sent in story.people.sent if sent.too_deep}
    yield from (
        f"dead: {letter.event_id or 'something'}: {'; '.join(letter.reasons)}"
        for letter in tables.dead
        if letter.event_id not in known
    )


def _logs(story: Story) -> Iterator[str]:
    """Without gap, chained, along the edges of the tables, folding to the snapshot."""
    tables = story.store.tables
    logs = _by_instance(story)
    for instance, snapshot in tables.instances.items():
        rows = logs.get(instance, [])
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
        edges = {
            (str(state), str(one.target)) for one in MACHINES[snapshot.machine].transitions for state in one.sources
        }
        for row in rows:
            moved = row.kind == "transition" and row.state_from != row.state_to
            if moved and (row.state_from, row.state_to) not in edges:
                yield f"edge: {instance} seq {row.seq} went {row.state_from} → {row.state_to}"
    yield from (f"fold: {instance} has a log and no snapshot" for instance in logs if instance not in tables.instances)


def _notifications(story: Story) -> Iterator[str]:
    """One for each log row, in order once repetitions are dropped, and nothing unsent."""
    told: dict[str, list[int]] = defaultdict(list)
    seen: dict[str, bytes] = {}
    for entry in story.broker.log:
        envelope = json.loads(entry.body)
        if envelope["id"] in seen:
            if seen[envelope["id"]] != entry.body:
                yield f"notifications: {envelope['id']} was told twice with different words"
            continue
        seen[envelope["id"]] = entry.body
        data = envelope["data"]
        if envelope["type"] in ("relight.transition", "relight.refused") and data.get("seq") is not None:
            told[data["instance"]].append(data["seq"])
    for instance, snapshot in story.store.tables.instances.items():
        if told[instance] != list(range(1, snapshot.seq + 1)):
            yield f"notifications: {instance} has {snapshot.seq} rows, told in the order {told[instance]}"
    left = [message.message_id for _, message in story.store.tables.outbox.values()]
    if unsent := [one for one in left if one not in seen]:
        yield f"unsent: {unsent[:3]}"


def _rest(story: Story) -> Iterator[str]:
    """After the last fault everything comes to rest by itself, answers, and nothing is left open."""
    tables = story.store.tables
    if story.rested is None:
        left = {
            "signals": len(tables.signals), "outbox": len(tables.outbox),
            "timers": sorted(f"{owner} {kind}" for owner, kind in tables.timers),
            "queues": [name for name in story.broker.queues() if "intake" in name and story.broker.waiting(name)],
        }  # fmt: skip
        yield f"restless: {QUIET:.0f}s after the last fault there are still {left}"
    for instance, snapshot in tables.instances.items():
        state = MACHINES[snapshot.machine].state(snapshot.state)
        if not (state.resting or state.final):
            yield f"stuck: {instance} still stands in {snapshot.state} since {snapshot.entered_at}"
    for name in story.plan.systems:
        if f"lifecycle/{name}" not in tables.instances:
            yield f"missing: {name} has no lifecycle"
    for row in tables.steps.values():
        current = tables.instances[row.key.instance].entry == row.key.entry
        if not current and row.status not in ENDED:
            yield f"abandoned: {row.key.command_id} is {row.status} and its state entry is over"
        # What a dead worker held ends with its lease.
        held = row.lease_until is not None and row.lease_until > story.ended_at
        if row.worker is not None and held:
            yield f"abandoned: {row.key.command_id} is {row.status} and still at {row.worker}"
    yield from (f"silent: {one.instance} did not answer {one.id}" for one in story.unanswered)


def _due(story: Story) -> Iterator[str]:
    """At the end no due time is long past, and none belongs to a state entry that is over."""
    tables, latest = story.store.tables, story.ended_at - OVERDUE
    entries = {instance: snapshot.entry for instance, snapshot in tables.instances.items()}
    for _, timer in tables.timers.values():
        if timer.due_at < latest:
            yield f"overdue: {timer.kind} of {timer.instance} was due at {timer.due_at}, and nobody looked"
        elif timer.entry >= 0 and timer.entry != entries.get(timer.instance):
            yield f"overdue: {timer.kind} of {timer.instance} is of its entry {timer.entry}, which is over"
    for instance, snapshot in tables.instances.items():
        until = snapshot.deadline_at or snapshot.dwell_until
        if until is not None and until < latest:
            yield f"overdue: {instance} stands in {snapshot.state}, which was to end at {until}"
    for row in tables.steps.values():
        if row.status == "ready" and row.ready_at is not None and row.ready_at < latest:
            yield f"overdue: {row.key.command_id} was ready at {row.ready_at}, and nobody took it"


def _tokens(story: Story) -> Iterator[str]:
    """Nothing is written or done under an older token than before, nor by who has lost what it writes to; no claim is
    taken while it lasts."""
    newest: dict[str, int] = {}
    for write in story.store.writes:
        before = newest.get(write.whose, 0)
        if write.token < before or write.token != write.held:
            said = f"a {write.what} of {write.whose} was accepted under {write.token}"
            yield f"token: {said}, after {before}, while {write.held} held it"
        newest[write.whose] = max(before, write.token)
    for claim in story.store.stolen:
        yield f"stolen: {claim.whose} was claimed as {claim.token} while claim {claim.held} lasted"
    told: dict[str, int] = {}
    for one in story.cast.effects:
        # A renewal of a pause runs beside the other steps of its state, in no order with them; a report is a question,
        # which changes nothing however late it comes.
        if one.token is None or one.what == "report" or ":renew:" in (one.key or ""):
            continue
        name = f"{one.system}.{one.component}"
        if one.token < told.get(name, 0):
            yield f"token: {name} did {one.what} ({one.key}) under {one.token}, after {told[name]}"
        told[name] = max(one.token, told.get(name, 0))


def _effects(story: Story) -> Iterator[str]:
    """A participant does each command once in one life of its process, and what is recorded as done was done."""
    effects = story.cast.effects
    # What a component reports of itself it may be asked as often as anybody likes.
    done = Counter((one.key, one.pid) for one in effects if one.key is not None and one.what != "report")
    for (key, pid), count in done.items():
        if count > 1:
            yield f"doubled: {key} was done {count} times by the process {pid}"
    keys = {one.key for one in effects}
    for row in story.store.tables.steps.values():
        by_command = row.planned.action.startswith("participant.") and row.result.get("by") == "command"
        if row.status == "done" and by_command and row.key.command_id not in keys and "detail" not in row.result:
            yield f"invented: {row.key.command_id} is recorded as done and never happened"


def _lifecycles(story: Story) -> Iterator[str]:
    """Down only with a system snapshot that is there; up only by a verification that passed; nobody left paused."""
    steps = story.store.tables.steps.values()
    for instance, rows in _by_instance(story).items():
        if not instance.startswith("lifecycle/"):
            continue
        entries: dict[str, int] = {}
        for row in (row for row in rows if row.kind == "transition"):
            after = json.loads(row.record)["snapshot"]
            if row.state_to == "shutting_down":
                sealed = after["data"].get("system_snapshot") or {}
                if sealed.get("url") not in story.world.storage.documents:
                    yield f"snapshot: {instance} seq {row.seq} is shutting_down with {sealed}, which is not in storage"
            if row.state_to == "operational" != row.state_from:
                place = row.state_from if row.state_from.endswith("resuming") else "starting_up.verifying"
                mine = [one for one in steps if one.key.instance == instance and one.key.entry == entries.get(place)]
                checks = [one for one in mine if one.planned.action == "check.run"]
                if not checks or any(one.status != "done" or one.result.get("passed") is not True for one in checks):
                    yield f"unverified: {instance} seq {row.seq} is operational and nothing passed in {place}"
            entries[row.state_to] = after["entry"]
    for (name, component), participant in story.world.commands.participants.items():
        snapshot = story.store.tables.instances.get(f"lifecycle/{name}")  # type: ignore[call-overload]  # an id as text
        running = (name, component) in story.world.commands.bound
        proceeds = system(name).components[component].on_silence is OnSilence.PROCEED
        if snapshot is not None and snapshot.state == "operational" and participant.paused and running and not proceeds:
            yield f"paused: {component} is still paused while {name} is operational"


def _operations(story: Story) -> Iterator[str]:
    """What was taken in and not refused was released, in the order in which it was taken in; nothing else was."""
    tables = story.store.tables
    for name in story.plan.systems:
        if system(name).gate is None:
            continue
        asked = {sent.id for sent in story.people.sent if sent.operation and sent.system == name}
        taken = [
            key.id
            for key, (row, _) in tables.inbox.items()
            if key.id in asked and set(row.outcomes.values()) == {"absorbed"}
        ]
        bodies = [json.loads(body) for body in story.broker.bodies(f"relight.operations.{name}")]
        released = list(dict.fromkeys(body["id"] for body in bodies))
        if released != taken:
            yield f"operations: {name} took in {taken}, and released {released}"
    if tables.gates.rows:
        yield f"held: {[row.event.id for row in tables.gates.rows.values()]} still wait"


def _engine(story: Story) -> Iterator[str]:
    """No fault of the world makes anything of Relight's own give way, or believe that its database has lost something:
    in no story it has."""
    rows = story.store.tables.log.values()
    lost = [f"{row.instance} seq {row.seq}" for row in rows if row.event_type == "relight.database.lost"]
    if lost or story.store.tables.epoch > 1:
        yield f"loss: nothing was lost, and Relight says so at {lost}, in epoch {story.store.tables.epoch}"
    yield from (f"broke: {line}" for line in story.trace.broken)


def _by_instance(story: Story) -> dict[str, list[LogRow]]:
    logs: dict[str, list[LogRow]] = defaultdict(list)
    for (instance, _), row in sorted(story.store.tables.log.items()):
        logs[instance].append(row)
    return logs


RULES: tuple[Callable[[Story], Iterator[str]], ...] = (
    _events, _logs, _notifications, _rest, _due, _tokens, _effects, _lifecycles, _operations, _engine,
)  # fmt: skip
"""All of them."""
