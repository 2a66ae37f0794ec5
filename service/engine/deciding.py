"""A batch decided in memory: what the store has of it is read, and each event settled. Nothing is written from here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from machines.model import InstanceId
from service import metrics
from service.engine.definitions import Definitions
from service.engine.gate import concerned
from service.engine.reading import Arrived, Meant, meant
from service.engine.settle import settle
from service.engine.work import Work
from service.errors import Misconfigured
from service.ports import EventKey, Ownership, Prepared, Store, epoch_of


@dataclass(frozen=True, slots=True)
class Decided:
    """A batch that waits for its commit: what arrived, what it writes, and the outcome of each event."""

    arrived: Sequence[Arrived]
    work: Work
    outcomes: Sequence[str]


class Decider:
    """Decides for the owner of one shard."""

    def __init__(self, store: Store, definitions: Definitions, ownership: Ownership) -> None:
        self.definitions = definitions
        self._store = store
        self._ownership = ownership

    def work(self, prepared: Prepared, now: datetime) -> Work:
        """An empty working set."""
        return Work(prepared, self.definitions, epoch=epoch_of(self._ownership.token), now=now)

    async def decide(self, arrived: Sequence[Arrived], addressed: Sequence[Meant], now: datetime) -> Decided:
        """`addressed` are the instances that each of them means.

        Raises what the store raises, Misconfigured for what this replica lacks, and whatever a machine raises.
        """
        prepared = await self._prepare(arrived, addressed, now)
        work = self.work(prepared, now)
        seen: dict[EventKey, bytes] = {}
        outcomes = [settle(work, one, its, prepared.known, seen) for one, its in zip(arrived, addressed, strict=True)]
        return Decided(arrived, work, outcomes)

    async def known(self, arrived: Sequence[Arrived], now: datetime) -> Collection[EventKey]:
        """The keys of those that have outcomes. Raises like `decide`: what is lacking shows before a try counts."""
        return (await self._prepare(arrived, meant(arrived, self.definitions), now)).known.keys()

    async def _prepare(self, arrived: Sequence[Arrived], addressed: Sequence[Meant], now: datetime) -> Prepared:
        events = [one.event for one in arrived if one.event is not None]
        instances: dict[InstanceId, None] = {}
        for its in addressed:
            instances.update(dict.fromkeys(its))
        keys = [one.key for one in arrived if one.kept_in_inbox or one.rejected is not None]
        if not keys and not instances:
            return Prepared({}, {})
        systems = sorted({event.system for event in events})
        gates = concerned(events, self.definitions)
        with metrics.PREPARE_SECONDS.time():
            prepared = await self._store.prepare(self._ownership.shard, keys, list(instances), systems, gates, now)
        await self._learn(prepared)
        return prepared

    async def _learn(self, prepared: Prepared) -> None:
        """Another replica may have moved an instance to what it was started with: that stands in the table.

        Raises Misconfigured before anything is decided or an attempt is counted.
        """
        snapshots = [loaded.snapshot for loaded in prepared.instances.values() if loaded.snapshot is not None]
        if not all(self.definitions.knows(snapshot.config_hash) for snapshot in snapshots):
            self.definitions.learn(await self._store.configurations_in_use())
        lacking = tuple(why for snapshot in snapshots if (why := self.definitions.lacks(snapshot)) is not None)
        if lacking:
            raise Misconfigured(lacking)
