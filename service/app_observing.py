"""The composition root of a Relight that only looks: `app.py` without hands.

Its lifecycle has no row that leads anywhere, no step is ever claimed, no channel to participants is opened, and the
world it looks at is made of ports that refrain from every change. Nothing here can be configured to act.
"""

import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog

from machines.lifecycle import LIFECYCLE
from machines.observing import OBSERVING
from machines.plan import route
from schemas.base import Json
from schemas.system import System
from service.adapters.databases import PostgresDatabases
from service.adapters.files import FileStorage
from service.adapters.grounds import HostGrounds, HostSockets
from service.adapters.local_files import LocalFiles
from service.adapters.looking import (
    LookingDumps,
    LookingFiles,
    LookingStorage,
    NoCommands,
    NoHttp,
    NoNotifier,
    NoPrograms,
)
from service.adapters.mcp import McpServers
from service.adapters.pg_tools import PostgresDumps
from service.adapters.postgres import PostgresStore
from service.adapters.processes.components import HostComponents
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.processes.looking import LookingProcesses
from service.adapters.processes.units import SystemdUnits
from service.adapters.programs import LocalPrograms
from service.adapters.rabbitmq import RabbitBroker
from service.adapters.s3 import S3Storage
from service.adapters.secrets import References
from service.adapters.storage import StorageByScheme
from service.app import Addresses, Service
from service.engine.definitions import Definitions
from service.engine.observer import Asked, Observer
from service.errors import Misconfigured
from service.ports import Chronicle, World
from service.settings import Settings
from service.steps.naming import folder, process_name
from service.steps.observation import Request, as_json, markdown, observe
from service.steps.registry import ACTIONS

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Observing:
    """How to look: how often, and who takes the page of each look."""

    every: timedelta
    take: "Callable[[Page], None]"


@dataclass(frozen=True, slots=True)
class Page:
    """What one look found, for people and for programs. `answers`: the id of the request that it answers, if any."""

    system: str
    text: str
    document: Mapping[str, Json]
    summary: str
    answers: str | None


async def serve(
    settings: Settings,
    systems: Mapping[str, System],
    addresses: Addresses,
    observing: Observing,
    listening: socket.socket,
    *,
    ready: Callable[[], None] | None = None,
) -> None:
    """Looks until cancelled; otherwise as `app.serve`. Raises Misconfigured where Relight cares for systems already."""
    await ObservingService(observing, settings, systems, addresses, ready).run(listening)


class ObservingService(Service):
    """A Relight with eyes and no hands."""

    def __init__(
        self,
        observing: Observing,
        settings: Settings,
        systems: Mapping[str, System],
        addresses: Addresses,
        ready: Callable[[], None] | None,
    ) -> None:
        self._observing = observing
        super().__init__(settings, systems, addresses, ready)

    def _defined(self) -> Definitions:
        return Definitions({OBSERVING.name: OBSERVING}, self._systems)

    async def _take_stock(self, store: PostgresStore) -> None:
        cared_for = [view.snapshot for view in await store.instances() if view.snapshot.entry > 0]
        if cared_for:
            lines = ", ".join(f"{one.instance} is {one.state}" for one in cared_for)
            raise Misconfigured(
                (
                    f"this Relight looks after systems already ({lines}); if it only observed, its work would stand "
                    "still, so nothing was started. Observe from a folder of its own: set RELIGHT_HOME, and no "
                    "RELIGHT_POSTGRES_URL and RELIGHT_AMQP_URL or those of other servers",
                )
            )
        await super()._take_stock(store)

    async def _work(
        self, stack: AsyncExitStack, store: PostgresStore, broker: RabbitBroker
    ) -> Callable[[], Coroutine[None, None, None]]:
        world = self._looking(store)
        return Observer(
            list(self._systems),
            lambda system, asked: self._observe(world, system, asked),
            store,
            self._clock,
            self._observing.every,
        ).run

    def _looking(self, chronicle: Chronicle) -> World:
        # The units are asked through programs, but nothing that can tell them anything leaves this method.
        processes = HostComponents(
            SupervisedProcesses(self._settings.servers.home / "processes", self._clock),
            SystemdUnits(LocalPrograms(), self._clock),
        )
        components = {
            process_name(system, name): (component.command, folder(system, component))
            for system in self._systems.values()
            for name, component in system.components.items()
            if component.service is None
        }
        return World(
            processes=LookingProcesses(
                processes.state, processes.strangers, processes.groups, processes.said, components
            ),
            databases=PostgresDatabases(),
            dumps=LookingDumps(PostgresDumps(self._settings.servers.scratch)),
            storage=LookingStorage(StorageByScheme({"file": FileStorage(), "s3": S3Storage()})),
            commands=NoCommands(),
            programs=NoPrograms(),
            secrets=References(),
            files=LookingFiles(LocalFiles()),
            mcp=McpServers(),
            sockets=HostSockets(),
            grounds=HostGrounds(self._own_servers(), self._own_identifier),
            http=NoHttp(),
            notifier=NoNotifier(),
            chronicle=chronicle,
        )

    async def _observe(self, world: World, name: str, asked: Asked | None) -> None:
        system = self._systems[name]
        request = Request(asked.event_id, asked.user, asked.at, asked.reasons) if asked is not None else None
        seen = await observe(
            system, route(LIFECYCLE, system), ACTIONS, world, self._clock, request, self._settings.engine.places
        )
        log.info("observer.looked", system=name, summary=seen.summary, asked=request is not None)
        answers = asked.event_id if asked is not None else None
        self._observing.take(Page(name, markdown(seen), as_json(seen), seen.summary, answers))
