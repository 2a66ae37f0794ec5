"""What the memory store keeps, and how one batch changes it. No waiting and no clock: the caller knows the time."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TypeVar

from machines.model import ENDED, InstanceId, Snapshot, StepStatus
from schemas.base import Json
from service.adapters.memory.gates import Gates, refused_after_all
from service.errors import Conflict, LostLease, Poison
from service.ports import (
    EPOCH_BITS,
    Batch,
    DeadLetter,
    EventKey,
    InboxRow,
    LogRow,
    Loss,
    OutMessage,
    Ownership,
    Publication,
    Settlement,
    Signal,
    StepChange,
    StepKey,
    StepRow,
    TimerRow,
    Token,
)

Row = TypeVar("Row")

TAKEN = frozenset({StepStatus.CANCELLED, StepStatus.WAIVED})
"""What a running step becomes when it is taken from its worker; the claim stays on it until that has let it go."""


DOUBT = "Relight's database was restored from before this step's end: nobody can tell whether it happened"


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may decide for a shard, and until when."""

    owner: str
    token: Token
    until: datetime


@dataclass(frozen=True, slots=True)
class Compared:
    """What is known of a shard's history: the last two columns by token, as in `relight.shards`."""

    systems: tuple[str, ...] = ()
    cleared: Token | None = None
    compared: Token | None = None
    until: datetime | None = None


class Tables:
    """Rows by key. What is per shard has the shard in its key."""

    def __init__(self) -> None:
        self.epoch = 1
        self.leases: dict[int, Lease] = {}
        self.histories: dict[int, Compared] = {}
        self.losses: dict[tuple[str, int], str] = {}
        self.inbox: dict[EventKey, tuple[InboxRow, datetime]] = {}
        self.log: dict[tuple[InstanceId, int], LogRow] = {}
        self.instances: dict[InstanceId, Snapshot] = {}
        self.steps: dict[StepKey, StepRow] = {}
        self.timers: dict[tuple[InstanceId, str], tuple[int, TimerRow]] = {}
        self.signals: dict[int, tuple[int, Signal]] = {}
        self.outbox: dict[int, tuple[int, OutMessage]] = {}
        self.undelivered: dict[int, tuple[int, OutMessage, str]] = {}
        self.undelivered_at: dict[int, datetime] = {}
        self.dead: list[DeadLetter] = []
        self.settled: dict[tuple[str, int], Settlement] = {}
        self.attempts: dict[EventKey, int] = {}
        self.configurations: dict[str, str] = {}
        self.gates = Gates()
        self.observations: dict[tuple[InstanceId, datetime], tuple[int, float]] = {}
        self._numbers: dict[str, int] = {}

    def number(self, what: str) -> int:
        """The next number of a sequence, from 1."""
        self._numbers[what] = number = self._numbers.get(what, 0) + 1
        return number

    def token(self) -> Token:
        return Token(self.epoch << EPOCH_BITS | self.number("token"))

    def hold(self, shard: int, token: Token, now: datetime) -> None:
        """Raises LostLease unless `token` is the shard's lease and has not ended."""
        lease = self.leases.get(shard)
        if lease is None or lease.token != token or lease.until <= now:
            raise LostLease(f"token {token} is not the lease of shard {shard} any more")

    def known(self, shard: int, token: Token, now: datetime) -> None:
        """The lease was prolonged or given back: the log holds all that was published by now, if it did before."""
        history = self.histories.get(shard, Compared())
        if history.compared == token:
            self.histories[shard] = replace(history, until=now)

    def is_cleared(self, system: str, now: datetime) -> bool:
        """Whether steps of the system may be claimed."""
        for shard, history in self.histories.items():
            lease = self.leases.get(shard)
            if system in history.systems and (lease is None or lease.token != history.cleared or lease.until <= now):
                return False
        return True

    def lacks(self, told: Publication) -> bool:
        """Whether no log row stands for it, and that was not found out before."""
        row = self.log.get((told.instance, told.seq))
        there = row is not None and (row.epoch, row.at, row.event) == (told.epoch, told.at, told.event)
        return not there and not any(name == told.system and epoch > told.epoch for name, epoch in self.losses)

    def lose(
        self, ownership: Ownership, epoch: int, systems: Sequence[str], losses: Sequence[Loss], at: datetime
    ) -> None:
        """As `relight.lose`."""
        shard = ownership.shard
        self.hold(shard, ownership.token, at)
        self.epoch = max(self.epoch, epoch)
        doubtful = (StepStatus.READY, StepStatus.RUNNING, StepStatus.WAITING)
        for key, row in self.steps.items():
            if row.system in systems and row.status in doubtful:
                self.steps[key] = replace(row, status=StepStatus.UNKNOWN, worker=None, lease_until=None, error=DOUBT)
        self.losses |= {(loss.system, self.epoch): loss.said for loss in losses if loss.said is not None}
        lowest = min([0, *(number for number, (whose, _) in self.signals.items() if whose == shard)])
        for number, loss in enumerate(losses, start=lowest - len(losses)):
            self.signals[number] = (shard, Signal(number, loss.signal, None, local=False, at=at))
        token = self.token()
        self.leases[shard] = replace(self.leases[shard], token=token)
        self.histories[shard] = replace(
            self.histories.get(shard, Compared()), cleared=None, compared=ownership.token, until=at
        )

    def commit(self, batch: Batch, now: datetime) -> tuple[tuple[int, ...], bool]:
        """Everything or nothing: all that can fail is looked at first. The outbox ids; whether workers must know."""
        self.hold(batch.shard, batch.token, now)
        self._check(batch)
        for row in batch.inbox:
            self.inbox[row.key] = (row, batch.at)
        for write in batch.snapshots:
            self.instances[write.snapshot.instance] = write.snapshot
        for entry in batch.log:
            self.log[entry.instance, entry.seq] = entry
        # As in SQL, changes first: a step that is waived and thereby ends its state was waived, not cancelled.
        taken = [self._change(change) for change in batch.step_changes]
        taken += [self._leave(instance, number) for instance, number in batch.leave]
        self.steps.update({row.key: row for row in batch.steps_new})
        woken = any(taken) or any(row.status is StepStatus.READY for row in batch.steps_new)
        for timer in batch.timers_fired:
            if self.timers.get((timer.instance, timer.kind)) == (batch.shard, timer):
                del self.timers[timer.instance, timer.kind]
        for timer in batch.timers:
            self.timers[timer.instance, timer.kind] = (batch.shard, timer)
        for seen in batch.observations:
            count, total = self.observations.get((seen.instance, seen.minute), (0, 0.0))
            self.observations[seen.instance, seen.minute] = (count + seen.count, total + seen.total)
        self.dead.extend(batch.dead)
        _drop(self.signals, batch.shard, batch.signals_done)
        _drop(self.outbox, batch.shard, batch.sent)
        for gate in batch.gates:
            for late in gate.expired:
                if late.event in self.inbox:
                    known, since = self.inbox[late.event]
                    self.inbox[late.event] = (refused_after_all(known, gate.instance), since)
            for message in self.gates.change(gate, batch.at):
                self.outbox[self.number("outbox")] = (batch.shard, message)
        ids = tuple(self.number("outbox") for _ in batch.outbox)
        self.outbox.update({number: (batch.shard, row) for number, row in zip(ids, batch.outbox, strict=True)})
        return ids, woken

    def _check(self, batch: Batch) -> None:
        keys = [row.key for row in batch.inbox]
        if len(set(keys)) < len(keys) or any(key in self.inbox for key in keys):
            raise Conflict("an event of the batch has its outcome already")
        for write in batch.snapshots:
            stored = self.instances.get(write.snapshot.instance)
            if (stored.seq if stored else 0) != write.expected_seq:
                raise Conflict(f"{write.snapshot.instance} has another seq than the batch was decided on")
            storable(write.snapshot.data)
        rows = [(row.instance, row.seq) for row in batch.log]
        if len(set(rows)) < len(rows) or any(row in self.log for row in rows):
            raise Poison("a log row of the batch exists already")
        new = [row.key for row in batch.steps_new]
        if len(set(new)) < len(new) or any(key in self.steps for key in new):
            raise Poison("a step of the batch exists already")
        written: list[LogRow | OutMessage | EventKey] = [*batch.log, *batch.outbox, *keys]
        written += [row.event for row in batch.log]
        if any("\x00" in text for row in written for text in _texts(row)):
            raise Poison("a text of the batch has a NUL, which no column takes")

    def _leave(self, instance: InstanceId, entry: int) -> bool:
        """Whether a step was taken from a worker: the claim stays on it."""
        taken = False
        for key, row in self.steps.items():
            if key.instance == instance and key.entry == entry and row.status not in ENDED:
                taken = taken or row.worker is not None
                self.steps[key] = replace(row, status=StepStatus.CANCELLED)
        for name, (_, timer) in list(self.timers.items()):
            if timer.instance == instance and timer.entry == entry:
                del self.timers[name]
        return taken

    def _change(self, change: StepChange) -> bool:
        old = self.steps.get(change.key)
        if old is None or old.status not in change.only_from:
            return False
        target = change.status or old.status
        if change.answer is not None and old.status is StepStatus.WAITING:
            target = StepStatus.READY
        elif change.answer is not None and old.status is StepStatus.RUNNING:
            target = StepStatus.RUNNING
        ready_at, answer = change.ready_at or old.ready_at, change.answer
        if target is StepStatus.RUNNING:
            ready_at = old.ready_at
        elif target is StepStatus.READY and (old.status is not target or change.status is target):
            ready_at = change.ready_at
        if answer is None and not (target is StepStatus.READY and old.status is not target):
            answer = old.answer
        taken = old.status is StepStatus.RUNNING and target in TAKEN
        claimed = taken or target is StepStatus.RUNNING
        self.steps[change.key] = replace(
            old,
            status=target,
            ready_at=ready_at,
            answer=answer,
            attempt=old.attempt if change.attempt is None else change.attempt,
            error=change.error or old.error,
            worker=old.worker if claimed else None,
            lease_until=old.lease_until if claimed else None,
        )
        if old.status is StepStatus.WAITING and target is not StepStatus.WAITING:
            self.drop_step_timer(change.key)
        return taken or target is StepStatus.READY

    def drop_step_timer(self, key: StepKey) -> None:
        """A step that no longer waits needs no timer."""
        name = (key.instance, f"step:{key.name}")
        if name in self.timers and self.timers[name][1].entry == key.entry:
            del self.timers[name]


def storable(value: Mapping[str, Json]) -> None:
    """Raises Poison for what JSON cannot say."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Poison(f"a value cannot be stored as JSON: {error}") from error


def _texts(row: LogRow | OutMessage | EventKey) -> Iterable[str]:
    return (value for part in fields(row) if isinstance(value := getattr(row, part.name), str))


def _drop(rows: dict[int, tuple[int, Row]], shard: int, ids: Iterable[int]) -> None:
    for number in ids:
        if number in rows and rows[number][0] == shard:
            del rows[number]
