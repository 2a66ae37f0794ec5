"""The port `Processes` for a Relight that only looks: what runs, also what somebody else started. It holds no means to
start or signal anything.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from service.adapters.processes.record import start_time
from service.errors import Refrained
from service.ports import ProcessState

State = Callable[[str], Awaitable[ProcessState]]
Strangers = Callable[[str, Sequence[str], str], Awaitable[tuple[int, ...]]]
Groups = Callable[[str], Awaitable[tuple[str, ...]]]
Said = Callable[[str], Awaitable[str]]


class LookingProcesses:
    """What runs under a component's name, started here or by somebody else."""

    def __init__(
        self,
        state: State,
        strangers: Strangers,
        groups: Groups,
        said: Said,
        commands: Mapping[str, tuple[Sequence[str], str]],
    ) -> None:
        """The first four are the looks of the real port; `commands`: (argument list, folder) of processes by name."""
        self._state, self._strangers, self._commands = state, strangers, dict(commands)
        self._groups, self._said = groups, said

    async def state(self, name: str) -> ProcessState:
        """As the real port; else the process of somebody else that looks like it, with its pid and start time."""
        state = await self._state(name)
        if state.running or name not in self._commands:
            return state
        for pid in await self._strangers(name, *self._commands[name]):
            if (started := start_time(pid)) is not None:
                return ProcessState(True, pid, started)
        return state

    async def strangers(self, name: str, command: Sequence[str], folder: str) -> tuple[int, ...]:
        """As the real port."""
        return await self._strangers(name, command, folder)

    async def groups(self, name: str) -> tuple[str, ...]:
        """As the real port."""
        return await self._groups(name)

    async def said(self, name: str) -> str:
        """As the real port."""
        return await self._said(name)

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        raise Refrained(f"{name} was not started: this Relight only looks")

    async def tell(self, name: str, signal: str) -> None:
        raise Refrained(f"{name} was not sent {signal}: this Relight only looks")

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        raise Refrained(f"{name} was not waited for: this Relight ends nothing")
