"""The port `Processes` of this host as a whole: processes of Relight's own and units of systemd, told apart by name."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from service.ports import UNIT, Processes, ProcessState


class HostComponents:
    """Hands each call to whom the component belongs."""

    def __init__(self, processes: Processes, units: Processes) -> None:
        self._processes, self._units = processes, units

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        return await self._of(name).start(name, command, environment, folder)

    async def state(self, name: str) -> ProcessState:
        return await self._of(name).state(name)

    async def strangers(self, name: str, command: Sequence[str], folder: str) -> tuple[int, ...]:
        return await self._of(name).strangers(name, command, folder)

    async def tell(self, name: str, signal: str) -> None:
        await self._of(name).tell(name, signal)

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        return await self._of(name).wait_stopped(name, timeout)

    async def groups(self, name: str) -> tuple[str, ...]:
        return await self._of(name).groups(name)

    async def said(self, name: str) -> str:
        return await self._of(name).said(name)

    def _of(self, name: str) -> Processes:
        return self._units if name.startswith(UNIT) else self._processes
