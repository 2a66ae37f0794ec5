"""A small system on the world in memory, with time that passes only when somebody sleeps."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from schemas.base import Json
from schemas.system import System
from service.adapters.memory.world import MemoryWorld
from service.ports import SILENT, Waiting
from tests.performing import Bench

SHOP = {
    "system": "shop",
    "databases": {"orders": {"url": "env:ORDERS"}},
    "storage": {"state": "file:///var/shop"},
    "components": {
        "server": {"process": ["server"], "keep": True},
        "counter": {
            "process": ["counter"],
            "needs": ["server", "orders"],
            "participant": "amqp",
            "env": {"ORDERS_DSN": "env:ORDERS", "PLAIN": "word"},
        },
        "printer": {
            "process": ["printer"],
            "needs": ["counter"],
            "participant": {
                "pause": {"signal": "USR1"},
                "resume": {"signal": "USR2"},
                "flush": {"command": ["printer", "flush"]},
                "report": {"command": ["printer", "report"]},
            },
            "on_silence": "proceed",
        },
    },
    "verify": [
        {"sql": "orders", "query": "select fresh", "is": True},
        {"roundtrip": "counter", "within": "5s"},
        {"equal": ["count"]},
    ],
}


class SleepClock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds


class Shop(Bench):
    """The bench with everything in memory, and one participant that counts."""

    def __init__(self, **changes: Json) -> None:
        self.memory = MemoryWorld(clock := SleepClock())
        self.memory.secrets.values["env:ORDERS"] = "postgresql://shop:hush@127.0.0.1/orders"
        self.counter = self.memory.participant("shop", "counter")
        self.time = clock
        super().__init__(System.model_validate({**SHOP, **changes}), self.memory.world(), clock, self._answer)

    async def start_all(self) -> None:
        """Everything runs, not paused."""
        for name in self.system.start_order():
            await self.perform("component.start", name)

    async def take_down(self) -> Mapping[str, Json]:
        """From pause to confirmed stop, as the lifecycle plans it. The seal's result."""
        self.entry, self.state = self.entry + 1, "preparing_for_restart.preserving"
        self.data["restart"] = {"id": "r1"}
        self.results["pause:counter"] = await self.perform("participant.pause", "counter", lease=60)
        self.results["flush:counter"] = await self.perform("participant.flush", "counter")
        seal = self.results["seal"] = await self.perform("snapshot.seal")
        self.data["system_snapshot"] = {"url": seal["url"], "sha256": seal["sha256"]}
        self.data["digests"] = {"counter": self.results["flush:counter"]["digest"]}
        for name in ("printer", "counter"):
            await self.perform("component.stop", name)
        self.entry, self.state = self.entry + 1, "starting_up.verifying"
        return seal

    async def _answer(self, command_id: str, waiting: Waiting) -> Mapping[str, Json]:
        for answer in self.memory.commands.answers:
            if answer[2]["commandid"] == command_id:
                self.memory.commands.answers.remove(answer)
                return answer[2]
        self.time.passed += (waiting.until - self.time.now()).total_seconds()
        return SILENT
