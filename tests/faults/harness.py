"""A system of small real components, the real `serve` on real servers, and what they leave behind. No judging."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aio_pika
import yaml

from machines.registry import VERSIONS
from tests.faults import doubles, witness
from tests.faults.evidence import (
    Evidence,
    Probe,
    Run,
    Table,
    dump,
    read_effects,
    read_heard,
    read_published,
    read_told,
)
from tests.faults.load import SOURCE, Load, status_log
from tests.faults.subscriber import Subscriber
from tests.servers import Databases, Vhosts, unique
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
        self.heard = folder / "heard.jsonl"
        self.subscriber = Subscriber(amqp_url, self.heard)
        folder.joinpath("state").mkdir(parents=True)
        self.effects.touch()
        self.file.write_text(yaml.safe_dump(describe(folder, self.effects, user)))

    async def watch(self) -> None:
        """From now on a witness sees who writes, and a subscriber hears what is told. `serve` has started before."""
        await witness.install(self.postgres_url)
        await self.subscriber.listen()

    async def ask_everybody(self, last_fault: float, within: float = 40.0) -> list[Probe]:
        """One event to each instance, once the last fault (Unix time) is over, and when its outcome was there."""
        names = json.loads(await self.value("SELECT coalesce(jsonb_agg(instance), '[]')::text FROM relight.instances"))
        asked = {name: await self.load.publish(*_question(name), name) for name in names}
        query = "SELECT coalesce(jsonb_agg(id), '[]')::text FROM relight.inbox WHERE source = $1 AND id = ANY ($2)"
        answered: dict[str, float] = {}
        deadline = time.monotonic() + within
        while len(answered) < len(asked) and time.monotonic() < deadline:
            for key in json.loads(await self.value(query, SOURCE, list(asked.values()))):
                answered.setdefault(key, time.time() - last_fault)
            await asyncio.sleep(0.1)
        return [Probe(name, SOURCE, key, answered.get(key)) for name, key in asked.items()]

    async def came_up_after(self, wished: str) -> bool:
        """Whether the system was operational again after the event that wished for a restart was taken in."""
        query = """
            SELECT count(*) FROM relight.log later JOIN relight.log asked USING (instance)
            WHERE asked.event_id = $1 AND later.seq > asked.seq AND later.state_to = 'operational'
        """
        return bool(await self.value(query, wished))

    @contextlib.asynccontextmanager
    async def strangers_full_queue(self) -> AsyncIterator[None]:
        """Somebody's queue that takes no more is bound to the status exchange: each publish to it is refused."""
        async with await aio_pika.connect(self.amqp_url, timeout=10) as connection:
            channel = await connection.channel()
            limits: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
            queue = await channel.declare_queue("strangers", exclusive=True, arguments=limits, timeout=10)
            await queue.bind("relight.status", "#", timeout=10)
            yield

    async def end(self) -> None:
        """Ends serve and the components that still run; each by the pid that it told us."""
        await self.subscriber.close()
        await self.stop()
        lives = [effect for effect in read_effects(self.effects) if effect.pid is not None]
        ended = {effect.pid for effect in lives if effect.what == "stop"}
        for pid in {effect.pid for effect in lives if effect.what == "start" and effect.pid} - ended:
            if doubles.__file__ and Path(doubles.__file__).name in _command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    async def evidence(self, run: Run | None = None) -> Evidence:
        """All that this run left behind; `run` says what was done to it."""
        tables = await dump(self.postgres_url)
        documents = {
            f"file://{path}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.folder / "state").rglob("*.json")
        }
        return Evidence(
            published=read_published(self.published),
            effects=read_effects(self.effects),
            told=read_told(self.effects.with_name("told.jsonl")),
            notifications=await status_log(self.amqp_url),
            machines=tables_of_machines(),
            documents=documents,
            searched=(f"file://{self.folder / 'state'}/",),
            heard=read_heard(self.heard) if self.heard.exists() else None,
            run=run,
            **tables,
        )


S = TypeVar("S", bound=Stage)


@contextlib.asynccontextmanager
async def staged(folder: Path, databases: Databases, vhosts: Vhosts, kind: type[S]) -> AsyncIterator[S]:
    """One on a database and a vhost of its own, with Relight's tables and not yet begun; all has ended afterwards."""
    name = unique("stage")
    postgres_url, amqp_url = await databases.create_database(name), await vhosts.add_vhost(name)
    stage = kind(folder, postgres_url, amqp_url, urlsplit(amqp_url).username or "guest")
    try:
        await stage.prepare()
        yield stage
    finally:
        await stage.load.close()
        await stage.end()
        await databases.drop_database(name)
        await vhosts.delete_vhost(name)


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


def _question(instance: str) -> tuple[str, dict[str, Any]]:
    """An event that means this instance and moves nothing that was not moving."""
    machine, _, *rest = instance.split("/")
    if machine == "alert":
        return "metric.observed", {"metric": rest[0], "value": 1.0}
    return "operation.requested", {"operation": "test.probe"}


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
