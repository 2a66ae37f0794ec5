"""The hard conditions under which planted bugs show, and an engine without them must show nothing. No judging.

Beside what the stories do anyway: messages to the database that arrive long after their sender has died, effects that
have no fence of their own, and events that mean two instances.
"""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from machines.alert import ALERT
from machines.model import Event, InstanceId, Machine, PlannedStep
from machines.registry import MACHINES
from schemas.events import MetricObserved
from schemas.notifications import CommandData
from schemas.system import System
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.participants import MemoryParticipant
from service.adapters.memory.store import MemoryStore
from service.errors import LostLease
from service.ports import Action, Done, StepContext, Waiting
from service.steps.registry import ACTIONS
from tests.faults.evidence import Effect
from tests.simulation import story
from tests.simulation.evidence import Witness

TWIN = "twin"
"""A machine that watches the same measurements as `alert` does: each means an instance of both."""
LATE = 7.0
"""Seconds by which a write may be late: more than a lease and the pause before a replica follows the dead one."""
OFTEN = 0.08
"""The share of writes that are late."""
MINUTE = 70.0
"""Virtual seconds after which nothing is late any more, so that everything may come to rest."""
UNFENCED = ("report.write", "snapshot.seal", "snapshot.verify", "snapshot.compare", "component.observe")
"""Actions that get an effect which nothing but Relight keeps from happening twice."""


class Charged:
    """An action with one more effect, as a card that is charged: it knows no idempotency key; a look finds it."""

    twice_is_safe = False

    def __init__(self, inner: Action, effects: list[Effect]) -> None:
        self.name = inner.name
        self._inner, self._effects = inner, effects

    def plan(self, step: PlannedStep, system: System) -> str:
        return self._inner.plan(step, system)

    async def perform(self, context: StepContext) -> Done | Waiting:
        result = await self._inner.perform(context)
        await asyncio.sleep(0.3)
        self._effects.append(Effect("card", "charge", context.command_id))
        # Time enough to die between the effect and its record.
        await asyncio.sleep(1.0)
        return result

    async def probe(self, context: StepContext) -> Done | None:
        if all(effect.key != context.command_id for effect in self._effects):
            return None
        result = await self._inner.perform(context)
        assert isinstance(result, Done)
        return result


def twin() -> Machine:
    """The second machine, with instances of its own name."""

    def address(event: Event) -> InstanceId | None:
        if isinstance(event.data, MetricObserved):
            return InstanceId(f"{TWIN}/{event.system}/{event.data.metric}")
        instance = str(getattr(event.data, "instance", ""))
        return InstanceId(instance) if instance.startswith(f"{TWIN}/") else None

    return replace(ALERT, name=TWIN, address=address)


def make_hard(monkeypatch: pytest.MonkeyPatch, witness: Witness, seed: int) -> None:
    """From now on, with chances of their own from `seed`."""
    chance = random.Random(f"late {seed}")
    machines: Mapping[str, Machine] = {**MACHINES, TWIN: twin()}
    witness.twins = (TWIN,)
    monkeypatch.setattr(story, "MACHINES", machines)
    for name in UNFENCED:
        monkeypatch.setitem(ACTIONS, name, Charged(ACTIONS[name], witness.effects))
    monkeypatch.setattr(MemoryParticipant, "hear", _sometimes_deaf(MemoryParticipant.hear, chance))
    monkeypatch.setattr(MemoryBroker, "put", _sometimes_cancelled(MemoryBroker.put, chance))
    monkeypatch.setattr(MemoryStore, "commit", _sometimes_late(MemoryStore.commit, chance))
    monkeypatch.setattr(MemoryStore, "finish", _sometimes_posthumous(MemoryStore.finish, chance))


def _sometimes_deaf(real: Any, chance: random.Random) -> Any:
    """A participant may leave what it was told to flush without an answer: the restart is given up then."""

    def hear(participant: MemoryParticipant, data: CommandData) -> Any:
        return None if data.command == "flush" and chance.random() < 0.3 else real(participant, data)

    return hear


def _sometimes_cancelled(real: Any, chance: random.Random) -> Any:
    """Who wants a restart may think better of it while its first steps are under way."""

    def put(broker: MemoryBroker, routing_key: str, body: bytes, **how: Any) -> None:
        real(broker, routing_key, body, **how)
        if routing_key.endswith(".restart.requested") and chance.random() < 0.3:
            event = json.loads(body)
            event |= {"id": f"{event['id']}c", "type": "relight.restart.cancelled", "data": {"reason": "or not"}}
            key = routing_key.replace("requested", "cancelled")
            args = (broker, key, json.dumps(event).encode())
            asyncio.get_running_loop().call_later(chance.random() * 9, partial(real, *args, **how))

    return put


def _over() -> bool:
    return asyncio.get_running_loop().time() > MINUTE


def _late(real: Any, arguments: tuple[Any, ...]) -> "asyncio.Future[Any]":
    """What was sent arrives, whatever becomes of its sender; what comes of it then nobody hears."""

    async def arrives() -> Any:
        await asyncio.sleep(LATE)
        return await real(*arguments)

    sent = asyncio.ensure_future(arrives())
    sent.add_done_callback(lambda task: task.cancelled() or task.exception())
    return sent


def _sometimes_late(real: Any, chance: random.Random) -> Any:
    """Its sender waits for it, and may die meanwhile."""

    async def commit(*arguments: Any) -> Any:
        if chance.random() >= OFTEN or _over():
            return await real(*arguments)
        return await asyncio.shield(_late(real, arguments))

    return commit


def _sometimes_posthumous(real: Any, chance: random.Random) -> Any:
    """Its sender dies at once: the claim is not renewed any more, and another worker follows before it arrives."""

    async def finish(*arguments: Any) -> Any:
        if chance.random() >= OFTEN or _over():
            return await real(*arguments)
        _late(real, arguments)
        raise LostLease("this worker has died")

    return finish
