"""Every way of taking part, as docs/participants.md has it, in one real restart that the client asked for."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from relight_client import Event, Notification, Relight
from schemas.components import Command
from schemas.envelope import Read, read
from schemas.notifications import CommandData
from schemas.system import System
from service.cli.serve import broker_users
from service.embedded import RabbitServer
from service.embedded.ports import free_port
from service.embedded.users import provide_users
from tests.acceptance.readme import blocks
from tests.servers import reachable_directory
from tests.serving import ROOT, Serving

PAGE = (ROOT / "docs" / "participants.md").read_text("utf-8")
WITHIN = 60.0
WAYS = {"by-amqp": "amqp", "by-client": "amqp", "by-http": "http", "by-signal": "signal"}

CLIENT = """
import asyncio, hashlib, os, pathlib
from relight_client import Answer, Command, Relight

calls = pathlib.Path("calls")
state = os.environ.get("RELIGHT_STATE", "").removeprefix("file://")
loaded = hashlib.sha256(pathlib.Path(state).read_bytes()).hexdigest() if state else None

def hear(command: Command) -> Answer:
    with calls.open("a") as file:
        file.write(f"{command.command} {command.commandid}\\n")
    return Answer("heard", digest=loaded)

def flush(command: Command) -> Answer:
    hear(command)
    place = pathlib.Path("client-state").absolute()
    place.write_text("held")
    return Answer(where=place.as_uri(), digest=hashlib.sha256(b"held").hexdigest())

handlers = {"pause": hear, "flush": flush, "report": hear, "resume": hear}
asyncio.run(Relight(os.environ["RELIGHT_AMQP_URL"]).participate("desk", "by-client", handlers))
"""


def code(language: str, words: str) -> str:
    """The one block of the page that holds these words."""
    (found,) = (text for text in blocks(language, PAGE) if words in text)
    return found


def described(port: int) -> dict[str, Any]:
    told = {name: {"http": f"POST :{port}/{name}", "within": "5s"} for name in ("pause", "flush", "report", "resume")}
    secret = {"RELIGHT_AMQP_URL": "file:${RELIGHT_USERS}/desk.%s.url"}
    return {
        "system": "desk",
        "allow": {"restart": ["ana"], "act": ["ana"]},
        "storage": {"state": "file://./state"},
        "restart": {"notice": {"lead": "0s"}, "answer_within": "10s", "pause_lease": "6s"},
        "databases": {"books": {"url": "env:BOOKS"}},
        "components": {
            "by-amqp": {
                "process": ["python", "amqp.py"],
                "participant": "amqp",
                "env": {name: value % "by-amqp" for name, value in secret.items()},
            },
            "by-client": {
                "process": ["python", "client.py"],
                "participant": "amqp",
                "env": {name: value % "by-client" for name, value in secret.items()},
            },
            "by-http": {"process": ["python", "http_.py"], "participant": told},
            "by-signal": {
                "process": ["bash", "worker.sh"],
                "participant": {
                    "pause": {"signal": "USR1"},
                    "resume": {"signal": "USR2"},
                    "flush": {"command": ["bash", "flush.sh"]},
                },
            },
        },
        "verify": [{"roundtrip": name, "within": "5s"} for name in ("by-amqp", "by-client", "by-http")],
    }


@pytest.fixture
async def serving(postgres_url: str, amqp_url: str, rabbit_server: RabbitServer) -> AsyncIterator[Serving]:
    """The programs of the page as components, and a real serve that looks after them."""
    with reachable_directory() as folder:
        port, users = free_port(), folder / "users"
        file = described(port)
        (folder / "amqp.py").write_text(code("python", "relight.commands"))
        (folder / "http_.py").write_text(code("python", "ThreadingHTTPServer").replace("8080", str(port)))
        (folder / "client.py").write_text(CLIENT)
        (folder / "flush.sh").write_text(code("sh", "flush.sh"))
        (folder / "worker.sh").write_text(code("sh", "A worker"))
        (folder / "system.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
        serving = Serving(folder, postgres_url, amqp_url, "desk")
        vhost = amqp_url.rsplit("/", 1)[1]
        await provide_users(rabbit_server, broker_users([System.model_validate(file)]), users, vhost=vhost)
        await serving.prepare()
        await serving.start(RELIGHT_USERS=str(users), BOOKS=postgres_url)
        try:
            yield serving
        finally:
            await serving.stop()
            await _down(serving, users)


def results(heard: list[Notification]) -> dict[str, dict[str, Any]]:
    """What each step that was done came to, by its name."""
    return {n.data["step"]: n.data["result"] for n in heard if n.type == "step" and n.data["outcome"] == "done"}


def renewed(heard: list[Notification], name: str) -> list[str]:
    """By which ways the pause of this one was renewed. Its first rounds may have come before it was paused."""
    rounds = [result for step, result in results(heard).items() if step.startswith(f"renew:{name}:")]
    return [result["by"] for result in rounds if "holds_until" in result]


async def _down(serving: Serving, users: Path) -> None:
    ended = await asyncio.to_thread(serving.command, "down", "desk", RELIGHT_USERS=str(users))
    assert ended.returncode == 0, ended.stdout + ended.stderr


async def test_programs_of_the_page_take_part_in_a_real_restart(serving: Serving, postgres_url: str) -> None:
    async def operational() -> bool:
        return await serving.state() == "operational"

    await serving.until("operational", operational, WITHIN)
    url = (serving.folder / "users" / "ana.url").read_text().strip()
    heard: list[Notification] = []
    late = False
    blocker = await asyncpg.connect(postgres_url, server_settings={"application_name": "desk.by-signal"})
    await blocker.execute("begin; select 1")
    async with Relight(url) as relight, relight.subscribe("desk.lifecycle.#") as said, asyncio.timeout(WITHIN):
        event = Event("restart.requested", "desk", {"reason": "the page says so"})
        await relight.publish(event)
        async for notification in said:
            heard.append(notification)
            # The lease of the first pauses is over by then.
            late = late or notification.data.get("step") == "renew:by-client:4"
            if late and not blocker.is_closed() and all(len(renewed(heard, name)) >= 2 for name in WAYS):
                await blocker.close()
            if notification.type == "transition" and notification.data["to"] in ("operational", "degraded", "halted"):
                break
    moves = [n for n in heard if n.type == "transition"]
    assert moves[-1].data["to"] == "operational", "\n".join(
        f"{n.data.get('step')}: {n.data['error']}" for n in heard if n.data.get("error")
    )
    assert moves[0].data["event"]["id"] == event.id
    assert moves[0].data["event"]["user"] == "ana"
    seqs = [n.place[2] for n in heard if n.place is not None]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    done = results(heard)
    for name, way in WAYS.items():
        assert done[f"pause:{name}"]["by"] == way
        assert done[f"resume:{name}"]["by"] == way
        assert len(renewed(heard, name)) >= 2
        assert set(renewed(heard, name)) == {way}
        assert done[f"flush:{name}"]["read_back"] is True
    assert done["flush:by-signal"]["by"] == "command"
    calls = (serving.folder / "calls").read_text().split()
    ids = [ident for word, ident in zip(calls[::2], calls[1::2], strict=True) if word != "report"]
    assert len(ids) == len(set(ids)) >= 3
    # A pause that had lapsed would have been ended by the client itself, with a resume of its own.
    words = [word for word in calls[::2] if word != "report"]
    assert words == ["resume", "pause", "flush", "resume"]


def test_page_names_every_command_and_its_messages_fit_their_schemas() -> None:
    assert re.findall(r"^\| `(\w+)` \| .*\|$", PAGE, re.MULTILINE)[:5] == [
        "pause",
        "flush",
        "disconnect",
        "report",
        "resume",
    ]
    assert {command.value for command in Command} == {"pause", "flush", "disconnect", "report", "resume"}
    command, answer = (json.loads(text) for text in blocks("json", PAGE))
    assert CommandData.model_validate(command["data"]).commandid == answer["data"]["commandid"]
    assert isinstance(read(json.dumps(answer).encode(), "metrics.participant.answered"), Read)
