"""The working set of one micro-batch: instances in memory, and everything the batch will write. No I/O.

Event 2 sees event 1's effect because both look here; `batch()` is what one transaction then writes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from machines.acts import ways_out
from machines.chart import Chart
from machines.model import ENDED, Event, InstanceId, PlannedStep, Snapshot, StepFact, StepStatus
from schemas.record import changed
from schemas.system import System
from service.engine.definitions import Definitions
from service.engine.held import Held
from service.engine.places import place_of
from service.engine.records import log_row
from service.engine.waiving import WAIVERS
from service.errors import Misconfigured
from service.ports import (
    GATE_TIMER,
    Batch,
    DeadLetter,
    EventKey,
    InboxRow,
    Loaded,
    LogRow,
    Observation,
    OutMessage,
    Prepared,
    SnapshotWrite,
    StepChange,
    StepKey,
    StepRow,
    TimerRow,
    Token,
)

NO_WAITS = (None,) * 4
"""No dwell and no deadline, neither by the table nor by the snapshot."""

ABSENT = Loaded(None)
"""What the store has of an instance that is not in it."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""A log row after which the snapshot is as before, but for its seq and its chain head."""


class Live:
    """One instance as the batch sees it: its snapshot and the step rows of its current entry."""

    def __init__(self, snapshot: Snapshot, steps: Iterable[StepRow], *, chart: Chart, system: System) -> None:
        self.snapshot = snapshot
        self.expected_seq = snapshot.seq
        self.waited = self.waits
        self.steps = {row.key.name: row for row in steps}
        self.chart = chart
        self.system = system

    @property
    def waits(self) -> bool:
        """Whether a due time will end where it stands: then it counts among the live runs of its system."""
        return self.snapshot.dwell_until is not None or self.snapshot.deadline_at is not None

    @property
    def resting(self) -> bool:
        return self.chart.machine.state(self.snapshot.state).resting

    @property
    def may_have_rows(self) -> bool:
        """Whether steps or timers of the current entry may be stored: not those of a rest that has neither, which most
        alerts stand in.

        The loaded rows count beside what the table says: another version of it may have planned them. One that had a
        step be repeated at such a rest would leave a due time, which names an entry that is over and is absorbed.
        """
        here = self.snapshot
        state = self.chart.machine.state(here.state)
        if not state.resting or self.steps or state.steps or WAIVERS in here.data:
            return True
        waits = (state.dwell, state.deadline, here.dwell_until, here.deadline_at)
        return waits != NO_WAITS

    def commands(self, row: StepRow | None = None) -> tuple[str, ...]:
        """The commands that end a wait: about the step that is waited for, then about the instance."""
        steps = {row.key.name: row.status} if row is not None else {}
        ways = ways_out(self.chart.machine, self.snapshot.state, steps, self.snapshot.data)
        return tuple(way.command(self.snapshot.instance) for way in ways)

    def row(self, step: PlannedStep, status: StepStatus, now: datetime) -> StepRow:
        """A step of the current entry as it is stored first; one that is ready may be claimed from `now` on."""
        here = self.snapshot
        return StepRow(
            key=StepKey(here.instance, here.entry, step.name),
            system=here.system,
            place=place_of(step, self.system),
            planned=step,
            status=status,
            state=here.state,
            config_hash=here.config_hash,
            ready_at=now if status is StepStatus.READY else None,
        )

    def facts(self) -> tuple[StepFact, ...]:
        """The steps as guards see them, in the order of their positions."""
        if not self.steps:
            return ()
        rows = sorted(self.steps.values(), key=lambda row: (row.planned.position, row.key.name))
        return tuple(StepFact(row.planned, row.status, row.attempt, row.result, row.error) for row in rows)


class Work:
    """Collects what a batch of events writes. `epoch` is the generation that new rows carry."""

    def __init__(self, prepared: Prepared, definitions: Definitions, *, epoch: int, now: datetime) -> None:
        self.definitions = definitions
        self.epoch = epoch
        self.now = now
        self.live_runs = {system: dict(runs) for system, runs in prepared.live_runs.items()}
        """Of each system: who is under way, and in which state."""
        self._loaded = prepared.instances
        self._gate_rows = prepared.gates
        self._gates: dict[str, tuple[InstanceId, Held]] = {}
        self._live: dict[InstanceId, Live] = {}
        self._inbox: list[InboxRow] = []
        self._log: list[LogRow] = []
        self._touched: dict[InstanceId, None] = {}
        self._leave: list[tuple[InstanceId, int]] = []
        self._new_steps: dict[StepKey, StepRow] = {}
        self._changes: dict[StepKey, StepChange] = {}
        self._timers: dict[InstanceId, dict[str, TimerRow]] = {}
        self._fired: list[TimerRow] = []
        self._signals: list[int] = []
        self._outbox: list[OutMessage] = []
        self._dead: list[DeadLetter] = []
        self._observations: list[Observation] = []

    # --- instances -------------------------------------------------------------------------------------------------

    def exists(self, instance: InstanceId) -> bool:
        """Whether the instance is in the store, or began in this batch."""
        return instance in self._live or self._loaded.get(instance, ABSENT).snapshot is not None

    def live(self, instance: InstanceId, system: str) -> Live:
        """The instance as of now in this batch; a new one stands in its machine's initial state with seq 0.

        Raises Misconfigured when it stands on a machine version or configuration that this replica does not have: no
        event is to blame for that, and another replica may have it.
        """
        if (known := self._live.get(instance)) is not None:
            return known
        loaded = self._loaded.get(instance, ABSENT)
        snapshot = loaded.snapshot or self._first(instance, system)
        if (lacking := self.definitions.lacks(snapshot)) is not None:
            raise Misconfigured((lacking,))
        configuration = self.definitions.configuration(snapshot.config_hash)
        chart = self.definitions.chart(snapshot.machine, snapshot.machine_version)
        live = Live(snapshot, loaded.steps, chart=chart, system=configuration)
        if live.resting or snapshot.entry == 0:
            # At rest nothing binds the instance to what it left with: it decides with what is current.
            live.system = self.definitions.systems[system]
            live.chart = self.definitions.chart(snapshot.machine, self.definitions.machines[snapshot.machine].version)
        self._live[instance] = live
        return live

    def _first(self, instance: InstanceId, system: str) -> Snapshot:
        machine = self.definitions.machine_of(instance)
        if machine is None:
            raise KeyError(f"no machine is called {instance.split('/', 1)[0]!r}")
        return Snapshot(
            instance=instance,
            system=system,
            machine=machine.name,
            machine_version=machine.version,
            config_hash=self.definitions.current_hash(system),
            epoch=self.epoch,
            seq=0,
            state=str(machine.initial),
            entry=0,
            entered_at=self.now,
        )

    # --- what is written -------------------------------------------------------------------------------------------

    def append(
        self, live: Live, kind: str, event: Event, extra: Mapping[str, object], moved: Mapping[str, Any] = NOTHING
    ) -> Snapshot:
        """Adds a log row for the instance; its snapshot is changed by `moved`, and has the next seq and chain head."""
        before = live.snapshot
        after = changed(before, seq=before.seq + 1, epoch=self.epoch, **moved)
        row, head = log_row(kind, before, after, event, extra)
        self._log.append(row)
        live.snapshot = head
        self._touched[head.instance] = None
        runs = self.live_runs.get(head.system)
        if runs is not None:
            if live.waits:
                runs[head.instance] = head.state
            elif runs:
                runs.pop(head.instance, None)
        return head

    def leave(self, live: Live, entry: int) -> None:
        """Cancels the steps of a state entry that is over and drops its timers."""
        instance = live.snapshot.instance
        if live.may_have_rows:
            self._leave.append((instance, entry))
        for key in (row.key for row in live.steps.values()):
            change = self._changes.get(key)
            # What ended a step by now stays told of it: it was waived, not cancelled.
            if change is not None and change.status not in ENDED:
                del self._changes[key]
            new = self._new_steps.get(key)
            if new is not None and new.status not in ENDED:
                self._new_steps[key] = changed(new, status=StepStatus.CANCELLED)
        if instance in self._timers:
            timers = self._timers[instance]
            self._timers[instance] = {kind: timer for kind, timer in timers.items() if kind == GATE_TIMER}
        live.steps = {}

    def add(self, live: Live, rows: Iterable[StepRow]) -> None:
        """Adds steps to the state entry that is under way, or that has just begun."""
        rows = tuple(rows)
        live.steps.update({row.key.name: row for row in rows})
        self._new_steps.update({row.key: row for row in rows})

    def change(self, live: Live, change: StepChange) -> None:
        """Changes a step of the current entry, in memory and, if it is stored already, in the store."""
        row = live.steps[change.key.name]
        given = {
            name: value
            for name in ("status", "ready_at", "answer", "attempt", "error")
            if (value := getattr(change, name)) is not None
        }
        live.steps[change.key.name] = row = changed(row, **given)
        if change.key in self._new_steps:
            self._new_steps[change.key] = row
            return
        earlier = self._changes.get(change.key)
        self._changes[change.key] = changed(earlier, **given) if earlier is not None else change

    def timer(self, live: Live, kind: str, due_at: datetime, entry: int | None = None) -> None:
        """A due time of the current state entry, or of another `entry`."""
        instance = live.snapshot.instance
        entry = live.snapshot.entry if entry is None else entry
        self._timers.setdefault(instance, {})[kind] = TimerRow(instance, entry, kind, due_at)

    def gate(self, live: Live) -> Held | None:
        """The gate of the instance's system; None when this batch did not ask for it."""
        system = live.snapshot.system
        if system not in self._gates and system in self._gate_rows:
            self._gates[system] = (live.snapshot.instance, Held(self._gate_rows[system]))
        return self._gates[system][1] if system in self._gates else None

    def say(self, message: OutMessage) -> None:
        self._outbox.append(message)

    def observe(self, instance: InstanceId, at: datetime, value: float) -> None:
        self._observations.append(Observation(instance, at.replace(second=0, microsecond=0), 1, value))

    def settle_event(self, key: EventKey, body_hash: bytes, outcomes: Mapping[str, str]) -> None:
        self._inbox.append(InboxRow(key, body_hash, outcomes))

    def bury(self, letter: DeadLetter) -> None:
        self._dead.append(letter)

    def signal_done(self, signal: int) -> None:
        self._signals.append(signal)

    def timer_done(self, timer: TimerRow) -> None:
        self._fired.append(timer)

    @property
    def only_moves_the_resting(self) -> bool:
        """Whether it touches no steps, due times, signals, dead letters and gates, and nobody whom it moves is a live
        run, neither before nor after: then it changes nothing for events of others."""
        beside = (
            self._leave, self._new_steps, self._changes, self._timers, self._fired, self._signals, self._dead,
            self._gates,
        )  # fmt: skip
        moved = (self._live[instance] for instance in self._touched)
        return not any(beside) and not any(one.waited or one.waits for one in moved)

    def touches(self, keys: Iterable[EventKey], instances: Iterable[InstanceId]) -> bool:
        """Whether one of these events is settled here, or one of these instances moved."""
        settled = {row.key for row in self._inbox}
        return not settled.isdisjoint(keys) or not self._touched.keys().isdisjoint(instances)

    def earliest_timer(self) -> datetime | None:
        return min((timer.due_at for timer in self._all_timers()), default=None)

    def _all_timers(self) -> Iterator[TimerRow]:
        return (timer for timers in self._timers.values() for timer in timers.values())

    def batch(self, shard: int, token: Token, sent: tuple[int, ...]) -> Batch:
        """Everything, ready for one transaction."""
        lives = [self._live[instance] for instance in self._touched]
        return Batch(
            shard=shard,
            token=token,
            at=self.now,
            inbox=tuple(self._inbox),
            log=tuple(self._log),
            snapshots=tuple(SnapshotWrite(live.snapshot, live.expected_seq) for live in lives),
            leave=tuple(self._leave),
            steps_new=tuple(self._new_steps.values()),
            step_changes=tuple(self._changes.values()),
            timers=tuple(self._all_timers()),
            timers_fired=tuple(self._fired),
            signals_done=tuple(self._signals),
            outbox=tuple(self._outbox),
            sent=sent,
            dead=tuple(self._dead),
            observations=_summed(self._observations),
            gates=tuple(
                change
                for system, (instance, held) in self._gates.items()
                if (change := held.change(system, instance)) is not None
            ),
        )


def _summed(observations: Sequence[Observation]) -> tuple[Observation, ...]:
    sums: dict[tuple[InstanceId, datetime], Observation] = {}
    for one in observations:
        key = (one.instance, one.minute)
        seen = sums.get(key)
        sums[key] = one if seen is None else changed(seen, count=seen.count + 1, total=seen.total + one.total)
    return tuple(sums.values())
