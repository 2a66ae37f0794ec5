"""The systems of the simulated stories: three files as people write them, read once. No story is told here."""

from collections.abc import Mapping
from functools import cache

from machines.registry import MACHINES
from schemas.system import System
from service.engine.definitions import Definitions

LIMITS = {"drain": "20s", "stop": "10s", "start": "10s", "verify": "20s", "downtime": "1m"}
"""Short spans: a story is over sooner, and its deadlines pass more often."""

FILES: Mapping[str, dict[str, object]] = {
    "metrics": {
        "system": "metrics",
        "storage": {"state": "file:///memory/metrics"},
        "components": {
            "calculator": {"process": ["calculator"], "participant": "amqp"},
            "reporter": {"process": ["reporter"], "needs": ["calculator"], "participant": "amqp"},
        },
        "verify": [{"roundtrip": "calculator", "within": "20s"}],
        "restart": {"notice": {"lead": "5s"}, "limits": LIMITS, "answer_within": "10s"},
        "allow": {"restart": ["ana", "chaser"], "act": ["ana"]},
        "gate": {"holds": 3, "expires": "3s", "from": ["shop"]},
        "alerts": [
            {"metric": "memory", "warning": 70, "critical": 90, "hysteresis": 5},
            {"metric": "latency", "warning": 500, "critical": 2000, "for": "30s"},
        ],
    },
    "trading": {
        "system": "trading",
        "storage": {"state": "file:///memory/trading"},
        "components": {
            "feeder": {"process": ["feeder"], "participant": "amqp", "on_silence": "proceed"},
            "trader": {"process": ["trader"], "needs": ["feeder"], "participant": "amqp"},
            "ledger": {"process": ["ledger"], "needs": ["feeder"], "participant": "amqp", "on_silence": "kill"},
        },
        "verify": [{"roundtrip": "trader", "within": "5s"}],
        "restart": {"notice": {"lead": "2s"}, "limits": LIMITS, "answer_within": "5s", "pause_lease": "12s"},
        "allow": {"restart": ["ana", "chaser"], "act": ["ana"]},
        "alerts": [{"metric": "memory", "warning": 70, "critical": 90}],
    },
    "desk": {
        "system": "desk",
        "storage": {"state": "file:///memory/desk"},
        "components": {"clerk": {"process": ["clerk"]}},
        "databases": {"book": {"url": "env:BOOK"}},
        "verify": [{"sql": "book", "query": "select 1", "is": 1}],
        "restart": {"notice": {"lead": "1s"}, "limits": LIMITS},
        "allow": {"restart": ["ana", "chaser"], "act": ["ana"]},
        "gate": {"holds": 10, "expires": "1m", "from": ["shop"]},
        "alerts": [{"metric": "memory", "warning": 70, "critical": 90, "for": "5s"}],
    },
}


@cache
def system(name: str) -> System:
    """The system's file. Read only."""
    return System.model_validate(FILES[name])


@cache
def definitions(names: tuple[str, ...]) -> Definitions:
    """What replicas decide with for these systems: built once, as it is only read."""
    return Definitions(MACHINES, {name: system(name) for name in names})
