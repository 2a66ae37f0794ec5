"""The composition root: the only file that builds adapters. One TaskGroup runs everything that `serve` is made of."""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import structlog

from machines.registry import MACHINES, OLD
from schemas.sharding import shard_of
from schemas.system import System
from service import metrics
from service.adapters.apprise import AppriseChannels
from service.adapters.databases import PostgresDatabases
from service.adapters.files import FileStorage
from service.adapters.grounds import HostGrounds, HostSockets
from service.adapters.http import HttpRequests
from service.adapters.local_files import LocalFiles
from service.adapters.mcp import McpServers
from service.adapters.pg_tools import PostgresDumps
from service.adapters.postgres import PostgresStore
from service.adapters.processes.components import HostComponents
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.processes.units import SystemdUnits
from service.adapters.programs import LocalPrograms
from service.adapters.rabbitmq import RabbitBroker
from service.adapters.s3 import S3Storage
from service.adapters.secrets import References
from service.adapters.storage import StorageByScheme
from service.clock import SystemClock, SystemIds
from service.crash import crash_point
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.records import canonical
from service.engine.runner import Runner
from service.errors import Misconfigured, Transient, Unavailable
from service.masking import MASKS
from service.ports import Clock, Commands, Ids, NewSignal, World
from service.settings import Settings
from service.steps.grounds import IDENTIFIER
from service.steps.registry import ACTIONS
from service.web.health import Health
from service.web.server import Web

UPKEEP = 6 * 3600.0
"""Seconds between two rounds of forgetting what is older than 30 days and preparing the log's coming months."""

OWN_IDENTIFIER_WITHIN = timedelta(seconds=5)
"""For asking the server of our own tables which one it is."""

LONGEST_HEARTBEAT = 4
"""Seconds between AMQP heartbeats, however long the lease: a dead connection is noticed after about two of them."""

LOOK = 2.0
"""Seconds between two looks at the tables for health and the gauges."""

log = structlog.get_logger()

COLLECT_AFTER = 20_000
"""New objects between two looks of the garbage collector: about as many as a batch of 200 events makes and keeps."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers are: URLs with their passwords, which `repr` does not show."""

    postgres_url: str = field(repr=False)
    amqp_url: str = field(repr=False)

    def __post_init__(self) -> None:
        """Their passwords are logged and kept nowhere from here on."""
        MASKS.learn(self.postgres_url)
        MASKS.learn(self.amqp_url)


async def serve(
    settings: Settings,
    systems: Mapping[str, System],
    addresses: Addresses,
    listening: socket.socket,
    *,
    ready: Callable[[], None] | None = None,
) -> None:
    """Runs Relight until cancelled. The schema must be migrated. `ready` is called once everything has begun.

    `listening`: where health and metrics are asked for.

    Raises Misconfigured when an instance stands on something that is not here. Servers that are away are waited for.
    """
    await Service(settings, systems, addresses, ready).run(listening)


def heartbeat(lease: timedelta) -> int:
    """Seconds between AMQP heartbeats: two of them fit into a lease, so a silent owner is cut off before it ends."""
    return max(1, min(LONGEST_HEARTBEAT, int(lease.total_seconds() / 2.5)))


def _replica(home: Path) -> str:
    """This replica's own name, kept in its folder: started again, it takes its own lease back without waiting.

    Only one process may serve from a folder at a time, or the name would be shared: `relight serve` holds a lock on it.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / "replica"
    if not file.exists():
        aside = file.with_suffix(".new")
        aside.write_text(SystemIds().uuid())
        aside.rename(file)
    return file.read_text().strip()


def _spare_what_is_loaded() -> None:
    """Modules, machines and systems stay as long as the process: the garbage collector need not walk over them again.

    Nor after every 700 new objects, when one batch of events makes thousands that all live until its commit
    (docs/performance.md says what that gained).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


class Service:
    """All of a running Relight. What it does beside deciding, and on which world, another one may choose."""

    def __init__(
        self,
        settings: Settings,
        systems: Mapping[str, System],
        addresses: Addresses,
        ready: Callable[[], None] | None,
    ) -> None:
        self._settings = settings
        self._systems = systems
        self._addresses = addresses
        self._ready = ready
        self._clock: Clock = SystemClock()
        self._ids: Ids = SystemIds()
        self._name = f"{socket.gethostname()}:{_replica(settings.servers.home)}"
        self._definitions = self._defined()
        self._owners: list[Owner] = []
        self._postgres_trouble: str | None = "not asked yet"
        self._broker: RabbitBroker | None = None

    def _defined(self) -> Definitions:
        definitions = Definitions(MACHINES, self._systems)
        for machine in OLD:
            definitions.add_old_machine(machine)
        return definitions

    async def run(self, listening: socket.socket) -> None:
        engine = self._settings.engine
        shards = {name: shard_of(name, engine.shards) for name in self._systems}
        web = Web(listening, self.health, metrics.REGISTRY)
        # Health answers first: whoever looks must hear what is waited for.
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            tasks.create_task(web.serve())
            store = await self._until_up("PostgreSQL", lambda: self._open(stack))
            broker = self._broker = await stack.enter_async_context(
                RabbitBroker(
                    self._addresses.amqp_url,
                    clock=self._clock,
                    prefetch=engine.prefetch,
                    heartbeat=heartbeat(engine.lease),
                )
            )
            tasks.create_task(self._look(store))
            tasks.create_task(self._keep_up(store))
            await self._until_up("PostgreSQL", lambda: self._take_stock(store))
            crash_point("serve.after_keep")
            gated = [name for name, system in self._systems.items() if system.gate is not None]
            await self._until_up("RabbitMQ", lambda: broker.declare(list(self._systems), shards, gated))
            crash_point("serve.after_declare")
            work = await self._work(stack, store, broker)
            _spare_what_is_loaded()
            for shard in range(engine.shards):
                owner = Owner(
                    shard, self._name, store, broker, lambda: self._definitions, self._clock,
                    lease=engine.lease, batch=engine.batch, shards=engine.shards,
                )  # fmt: skip
                self._owners.append(owner)
                tasks.create_task(owner.run())
            tasks.create_task(work())
            await self._until_up("PostgreSQL", lambda: store.signal(self._registrations()))
            crash_point("serve.after_register")
            log.info("serve.began", systems=sorted(self._systems), name=self._name, health=web.url)
            if self._ready is not None:
                self._ready()

    async def _open(self, stack: AsyncExitStack) -> PostgresStore:
        shards = self._settings.engine.shards
        # Each shard may commit one batch and read for the next.
        store = await PostgresStore.connect(self._addresses.postgres_url, shards=shards, writers=2 * shards)
        stack.push_async_callback(store.close)
        return store

    async def _work(
        self, stack: AsyncExitStack, store: PostgresStore, broker: RabbitBroker
    ) -> Callable[[], Coroutine[None, None, None]]:
        """What is done beside deciding: the steps."""
        commands = await stack.enter_async_context(broker.commands())
        engine = self._settings.engine
        runner = Runner(
            store,
            ACTIONS,
            self._world(store, commands),
            lambda: self._definitions,
            self._clock,
            self._ids,
            name=self._name,
            places=engine.places,
            lease=engine.lease,
        )
        return runner.run

    def _world(self, store: PostgresStore, commands: Commands) -> World:
        return World(
            processes=HostComponents(
                SupervisedProcesses(self._settings.servers.home / "processes", self._clock),
                SystemdUnits(LocalPrograms(), self._clock),
            ),
            databases=PostgresDatabases(),
            dumps=PostgresDumps(self._settings.servers.scratch),
            storage=StorageByScheme({"file": FileStorage(), "s3": S3Storage()}),
            commands=commands,
            programs=LocalPrograms(),
            secrets=References(),
            files=LocalFiles(),
            mcp=McpServers(),
            sockets=HostSockets(),
            grounds=HostGrounds(self._own_servers(), self._own_identifier),
            http=HttpRequests(),
            notifier=AppriseChannels(self._clock),
            chronicle=store,
        )

    def _own_servers(self) -> Mapping[str, str]:
        return {
            "the PostgreSQL server of Relight's own tables": self._addresses.postgres_url,
            "Relight's own RabbitMQ broker": self._addresses.amqp_url,
        }

    async def _own_identifier(self) -> str:
        return str(await PostgresDatabases().value(self._addresses.postgres_url, IDENTIFIER, OWN_IDENTIFIER_WITHIN))

    async def _take_stock(self, store: PostgresStore) -> None:
        """What instances stand on must be here: configurations from the table, machine versions from the code."""
        self._definitions.learn(await store.configurations_in_use())
        missing = [
            f"{count} instances stand on machine {name} version {version}, which is not here: keep its old table"
            for (name, version), count in (await store.machines_in_use()).items()
            if not self._definitions.has(name, version)
        ]
        if missing:
            raise Misconfigured(tuple(missing))
        await store.keep_configurations({system.config_hash(): system.canonical() for system in self._systems.values()})

    def _registrations(self) -> list[NewSignal]:
        return [
            NewSignal(
                name,
                canonical(
                    {
                        "specversion": "1.0",
                        "id": self._ids.uuid(),
                        "source": "relight/serve",
                        "type": "relight.system.registered",
                        "subject": name,
                        "time": self._clock.now(),
                        "data": {"config_hash": system.config_hash()},
                    }
                ),
            )
            for name, system in self._systems.items()
        ]

    # --- how it is ---------------------------------------------------------------------------------------------------

    async def _look(self, store: PostgresStore) -> None:
        while True:
            try:
                counts = await store.counts()
                self._postgres_trouble = None
                metrics.OUTBOX_UNSENT.labels(shard="all").set(counts.get("outbox", 0))
                await self._look_at_gates(store)
            except (Unavailable, Transient) as error:
                self._postgres_trouble = f"{error}; waiting for it"
            await self._clock.sleep(LOOK)

    async def _look_at_gates(self, store: PostgresStore) -> None:
        gated = [name for name, system in self._systems.items() if system.gate is not None]
        if gated:
            waiting = {gate.system: gate.waiting for gate in await store.gates()}
            for name in gated:
                metrics.HELD_OPERATIONS.labels(system=name).set(waiting.get(name, 0))

    async def _keep_up(self, store: PostgresStore) -> None:
        while True:
            forgotten = await self._until_up("PostgreSQL", lambda: store.prune(self._clock.now()))
            log.info("upkeep.done", events_forgotten=forgotten)
            await self._clock.sleep(UPKEEP)

    def health(self) -> Health:
        """Asked by /readyz: from memory, at once."""
        broker = self._broker
        up = broker.available() if broker is not None else {}
        down = "RabbitMQ is away; waiting for it" if broker is not None else "not connected before PostgreSQL is there"
        checks: dict[str, str | None] = {"postgres": self._postgres_trouble}
        for name in ("consuming", "publishing"):
            checks[name] = None if up.get(name) else down
        owned = [owner.shard for owner in self._owners if owner.owns]
        troubles = [why for owner in self._owners for why in (owner.trouble, owner.waits) if why is not None]
        checks["shards"] = None if owned else "this process owns no shard; another one may"
        if troubles:
            checks["shards"] = "; ".join(troubles)
        unlooked = [owner.unlooked for owner in self._owners if owner.unlooked is not None]
        checks["history"] = "; ".join(unlooked) or None
        return Health(checks)

    async def _until_up(self, server: str, call: Callable[[], Awaitable[T]]) -> T:
        """The call's answer, however long the server is away: said once, tried with backoff."""
        failures = 0
        while True:
            try:
                answer = await call()
            except (Unavailable, Transient) as error:
                failures += 1
                if self._postgres_trouble is not None and server == "PostgreSQL":
                    self._postgres_trouble = f"{error}; waiting for it"
                if failures == 1:
                    log.warning("serve.waits", server=server, error=str(error), then="goes on when it is back")
                await self._clock.sleep(min(2.0, 0.05 * 2 ** min(failures, 6)))
            else:
                if failures:
                    log.info("serve.goes_on", server=server, tries=failures + 1)
                return answer
