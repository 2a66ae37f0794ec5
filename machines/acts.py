"""What a person may do about an instance that waits or is stuck, from its table, and the command that does it.

Pure. What an act then does is decided elsewhere: by the machine's transitions, and by the engine for single steps.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from machines.evidence import record
from machines.model import Asks, InstanceId, Machine, PlannedStep, State, StepStatus
from schemas.base import Json
from schemas.components import OnSilence
from schemas.events import Act

WAIVED_FOR = "24h"
"""The expiry that an offered waiver names; whoever waives may write another."""

RETRIED = frozenset({StepStatus.FAILED, StepStatus.UNKNOWN})
WAIVED = RETRIED | {StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING}


@dataclass(frozen=True, slots=True)
class WayOut:
    """One act that is possible now. `step`: the one it means; `effect`: what it leads to, for people."""

    act: Act
    effect: str
    step: str | None = None

    def command(self, instance: InstanceId) -> str:
        """As it is typed: nothing but the reason is left to the person."""
        words = ["relight", "act", instance, self.act.value]
        if self.step is not None:
            words += ["--step", self.step]
        if self.act is Act.WAIVE:
            words += ["--until", WAIVED_FOR]
        return f'{shlex.join(words)} --reason "WHY"'


def ways_out(
    machine: Machine, state: str, steps: Mapping[str, StepStatus], data: Mapping[str, Json] | None = None
) -> tuple[WayOut, ...]:
    """Everything a person may do in `state` with its `steps` as they stand: single steps first, then the instance.

    `data` is what the instance remembers.
    """
    ahead = (
        WayOut(Act.WAIVE, f"the next retry goes on without {name}, and does not end operational", name)
        for name in waived_ahead(machine, state, data or {})
    )
    return (*_of_steps(steps), *ahead, *_of_instance(machine, state, data or {}))


def waived_ahead(machine: Machine, state: str, data: Mapping[str, Json]) -> tuple[str, ...]:
    """The steps that led to this rest and may be waived for the retry that leads on from it, by their names."""
    if not machine.state(state).resting or not any(way.act is Act.RETRY for way in _of_instance(machine, state, data)):
        return ()
    waivers = record(data, "waivers")
    standing = [name for name in waivers if "ended_at" not in record(waivers, name)]
    return tuple(name for name in record(record(data, "failure"), "steps") if name not in standing)


def way_of(step: str, status: StepStatus) -> tuple[WayOut, ...]:
    """What may be done about this one step."""
    return tuple(_of_steps({step: status}))


def _of_steps(steps: Mapping[str, StepStatus]) -> Iterator[WayOut]:
    for name, status in steps.items():
        if status in RETRIED:
            yield WayOut(Act.RETRY, f"{name} is tried anew, with all its attempts", name)
        if status in WAIVED:
            yield WayOut(Act.WAIVE, f"goes on without {name}", name)


def _of_instance(machine: Machine, state: str, data: Mapping[str, Json]) -> Iterator[WayOut]:
    for way in _of_table(machine, state):
        if machine.withholds is None or machine.withholds(way.act, state, data) is None:
            yield way


@lru_cache(maxsize=1024)
def _of_table(machine: Machine, state: str) -> tuple[WayOut, ...]:
    """All that the table has in `state`: looked up once, because it is asked at every entry of a rest."""
    ways: list[WayOut] = []
    for act in Act:
        found = [t for t in machine.transitions if state in t.sources and t.trigger == f"operator.{act}"]
        if found:
            # Which of several is taken, the facts decide: the first that they allow.
            ways.append(WayOut(act, "; else ".join(f"{way.reason}: {way.target}" for way in found)))
    return tuple(ways)


def answers(instance: InstanceId, asked: Asks) -> tuple[str, ...]:
    """The commands that answer what a state asks people."""
    yes = shlex.join(["relight", "approve", instance, "--plan", asked.plan])
    return (f'{yes} --reason "WHY"', f'{yes} --deny --reason "WHY"')


@lru_cache(maxsize=1024)
def needs_a_person(machine: Machine, state: str) -> bool:
    """Whether `state` is a rest that only people's acts lead out of as it should: halted, degraded."""
    return machine.state(state).resting and any(True for _ in _of_instance(machine, state, {}))


def when_silent(planned: PlannedStep, attempt: int, state: State) -> str:
    """What happens when a participant has not answered attempt number `attempt` in time."""
    left = planned.attempts - attempt
    if left > 0 and (planned.component is None or (planned.asks_again and planned.on_silence is OnSilence.ABORT)):
        return f"asks again ({left} left)"
    if planned.component is None:
        return "counts as not passed"
    match planned.on_silence:
        case OnSilence.PROCEED:
            return "proceeds without it"
        case OnSilence.KILL:
            return "kills it"
        case OnSilence.ABORT:
            return state.then or "the step fails"
