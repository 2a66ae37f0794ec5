"""Relight's own tables as the engine, the workers and people see them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from machines.model import InstanceId, StepStatus
from schemas.base import Json
from service.ports.gates import GateView
from service.ports.leftovers import DeadLetter, DeadRow, Settled, UndeliveredRow
from service.ports.owning import Batch, Loaded, Loss, Ownership, Prepared, Publication
from service.ports.rows import EventKey, InstanceView, LogRow, NewSignal, OutboxRow, Signal, StepRow, TimerRow, Token


class Store(Protocol):
    """Relight's own tables. Raises Unavailable, LostLease, Conflict, Transient or Poison."""

    async def acquire(self, shard: int, owner: str, lease: timedelta) -> Ownership | None:
        """The shard's lease with a new token, or None while another owner's lease has not ended."""
        ...

    async def renew(self, ownership: Ownership, lease: timedelta) -> None:
        """Prolongs the lease. Raises LostLease when the token is not the newest any more or the lease has ended."""
        ...

    async def release(self, ownership: Ownership) -> None:
        """Ends the lease now, so that another may follow at once."""
        ...

    async def missing(self, told: Sequence[Publication]) -> tuple[Publication, ...]:
        """Those that no log row stands for, or another one; what was found to be lost before is passed over."""
        ...

    async def clear(self, ownership: Ownership, systems: Sequence[str], *, compared: bool) -> None:
        """From now on steps of these systems of the shard may be claimed, for as long as this lease is held and kept.

        `compared`: all that was published is in the log, and the moment up to which that is known moves on with each
        renewal; else the next owner has to look from where the last one did. Raises LostLease.
        """
        ...

    async def lose(self, ownership: Ownership, epoch: int, systems: Sequence[str], losses: Sequence[Loss]) -> None:
        """The log lacks what was published: the epoch rises to `epoch` at least, steps of `systems` (all of the shard)
        that somebody may have been at become unknown, each loss is kept and its signal put before all that wait, in one
        transaction that ends this lease: its owner takes it again. Raises LostLease.
        """
        ...

    async def pending(self, shard: int, now: datetime, limit: int) -> tuple[tuple[Signal, ...], tuple[TimerRow, ...]]:
        """Oldest signals and due timers of a shard; they stay until a batch removes them."""
        ...

    async def next_timer(self, shard: int) -> datetime | None:
        """When the earliest timer of the shard is due."""
        ...

    async def prepare(
        self,
        shard: int,
        keys: Sequence[EventKey],
        instances: Sequence[InstanceId],
        systems: Sequence[str],
        gates: Sequence[str] = (),
        now: datetime | None = None,
    ) -> Prepared:
        """What is known of these events and instances, in one round trip.

        `gates`: the systems whose gates matter, as they stand at `now`, which must be given with them.
        """
        ...

    async def commit(self, batch: Batch) -> tuple[int, ...]:
        """Writes the batch as a whole or not at all; the ids of its outbox rows, in order.

        Raises LostLease (token not the newest, or lease ended by the database's clock), Conflict (a snapshot has
        another seq), Transient, Poison, Unavailable.
        """
        ...

    async def count_attempt(self, shard: int, token: Token, key: EventKey) -> int:
        """Commits one more attempt at an event that is tried alone; how many there were, this one included."""
        ...

    async def unsent(self, shard: int, limit: int) -> tuple[OutboxRow, ...]:
        """The oldest outbox rows of a shard that were not sent, in order; undelivered ones are left out."""
        ...

    async def undeliverable(self, shard: int, token: Token, row: int, why: str) -> None:
        """Marks a row that the status exchange refused and the status log took: kept, replayable, out of the way."""
        ...

    async def signal(self, signals: Sequence[NewSignal]) -> None:
        """Appends signals for whoever owns their systems' shards, and wakes that owner."""
        ...

    async def wait_for_signal(self, shard: int, timeout: float) -> None:
        """Returns when a signal for the shard was appended, or after `timeout` seconds."""
        ...

    async def keep_configurations(self, configurations: Mapping[str, str]) -> None:
        """Remembers configurations by hash (canonical text); known ones stay as they are."""
        ...

    async def configurations_in_use(self) -> Mapping[str, str]:
        """Hash to canonical text of every configuration that an instance stands on; a missing text is empty."""
        ...

    async def machines_in_use(self) -> Mapping[tuple[str, int], int]:
        """How many instances stand on each (machine, version)."""
        ...


class StepStore(Protocol):
    """The runner's side of the step rows. Every write names the token of the claim and raises LostLease without it."""

    async def claim(
        self, worker: str, places: Sequence[str], now: datetime, lease: timedelta, limit: int
    ) -> tuple[StepRow, ...]:
        """Steps that are ready (or running under a lease that ended), each with a new token.

        `attempt` grows when the step begins anew. A claim that follows an answer goes on with the attempt that asked;
        an interrupted one is the same attempt still: its probe decides, and a crash costs nothing of the budget.
        A row that comes back with `token` differing from the token it had while `running` was interrupted: its
        `status` is RUNNING and `error` is `interrupted`.
        Nothing of an instance is handed out while a step of this or an earlier state entry that was cancelled or
        waived is still at a worker: until that has let it go, or its lease has ended. Nor is anything of a system whose
        shard's owner has not cleared it yet (`Store.clear`), or has none: the database may be older than the world.
        """
        ...

    async def renew_claim(self, row: StepRow, lease: timedelta) -> None: ...

    async def taken(self, claims: Sequence[StepRow]) -> frozenset[Token]:
        """The tokens of those of these claims whose steps were cancelled or waived while they were performed."""
        ...

    async def let_go(self, row: StepRow) -> None:
        """Says that the action of such a step has ended, and wakes who waited for that. Otherwise nothing happens."""
        ...

    async def finish(
        self,
        row: StepRow,
        status: StepStatus,
        result: Mapping[str, Json],
        error: str | None,
        ready_at: datetime | None,
        signal: NewSignal,
    ) -> None:
        """Records what became of the claim (done, failed, unknown, or ready at `ready_at`) together with the signal.

        Ready again, the answer is used up. Allowed after the lease ended, as long as nobody else has claimed the step:
        what is known is not lost. Raises Poison when `result` cannot be stored (NaN): the claim stays.
        """
        ...

    async def wait(self, row: StepRow, until: datetime, signal: NewSignal) -> bool:
        """Gives the claim up until an answer arrives or `until` passes (a timer `step:<name>` is set).

        False: the answer is already there; the step is ready again at once and no signal is sent. An answer that the
        claim already carried (`row.answer`) is used up: the step waits for the next one.
        """
        ...

    async def context(self, row: StepRow) -> Loaded:
        """The instance as it stands and the steps of the row's state entry: what an action may build on."""
        ...

    async def configurations_in_use(self) -> Mapping[str, str]:
        """As in `Store`: a worker may be given a step of a configuration that it was not started with."""
        ...

    async def wait_for_step(self, timeout: float) -> None:
        """Returns when a step became ready, was taken from its worker or let go, or after `timeout` seconds."""
        ...


class Reader(Protocol):
    """Read-only views for commands and pages."""

    async def instances(self, system: str | None = None) -> tuple[InstanceView, ...]: ...

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]: ...

    async def steps(self, instance: InstanceId, first_entry: int = 0) -> tuple[StepRow, ...]: ...

    async def dead_letters(self, limit: int = 100) -> tuple[DeadLetter, ...]: ...

    async def gates(self, system: str | None = None) -> tuple[GateView, ...]:
        """The gates that hold something, by system."""
        ...

    async def counts(self) -> Mapping[str, int]:
        """Rows waiting: signals, outbox, undelivered, dead, held, steps by status (`steps_ready`, …)."""
        ...


class Leftovers(Protocol):
    """What could not be taken in or delivered, for people: looked at, replayed, dropped. Rows stay."""

    async def dead(self, limit: int = 100, *, settled: bool = False, only: int | None = None) -> tuple[DeadRow, ...]:
        """The newest dead letters, newest first; with `settled` also those somebody has settled; `only`: that id."""
        ...

    async def undelivered(
        self, limit: int = 100, *, settled: bool = False, only: int | None = None
    ) -> tuple[UndeliveredRow, ...]:
        """The same of notifications that the status exchange refused."""
        ...

    async def settle_dead(self, row: int, how: Settled, by: str, why: str) -> bool:
        """Notes what somebody did about it; False when it is not there or was settled before."""
        ...

    async def settle_undelivered(self, row: int, how: Settled, by: str, why: str) -> bool:
        """The same of an undelivered notification."""
        ...

    async def outcomes(self, key: EventKey) -> Mapping[str, str] | None:
        """What became of an event, by instance; None while it was not taken in."""
        ...
