"""A system of small real components, the real `serve` on real servers, and what they leave behind. No judging."""

import contextlib
import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from machines.registry import VERSIONS
from tests.faults import doubles
from tests.faults.evidence import Evidence, Table, dump, read_effects, read_published
from tests.faults.load import Load, status_log
from tests.serving import Serving

SYSTEM = "shop"
METRICS = 6


class Stage(Serving):
    """One system under one Relight, in one folder. `start` and `died` as often as the story wants."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str, user: str) -> None:
        super().__init__(folder, postgres_url, amqp_url, SYSTEM)
        self.file = self.systems[0]
        self.effects, self.published = folder / "effects.jsonl", folder / "published.jsonl"
        self.load = Load(amqp_url, SYSTEM, self.published)
        folder.joinpath("state").mkdir(parents=True)
        self.effects.touch()
        self.file.write_text(yaml.safe_dump(describe(folder, self.effects, user)))

    async def end(self) -> None:
        """Ends serve and the components that still run; each by the pid that it told us."""
        await self.stop()
        lives = [effect for effect in read_effects(self.effects) if effect.pid is not None]
        ended = {effect.pid for effect in lives if effect.what == "stop"}
        for pid in {effect.pid for effect in lives if effect.what == "start" and effect.pid} - ended:
            if doubles.__file__ and Path(doubles.__file__).name in _command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    async def evidence(self) -> Evidence:
        """All that this run left behind."""
        tables = await dump(self.postgres_url)
        documents = {
            f"file://{path}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.folder / "state").rglob("*.json")
        }
        return Evidence(
            published=read_published(self.published),
            effects=read_effects(self.effects),
            notifications=await status_log(self.amqp_url),
            machines=tables_of_machines(),
            documents=documents,
            **tables,
        )


def describe(folder: Path, effects: Path, user: str) -> dict[str, Any]:
    """The system's file: two components of which one flushes, six alerts, and checks that really ask."""
    program = [sys.executable, "-E", "-S", str(Path(doubles.__file__ or "").resolve())]
    told = {command: {"command": [*program, command]} for command in ("pause", "flush", "report", "resume")}
    common = {"process": [*program, "run"], "env": {"EFFECTS": str(effects)}}
    return {
        "system": SYSTEM,
        "allow": {"restart": [user], "observe": [user]},
        "storage": {"state": f"file://{folder / 'state'}"},
        "components": {
            "worker": {**common, "participant": told},
            "front": {**common, "needs": ["worker"], "participant": {"pause": {"signal": "USR1"}}},
        },
        "restart": {
            "notice": {"lead": "0s"},
            "limits": {"drain": "20s", "stop": "20s", "start": "20s", "verify": "20s"},
            "answer_within": "10s",
        },
        "verify": [{"roundtrip": "worker", "within": "5s"}, {"equal": ["count"]}],
        "alerts": [
            {"metric": f"m{number}", "warning": 70, "critical": 90, "hysteresis": 5} for number in range(METRICS)
        ],
    }


def tables_of_machines() -> dict[tuple[str, int], Table]:
    """The committed tables as plain data, for a checker that imports nothing of ours."""
    return {
        key: Table(
            frozenset(str(state.name) for state in machine.states),
            frozenset((str(source), str(t.target)) for t in machine.transitions for source in t.sources),
            str(machine.initial),
            frozenset(str(state.name) for state in machine.states if state.resting or state.final),
        )
        for key, machine in VERSIONS.items()
    }


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""
