"""The systems' files of the benchmark: many systems with many alerts, and nothing else to do.

Their one component is for a host that nobody serves, and the first look at each system is ended by a person's act, so
that every lifecycle is at rest and all that moves are alerts.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.waves import Instances

ELSEWHERE = "elsewhere"
"""The host of the components: no `serve` has it in RELIGHT_PLACES."""


def describe(name: str, alerts: int, user: str, folder: Path) -> dict[str, Any]:
    """One system's file as data. `user` ends the first look."""
    return {
        "system": name,
        "allow": {"act": [user], "observe": [user]},
        "storage": {"state": f"file://{folder / 'state'}"},
        "components": {"nothing": {"process": ["true"], "host": ELSEWHERE}},
        "verify": [{"files": "/"}],
        "alerts": [
            {"metric": f"m{number}", "warning": 70, "critical": 90, "hysteresis": 5} for number in range(alerts)
        ],
    }


def write(folder: Path, instances: Instances, user: str) -> Path:
    """One file a system, in `folder/systems`; JSON is YAML too."""
    target = folder / "systems"
    target.mkdir(parents=True, exist_ok=True)
    for number in range(instances.systems):
        name = f"s{number}"
        (target / f"{name}.yaml").write_text(json.dumps(describe(name, instances.alerts, user, folder)))
    return target


def ending_act(system: str) -> dict[str, Any]:
    """The event by which a person ends the first look."""
    return {
        "specversion": "1.0",
        "id": f"end-{system}",
        "source": "bench/setup",
        "type": "relight.operator.acted",
        "subject": system,
        "data": {
            "instance": f"lifecycle/{system}",
            "act": "abort",
            "reason": "nothing of a benchmark is to be looked at",
        },
    }
