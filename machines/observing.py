"""The lifecycle of a system that is only observed: it stands where it is, and no table row leads anywhere else.

Whoever asks for a restart is refused, with what the real lifecycle would have decided had the system been operational.
"""

from dataclasses import replace

from machines.chart import Chart
from machines.lifecycle import LIFECYCLE
from machines.lifecycle_states import At
from machines.model import Facts, Machine, Move, Reason, Refusal, State, Transition
from schemas.events import SystemRegistered

ONLY = "observing only, nothing was moved"
"""How every refusal of an observed system begins."""

_REAL = Chart(LIFECYCLE)


def new_or_changed(facts: Facts) -> Reason | None:
    """One row of the log when it is first seen, and one for each other configuration."""
    match facts.event.data:
        case SystemRegistered(config_hash=new) if facts.snapshot.seq == 0 or new != facts.snapshot.config_hash:
            return None
        case _:
            return Reason("this configuration is observed already")


def explain(trigger: str, facts: Facts) -> Reason | None:
    """What the real lifecycle would have answered, for a request; for all else only that nothing moves."""
    if trigger != "restart.requested":
        return Reason(f"{ONLY}: end `relight serve --observe` and start `relight serve` to let Relight act")
    operational = replace(facts, snapshot=replace(facts.snapshot, state=At.OPERATIONAL))
    match _REAL.decide(trigger, operational):
        case Move(target=target, reason=reason):
            would = f"if it were operational it would now be {target} ({reason})"
        case Refusal(reasons=reasons):
            would = f"if it were operational this would be refused: {'; '.join(reasons)}"
        case _:
            would = "nothing would have come of it"
    name = f"{LIFECYCLE.name}/{facts.snapshot.system}"
    return Reason(f"{ONLY}: {would}. `relight report {name}` says in a moment what each step would meet")


OBSERVING = Machine(
    name=LIFECYCLE.name,
    version=LIFECYCLE.version,
    initial=At.UNOBSERVED,
    states=(State(At.UNOBSERVED, resting=True),),
    transitions=(
        Transition(
            At.UNOBSERVED, "system.registered", At.UNOBSERVED, (new_or_changed,), reason=f"{ONLY}", stay=True,
        ),
    ),
    address=LIFECYCLE.address,
    absorbs=frozenset({"system.registered"}),
    explain=explain,
)  # fmt: skip
"""Under the name and version of the lifecycle, so that a later `relight serve` goes on from the same instance."""
