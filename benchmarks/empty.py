"""The service with the real lifecycle, whose steps do nothing: what is left is what the engine itself needs.

Run as `serve` is. Each action answers at once with the evidence that the machine's guards ask for.
"""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.as_serve import run
from machines.model import PlannedStep
from schemas.base import Json
from schemas.system import System
from service.adapters.postgres import PostgresStore
from service.adapters.rabbitmq import RabbitBroker
from service.app import Service
from service.engine.runner import Runner
from service.ports import Done, StepContext, Waiting
from service.steps.registry import ACTIONS

DIGEST = "0" * 64

EVIDENCE: Mapping[str, Mapping[str, Json]] = {
    "component.observe": {"running": True},
    "component.start": {"running": True},
    "snapshot.seal": {"sha256": DIGEST, "url": "file:///nothing"},
    "snapshot.verify": {"sha256": DIGEST, "verified": True},
    "check.run": {"passed": True},
}
"""What each action returns; all others return nothing."""

COMPONENTS = 4

SYSTEM = "empty"


class Nothing:
    """An action that does nothing. Twice is safe."""

    twice_is_safe = True

    def __init__(self, name: str) -> None:
        self.name = name

    def plan(self, step: PlannedStep, system: System) -> str:
        return "nothing"

    async def perform(self, context: StepContext) -> Done | Waiting:
        return Done(EVIDENCE.get(self.name, {}))

    async def probe(self, context: StepContext) -> Done | None:
        return None


class Empty(Service):
    """All of Relight, with empty hands."""

    async def _work(
        self, stack: AsyncExitStack, store: PostgresStore, broker: RabbitBroker
    ) -> Callable[[], Coroutine[None, None, None]]:
        commands = await stack.enter_async_context(broker.commands())
        actions = {name: Nothing(name) for name in ACTIONS}
        return Runner(
            store, actions, self._world(store, commands), lambda: self._definitions, self._clock, self._ids,
            name=self._name, places=("local",), lease=self._settings.engine.lease,
        ).run  # fmt: skip


def describe(user: str, folder: Path) -> dict[str, object]:
    """A system whose restart has about thirty steps, as the lifecycle's table now is: four components, two checks."""
    part = {"process": ["true"]}
    names = [f"c{number}" for number in range(COMPONENTS)]
    more = {"participant": {command: {"signal": "USR1"} for command in ("pause", "resume")}}
    return {
        "system": SYSTEM,
        "allow": {"restart": [user]},
        "storage": {"state": f"file://{folder}"},
        "components": {
            names[0]: {**part, "participant": "amqp"},
            **{name: {**part, **more} for name in names[1:-1]},
            names[-1]: part,
        },
        "restart": {"notice": {"lead": "0s"}},
        "verify": [{"files": "/"}, {"files": "/tmp"}],
    }


if __name__ == "__main__":
    run(lambda settings, systems, addresses: Empty(settings, systems, addresses, None))
