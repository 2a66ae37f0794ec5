"""Closing a component's connections to MCP servers, and showing that they are closed: `participant.disconnect`."""

from schemas.base import Json
from schemas.components import Command
from service.errors import Retry
from service.ports import Done, StepContext, Waiting
from service.steps.naming import running_name, the_component
from service.steps.participants import Tell

CLOSES = 3.0
"""Seconds that a connection may take to be gone after the component said so."""
LOOK_AGAIN = 0.1
"""Seconds between two looks."""


class Disconnect(Tell):
    """A claim that is checked: on this host the process has no TCP connection to the server left. Twice is safe, as for
    every command."""

    def __init__(self) -> None:
        super().__init__(Command.DISCONNECT)

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result besides what was said: `closed`, the MCP servers to which no connection is left. Raises Retry."""
        outcome = await super().perform(context)
        if isinstance(outcome, Waiting):
            return outcome
        name, component = the_component(context)
        servers = [need for need in component.needs if need in context.system.mcp]
        end = context.clock.monotonic() + CLOSES
        while left := await self._left(context, name, servers):
            if context.clock.monotonic() >= end:
                raise Retry(f"{name} was told to disconnect, but is still connected: {'; '.join(left)}")
            await context.clock.sleep(LOOK_AGAIN)
        closed: list[Json] = list(servers)
        return Done({**outcome.result, "closed": closed})

    async def _left(self, context: StepContext, name: str, servers: list[str]) -> list[str]:
        state = await context.world.processes.state(running_name(context.system, name))
        if not state.running or state.pid is None:
            return []
        resolve, folder = context.world.secrets.resolve, context.system.folder
        known = context.system.mcp
        urls = [(server, url) for server in servers for url in (known[server].url, known[server].backup) if url]
        look = context.world.sockets.connections
        return [f"{server}: {line}" for server, url in urls for line in await look(state.pid, resolve(url, folder))]
