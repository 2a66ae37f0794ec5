"""Everybody outside in a story: who measures, asks for restarts and operations, acts, and turns alerts into restarts.

They know what they have published; what became of it the findings ask the tables.
"""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from schemas.base import Json
from schemas.envelope import MAX_CAUSATION
from service.adapters.memory.broker import MemoryBroker
from service.ports import Clock
from service.simulation.plan import Plan
from service.simulation.systems import system

SOURCE = "publisher"
METRICS = {"memory": 110.0, "latency": 2600.0, "unwatched": 1.0}
"""What is measured, and up to which value."""
ACTS = ("retry", "waive", "abort", "adopt", "hands-off")
STEPS = ("notify", "seal", "verify_snapshot", "drain:reporter", "check:0", "start:calculator", "resume:calculator")


@dataclass(frozen=True)
class Sent:
    """An event that the broker has confirmed; the one `instance` that it means. `depth`: links of its chain."""

    id: str
    source: str
    system: str
    instance: str
    operation: bool = False
    depth: int = 0

    @property
    def too_deep(self) -> bool:
        """It is refused for the length of its chain, whatever it asks for."""
        return self.depth > MAX_CAUSATION


@dataclass
class People:
    """Publishers and a subscriber. `chased`: how often an alert was turned into a restart."""

    plan: Plan
    broker: MemoryBroker
    clock: Clock
    chance: random.Random
    sent: list[Sent] = field(default_factory=list)
    chased: int = 0

    async def work(self) -> None:
        """All that they want in this story, until its time is over."""
        ends = self.plan.seconds
        wishes = [(self.chance.uniform(3, ends), self._ask) for _ in range(self.plan.restarts)]
        wishes += [(self.chance.uniform(3, ends), self._act) for _ in range(self.plan.acts)]
        wishes.sort(key=lambda wish: wish[0])
        while self.clock.monotonic() < ends:
            await self.clock.sleep(self.chance.expovariate(self.plan.rate))
            while wishes and wishes[0][0] <= self.clock.monotonic():
                await wishes.pop(0)[1]()
            await self._measure()
            if self.chance.random() < 0.25:
                await self._operate()
            if self.chance.random() < 0.01:
                await self.publish(self._one(), "restart.cancelled", {"reason": "or not"}, user="ana")

    async def probe(self, instances: list[str]) -> list[Sent]:
        """A question to each of these instances that it can answer in any state. Who asks is allowed nothing, so that
        it is refused, and moves nothing that somebody else forgot to move."""
        asked = []
        for instance in instances:
            machine, name, *_ = instance.split("/")
            kind, data = "restart.cancelled", dict[str, Json](reason="are you there?")
            if machine == "alert":
                kind, data = "operator.acted", {**data, "instance": instance, "act": "retry"}
            asked.append(await self.publish(name, kind, data, user="eve"))
        return asked

    async def publish(
        self, name: str, kind: str, data: dict[str, Json], *, user: str = "probe", cause: dict[str, Any] | None = None
    ) -> Sent:
        """Sends an event as soon as the broker can be reached. `cause` is the notification that it answers to."""
        while self.broker.away:
            await self.clock.sleep(0.3)
        instance = f"alert/{name}/{data['metric']}" if kind == "metric.observed" else f"lifecycle/{name}"
        instance = str(data.get("instance", instance))
        depth = cause["causationdepth"] if cause is not None else 0
        sent = Sent(f"p{len(self.sent)}", SOURCE, name, instance, kind == "operation.requested", depth)
        self.sent.append(sent)
        body: dict[str, Any] = {
            "specversion": "1.0", "id": sent.id, "source": sent.source, "type": f"relight.{kind}", "subject": name,
            "data": data,
        }  # fmt: skip
        if cause is not None:
            chain = {"causationid": f"relight {cause['id']}", "correlationid": cause["correlationid"]}
            body |= {**chain, "causationdepth": depth}
        self.broker.put(f"{name}.{kind}", json.dumps(body).encode(), user=user)
        return sent

    async def chase(self) -> None:
        """A service of somebody's that restarts whatever is critical, and a system that is critical once it is up."""
        seen: set[str] = set()
        async with self.broker.watching("#") as notifications:
            async for key, body in notifications:
                envelope = json.loads(body)
                if envelope["type"] != "relight.transition" or envelope["id"] in seen:
                    continue
                seen.add(envelope["id"])
                words = key.split(".", 2)
                if words[1:] == ["alert", "critical"]:
                    self.chased += 1
                    await self.publish(
                        words[0], "restart.requested", {"reason": "chase"}, user="chaser", cause=envelope
                    )
                elif words[1] == "lifecycle" and words[2] in ("operational", "degraded"):
                    for value in (1.0, 99.0):
                        data: dict[str, Json] = {"metric": "memory", "value": value}
                        await self.publish(words[0], "metric.observed", data, cause=envelope)

    # --- what they do

    def _one(self) -> str:
        return self.chance.choice(self.plan.systems)

    async def _measure(self) -> None:
        name = self._one()
        metric, span = self.chance.choice(list(METRICS.items()))
        await self.publish(name, "metric.observed", {"metric": metric, "value": self.chance.random() * span})

    async def _ask(self) -> None:
        user = self.chance.choice(["ana", "ana", "ana", "eve"])
        await self.publish(self._one(), "restart.requested", {"reason": "the story wants it"}, user=user)

    async def _operate(self) -> None:
        gated = [name for name in self.plan.systems if system(name).gate is not None]
        if gated:
            user = self.chance.choice(["shop"] * 9 + ["eve"])
            data: dict[str, Json] = {"operation": "orders.submit", "payload": len(self.sent)}
            await self.publish(self.chance.choice(gated), "operation.requested", data, user=user)

    async def _act(self) -> None:
        name, act = self._one(), self.chance.choice(ACTS)
        step = self.chance.choice(STEPS) if act in ("retry", "waive") else None
        data: dict[str, Json] = {"instance": f"lifecycle/{name}", "act": act, "reason": "the story wants it"}
        if step is not None:
            data["step"] = step
        await self.publish(name, "operator.acted", data, user=self.chance.choice(["ana", "ana", "eve"]))
