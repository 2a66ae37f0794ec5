"""What Relight stands on and what a restart needs is killed in every phase of a restart: Relight itself, its own
PostgreSQL, RabbitMQ, S3, an MCP server, the mail server. One system lives through the file; its servers are its own.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]  # it carries no types
import pytest
import pytest_asyncio

from service.embedded import PostgresServer, RabbitServer
from service.embedded.ports import free_port
from tests.acceptance.harness import House
from tests.acceptance.killing import Phase, Promise, Stage, expected
from tests.acceptance.victims import Program, Relight, Server
from tests.receivers import Hook, Mail, hook, mail
from tests.servers import own, reachable_directory, unique
from tests.storages import s3_server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

BUCKET = "relight-kills"

PHASES = tuple(Phase)
ON, BACK, EITHER, DEGRADED, HALTED, ADOPTED = Promise
PROMISES: dict[str, tuple[Promise | None, ...]] = {
    #           awaiting notifying preserving resuming shutting_down initializing verifying restoring
    "relight": (ON, ON, ON, ON, ON, ON, ON, ON),
    "postgres": (ON, ON, ON, ON, ON, ON, ON, ON),
    "rabbitmq": (ON, ON, EITHER, ON, ON, ON, ON, ON),
    "s3": (ON, ON, EITHER, ON, ON, ON, ON, ON),
    "mcp": (ON, ON, ON, DEGRADED, ON, ON, HALTED, ON),
    "mail": (ON, ON, ON, ON, ON, ON, ON, ON),
}
MOMENTS = {
    ("s3", Phase.NOTIFYING): "backup:",
    ("relight", Phase.NOTIFYING): "restore_test:",
    ("rabbitmq", Phase.PRESERVING): "pause:calculator",
    ("relight", Phase.INITIALIZING): "start:",
    ("rabbitmq", Phase.INITIALIZING): "start:calculator",
}
"""Where the kill waits for a step; elsewhere it is at the entry."""
HELD = frozenset({("mcp", Phase.RESUMING), ("mcp", Phase.VERIFYING)})
"""Away until the phase is over: what then comes of it must not depend on how fast somebody is."""
BESIDE = frozenset((victim, phase) for victim in ("mcp", "mail") for phase in PHASES) - HELD
"""Nobody needs them there, so they die together with somebody else."""
EXPECTED = expected(PROMISES, PHASES)
STORIES = 16
"""At most: those after the last pair are skipped."""


class Town(House):
    """The house with documents and backups in S3, whose door and keys are in the environment."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str, door: str, behind: str) -> None:
        super().__init__(folder, postgres_url, amqp_url)
        self._door = door
        keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
        self._s3: Any = boto3.client("s3", endpoint_url=behind, **keys)
        self._s3.create_bucket(Bucket=BUCKET)

    def environment(self, **more: str) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
        return super().environment(AWS_ENDPOINT_URL=self._door, **keys, **more)

    def documents(self) -> dict[str, str]:
        found = self._s3.list_objects_v2(Bucket=BUCKET, Prefix="state/snapshots/").get("Contents", ())
        keys = [one["Key"] for one in found]
        content = {key: self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
        return {f"s3://{BUCKET}/{key}": hashlib.sha256(body).hexdigest() for key, body in content.items()}


postgres, rabbit = own(PostgresServer), own(RabbitServer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(postgres: PostgresServer, rabbit: RabbitServer) -> AsyncIterator[Stage]:
    name = unique("kills")
    with reachable_directory() as folder, s3_server() as behind, mail() as post, hook() as web:
        s3 = Program("s3", free_port(), "tests.front", behind.rsplit(":", 1)[1])
        relay = Program("mail", free_port(), "tests.front", str(post.server_address[1]))
        tools = Program("mcp", free_port(), "tests.mcp_server", "search")
        urls = await postgres.create_database(name), await rabbit.add_vhost(name)
        town = Town(folder, *urls, f"http://127.0.0.1:{s3.port}", behind)
        town.rewrite(lambda described: _wired(described, folder, post, relay, web, tools))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(town.end)
            for program in (s3, relay, tools):
                await program.back()
                stack.push_async_callback(program.kill)
            await town.move_in(rabbit, name)
            await town.opens()
            await rabbit.write_out()
            servers = (Server("postgres", postgres), Server("rabbitmq", rabbit), s3, tools, relay)
            stage = Stage(town, (Relight(town), *servers), EXPECTED, MOMENTS, held=HELD, beside=BESIDE)
            stack.push_async_callback(stage.watch.close)
            await town.works()
            yield stage


def _wired(described: dict[str, Any], folder: Path, post: Mail, relay: Program, web: Hook, tools: Program) -> None:
    """Everything that can be away is needed: S3 for every document, MCP in the checks, people who have to be told."""
    urls = {"mail": post.url.replace(f":{post.server_address[1]}/", f":{relay.port}/"), "hook": web.url}
    (folder / "channels").mkdir()
    for name, url in urls.items():
        (folder / "channels" / name).write_text(url)
    both = [f"file:{folder}/channels/{name}" for name in urls]
    described["channels"] = {"info": both, "warning": both, "critical": both}
    described["allow"]["approve"] = {"by": ["ana"], "within": "2m"}
    described["storage"] = {part: f"s3://{BUCKET}/{part}" for part in ("state", "backups")}
    described["mcp"] = {"research": {"url": f"http://127.0.0.1:{tools.port}/mcp", "tools": ["search"]}}
    described["verify"].append({"mcp": "all"})
    described["restart"].update(notice={"lead": "0s", "delivery": "required"}, soak="1s")
    described["restart"]["backup"]["reuse_within"] = "0s"


@pytest.mark.parametrize("number", range(STORIES))
async def test_restart_in_which_servers_die_ends_as_promised_and_the_target_is_whole(stage: Stage, number: int) -> None:
    await stage.play(number)


async def test_every_server_died_in_every_phase_and_the_checker_finds_nothing(stage: Stage) -> None:
    await stage.judge()
