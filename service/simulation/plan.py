"""What a seed stands for: how many replicas, shards and systems, how long a story, and what may go wrong in it."""

import random
from dataclasses import dataclass
from enum import StrEnum

LONG_EVERY = 50
"""Of so many seeds one is a long story: some faults only meet after others."""


class Fault(StrEnum):
    """What can happen to a story beside its people's wishes."""

    CRASH = "crash"
    """A replica dies, at any await or at a named crash point, and is started again."""
    ALL_CRASH = "all_crash"
    STOP = "stop"
    """A replica is ended with TERM: it gives its leases back."""
    FREEZE = "freeze"
    """A replica stands still for longer than its lease, then goes on with what it believed."""
    STORE_CUT = "store_cut"
    """One replica is cut off from PostgreSQL: refused, or its packets vanish, or they arrive late."""
    BROKER_CUT = "broker_cut"
    STORE_RESTART = "store_restart"
    BROKER_RESTART = "broker_restart"
    CONNECTIONS = "connections"
    """All connections to the broker are lost and made again."""
    DISORDER = "disorder"
    """What waits in the queues is doubled and shuffled."""
    FULL_QUEUE = "full_queue"
    """A stranger's full queue nacks every notification."""
    MOODS = "moods"
    """PostgreSQL refuses in passing and loses answers."""
    DEAF = "deaf"
    """A participant hears and does not answer."""
    SLOW = "slow"
    """Participants answer late, or twice."""
    COMPONENT = "component"
    """A component dies by itself."""
    STUBBORN = "stubborn"
    """A component takes its time to end, or does not at all."""
    DATABASE = "database"
    """A system's own database is away."""


@dataclass(frozen=True)
class Plan:
    """One story. `seconds`: how long people and faults are at it; `rate`: events a second; `faults`: how many of
    `kinds`; `skew`: seconds by which wall clocks are off at most; `chaser`: somebody turns alerts into restarts;
    `batch`: events of one transaction at most; with few there is often a backlog, and the next are decided ahead."""

    seed: int
    systems: tuple[str, ...] = ("metrics",)
    shards: int = 1
    replicas: int = 2
    seconds: float = 40.0
    rate: float = 2.0
    restarts: int = 2
    acts: int = 0
    faults: int = 0
    kinds: tuple[Fault, ...] = ()
    skew: float = 0.0
    chaser: bool = False
    batch: int = 20


def drawn(seed: int) -> Plan:
    """The plan of a seed. Mostly few kinds of faults meet, so that each shows; sometimes all do."""
    chance = random.Random(f"plan {seed}")  # noqa: S311  # it has to be the same every time
    long = seed % LONG_EVERY == LONG_EVERY - 1
    seconds = chance.uniform(20, 45) * (4 if long else 1)
    kinds = chance.sample(list(Fault), chance.choice([2, 3, 4, 5, len(Fault)]))
    chaser = chance.random() < 0.05
    return Plan(
        seed=seed,
        # Each link of a chase is a whole restart.
        systems=tuple(
            sorted(chance.sample(["metrics", "trading", "desk"], 1 if chaser else chance.choice([1, 1, 2, 3])))
        ),
        shards=chance.choice([1, 1, 2, 3]),
        replicas=chance.choice([1, 2, 2, 3]),
        seconds=seconds,
        rate=chance.uniform(0.7, 3.0),
        restarts=chance.randint(1, 2) * (3 if long else 1),
        acts=chance.choice([0, 0, 2, 5]),
        faults=chance.randint(3, 9) * (4 if long else 1),
        # What every promise is about is always among them.
        kinds=tuple(sorted({*kinds, Fault.CRASH})),
        skew=chance.choice([0.0, 0.0, 1.5]),
        chaser=chaser,
        batch=chance.choice([1, 2, 20]),
    )
