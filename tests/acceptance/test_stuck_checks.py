"""Stuck because something outside of the components is wrong, and cleared with nothing but what the terminal says.

A full disk, a dead channel, an MCP server that is away, a target that was changed, a falsified system snapshot. Every
story reads what `relight` prints, does outside what it names, pastes the commands that stand there, and then looks at
the target. One system lives through the whole file.
"""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from service.adapters.s3 import S3Storage
from service.embedded import RabbitServer
from service.embedded.ports import free_port
from tests.acceptance.harness import COMPONENTS, SYSTEM, House, moved_in
from tests.acceptance.heard import Heard, entered
from tests.acceptance.surroundings import DISK, Disk, Servers, small_disk
from tests.acceptance.terminal import ME, WHY, offered, paste, relight, says, stands
from tests.faults.checker import check
from tests.faults.evidence import Notification
from tests.receivers import Hook, Mail, hook, mail, nobody
from tests.servers import Databases, reachable_directory
from tests.storages import BUCKET, bucket, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

INCIDENTS = "select count(*) from pg_tables where tablename = 'incident'"
"""What the story of a failing verification changes at the target: a table that must not be there."""
RESTARTED, UNTOUCHED = 1, 0


@dataclass
class Night:
    """The system, what is said of it, and the parts outside of it that break."""

    house: House
    heard: Heard
    mcp: Servers
    backups: Disk
    state: Disk
    mail: Mail
    hook: Hook
    channels: Path
    dead: str

    def reach(self, url: str) -> None:
        """Whom a restart has to be told to can be reached here."""
        (self.channels / "mail").write_text(url)

    async def restart(self, at_the_stop: Callable[[], Awaitable[object]] | None = None) -> str:
        """A restart as a person watches it, to its end, which is no good one; what the terminal showed.

        `at_the_stop` is done once nothing leads back any more, after the baseline and the system snapshot were fine.
        """
        done: asyncio.Future[Notification] = asyncio.get_running_loop().create_future()
        self.heard.once(entered("shutting_down"), done.set_result)

        async def strike() -> None:
            if at_the_stop is not None:
                await done
                await at_the_stop()

        striking = asyncio.create_task(strike())
        try:
            said = await relight(self.house, "restart", SYSTEM, "--watch", "--reason", "tonight", status=1)
            await asyncio.wait_for(striking, 5)
        finally:
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)
            self.heard.forget()
        return said


@dataclass(frozen=True)
class Before:
    """How the target stood before a story."""

    alive: dict[str, int]
    lives: dict[str, int]
    offset: int


async def standing(night: Night) -> Before:
    house = night.house
    return Before(house.alive(), {name: len(house.lives(name)) for name in COMPONENTS}, await house.offset())


async def all_well(night: Night, before: Before, starts: int) -> None:
    """At the target: each process is up once, was started `starts` times since, nothing is paused or lost."""
    house = night.house
    assert house.alive().keys() == set(COMPONENTS)
    started = {name: len(house.lives(name)) - before.lives[name] for name in COMPONENTS}
    assert started == {"trading-server": 0, "calculator": starts, "reporter": starts}
    assert (house.alive() == before.alive) == (starts == UNTOUCHED)
    await house.going_on()
    assert await house.offset() == before.offset, "a trade was lost or doubled"
    await house.memory_is_the_table()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def night(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Night]:
    with (
        reachable_directory() as folder, small_disk(folder / "backups") as backups, small_disk(folder / "kept") as kept,
        mail() as post, hook() as web, nobody() as dead,
    ):  # fmt: skip
        port, channels = free_port(), folder / "channels"
        channels.mkdir()

        def demanding(described: dict[str, Any]) -> None:
            described["mcp"] = {"research": {"url": f"http://127.0.0.1:{port}/mcp", "tools": ["search"]}}
            described["verify"] += [{"mcp": "all"}, {"sql": "trading", "query": INCIDENTS, "is": 0}]
            described["storage"] = {"state": kept.folder.as_uri(), "backups": backups.folder.as_uri()}
            described["restart"]["notice"] = {"lead": "1s", "delivery": "required"}
            described["restart"]["limits"]["verify"] = "6s"
            described["channels"] = {"warning": [f"file:{channels}/mail"], "critical": [f"file:{channels}/hook"]}

        async with AsyncExitStack() as programs, moved_in(folder, databases, rabbit_server, demanding) as house:
            mcp = Servers(port, programs)
            await mcp.start()
            made = Night(house, Heard(house.amqp_url, SYSTEM), mcp, backups, kept, post, web, channels, dead)
            made.reach(post.url)
            (channels / "hook").write_text(web.url)
            await house.opens()
            async with made.heard:
                await house.works()
                yield made


@pytest_asyncio.fixture(loop_scope="module")
async def calm(night: Night) -> AsyncIterator[Night]:
    """Before a story: operational, all up; or an earlier story says why not."""
    assert await night.house.state() == "operational", f"an earlier story left it so:\n{night.heard.tell(-30)}"
    assert night.house.alive().keys() == set(COMPONENTS)
    night.mail.mails.clear()
    night.hook.posts.clear()
    yield night
    night.heard.forget()


async def again(night: Night, text: str, before: Before) -> None:
    """What kept the restart from happening is mended: the printed command asks for it once more, and it happens."""
    said = await paste(night.house, text, "restart")
    assert said.startswith("accepted: ")
    await night.house.until("the restart begins", lambda: _left(night.house))
    await stands(night.house, "operational")
    await all_well(night, before, RESTARTED)
    # What was in the way is told no longer.
    assert "given up" not in await relight(night.house, "status", SYSTEM)


async def _left(house: House) -> bool:
    return await house.state() != "operational"


# ---- full storage


async def test_full_backup_storage_stops_nothing_and_names_the_disk_and_the_room_that_the_dump_needs(
    calm: Night,
) -> None:
    before = await standing(calm)
    calm.backups.fill()
    watched = await calm.restart()
    assert "── point of no return ──" not in watched
    await all_well(calm, before, UNTOUCHED)
    text = await says(calm.house, f"lifecycle/{SYSTEM}: the last restart was given up")
    assert "nothing was stopped, it works as before" in text
    for said in (watched, text):
        assert f"the file system at {calm.backups.folder} " in said
        assert f" 0 of its {DISK} bytes are free" in said
        (more,) = set(re.findall(r"with (\d+) more bytes free there it fits", said))
    calm.backups.free(int(more))
    await again(calm, text, before)
    calm.backups.filler.unlink()


async def test_full_state_storage_stops_nothing_and_the_bytes_it_asks_for_are_enough(calm: Night) -> None:
    before = await standing(calm)
    calm.state.fill()
    watched = await calm.restart()
    assert "── point of no return ──" not in watched
    await all_well(calm, before, UNTOUCHED)
    text = await says(calm.house, f"lifecycle/{SYSTEM}: the last restart was given up", "preserving")
    for said in (watched, text):
        assert f"the file system at {calm.state.folder} is full: 0 of its {DISK} bytes are free" in said
        (more,) = set(re.findall(r"free at least (\d+) more there", said))
    calm.state.free(int(more))
    await again(calm, text, before)
    calm.state.filler.unlink()


# ---- dead channel


async def test_dead_channel_with_required_delivery_means_no_restart_until_it_is_mended(calm: Night) -> None:
    before = await standing(calm)
    calm.reach(calm.dead)
    watched = await calm.restart()
    await all_well(calm, before, UNTOUCHED)
    text = await says(calm.house, f"lifecycle/{SYSTEM}: the last restart was given up")
    for said in (watched, text):
        assert f"nobody of {SYSTEM} could be told on channels.warning" in said
        assert f"file:{calm.channels}/mail: nobody listens there" in said
        assert "Mend the channel, or the secret that its reference names" in said
    assert calm.dead not in watched + text, "the channel's URL is a secret"
    calm.reach(calm.mail.url)
    await again(calm, text, before)
    assert WHY in calm.mail.mails[0][2]


# ---- unreachable MCP server


async def test_mcp_server_that_is_away_and_then_hangs_is_named_by_its_address_and_retried(calm: Night) -> None:
    before = await standing(calm)
    watched = await calm.restart(calm.mcp.die)
    text = await says(calm.house, f"lifecycle/{SYSTEM}: waits for a person, for ever: halted")
    for said in (watched, text):
        assert f"research (http://127.0.0.1:{calm.mcp.port}/mcp): All connection attempts failed" in said
        assert "Start the server, or make it reachable from this host" in said
        assert offered(said, "retry") == [["act", f"lifecycle/{SYSTEM}", "retry", "--reason", "WHY"]]

    # It was started, but takes connections and says nothing: the same way leads to the same place.
    await calm.mcp.start()
    calm.mcp.tell(signal.SIGSTOP)
    await paste(calm.house, text, "retry")
    await calm.house.until("it is verified again", lambda: _left_halted(calm.house))
    text = await says(calm.house, "for ever: halted", "it did not answer within", within=60)
    calm.mcp.tell(signal.SIGCONT)
    await paste(calm.house, text, "retry")
    await stands(calm.house, "operational")
    await all_well(calm, before, RESTARTED)


async def _left_halted(house: House) -> bool:
    return await house.state() != "halted"


# ---- failing verification


async def test_failing_verification_halts_within_its_budget_calls_a_person_and_goes_on_once_the_target_is_mended(
    calm: Night,
) -> None:
    before, mark = await standing(calm), len(calm.heard.notes)
    watched = await calm.restart(lambda: calm.house.trading("create table incident ()"))
    assert "── point of no return ──" in watched
    text = await says(calm.house, f"lifecycle/{SYSTEM}: waits for a person, for ever: halted")
    for said in (watched, text):
        assert f"sql trading: expected 0, found 1 ({INCIDENTS}) (tried 3 times)" in said
    # Only forward: what was started is not stopped again, and nothing was resumed.
    assert calm.heard.moves(mark)[-2:] == ["starting_up.verifying", "halted"]
    assert (await calm.house.counters())["paused"]
    (called,) = calm.hook.posts
    assert called["title"] == f"{SYSTEM} is halted: a person is needed"
    assert INCIDENTS in called["message"]
    assert f"relight status {SYSTEM}" in called["message"]
    await calm.house.trading("drop table incident")
    await paste(calm.house, text, "retry")
    await stands(calm.house, "operational")
    await all_well(calm, before, RESTARTED)


async def test_failing_verification_is_waived_until_a_moment_and_ends_degraded_until_the_target_is_mended(
    calm: Night,
) -> None:
    before = await standing(calm)
    await calm.restart(lambda: calm.house.trading("create table incident ()"))
    text = await says(calm.house, f"lifecycle/{SYSTEM}: waits for a person, for ever: halted")
    step = failed(text, "sql trading: expected 0")
    said = await paste(calm.house, text, "waive", step=step)
    assert f"is waived from the next retry on: {WHY}; lifecycle/{SYSTEM} is halted" in said
    text = await says(calm.house, f"{ME} waived {step} ({WHY}) until")
    assert not offered(text, "waive"), "a waiver that stands is offered once more"
    await paste(calm.house, text, "retry")
    await stands(calm.house, "degraded")
    await all_well(calm, before, RESTARTED)
    text = await says(calm.house, f"{ME} waived {step} ({WHY}) until", "for ever: degraded")
    assert re.search(r"until \d{4}-\d\d-\d\d [\d:]+, for another (23h59m|1d0h)", text)
    assert f"## Waivers\n\n- {step} by {ME} until " in await relight(calm.house, "report", f"lifecycle/{SYSTEM}")
    await calm.house.trading("drop table incident")
    await paste(calm.house, text, "adopt")
    await stands(calm.house, "operational")
    await all_well(calm, before, RESTARTED)


# ---- falsified system snapshot


async def test_falsified_system_snapshot_halts_the_start_until_the_document_is_back(calm: Night) -> None:
    before, truth = await standing(calm), dict[Path, bytes]()

    async def falsify() -> None:
        newest = max((calm.state.folder / "snapshots").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        truth[newest] = newest.read_bytes()
        newest.write_bytes(json.dumps({**json.loads(truth[newest]), "components": {}}).encode())

    watched = await calm.restart(falsify)
    text = await says(calm.house, f"lifecycle/{SYSTEM}: waits for a person, for ever: halted")
    ((file, content),) = truth.items()
    for said in (watched, text):
        assert f"the system snapshot {file.as_uri()} was sealed with SHA-256 " in said
        assert "Put the document with that SHA-256 back there" in said
    file.write_bytes(content)
    await paste(calm.house, text, "retry")
    await stands(calm.house, "operational")
    await all_well(calm, before, RESTARTED)


async def test_falsified_system_snapshot_without_a_copy_is_waived_and_the_system_adopted(
    calm: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as endpoint:
        await bucket(endpoint, monkeypatch)
        await moved_to_s3(calm)
        before, place, storage = await standing(calm), f"s3://{BUCKET}/{SYSTEM}", S3Storage()
        seal: dict[str, str] = {}

        async def falsify() -> None:
            (stored,) = await storage.list(f"{place}/snapshots/")
            seal["url"] = stored.url
            await storage.write(stored.url, b"{}")

        await calm.restart(falsify)
        text = await says(calm.house, f"lifecycle/{SYSTEM}: waits for a person, for ever: halted")
        assert f"compare: the system snapshot {seal['url']} was sealed with SHA-256 " in text
        assert "where there is none, waive what needs it" in text
        await paste(calm.house, text, "waive", step="compare")
        await paste(calm.house, text, "retry")
        # What has to equal the snapshot needs it too: it says the same, and offers the same.
        text = await says(calm.house, f": the system snapshot {seal['url']} was sealed", f"{ME} waived compare")
        step = failed(text, f"the system snapshot {seal['url']}")
        await paste(calm.house, text, "waive", step=step)
        await paste(calm.house, text, "retry")
        await stands(calm.house, "degraded")
        await all_well(calm, before, RESTARTED)
        text = await says(calm.house, "for ever: degraded", f"{ME} waived compare", f"{ME} waived {step}")
        await paste(calm.house, text, "adopt")
        await stands(calm.house, "operational")
        await all_well(calm, before, RESTARTED)


def failed(text: str, finding: str) -> str:
    """The step that says this in the text."""
    (step,) = re.findall(rf"^\s+(\S+): {re.escape(finding)}", text, re.MULTILINE)
    return str(step)


async def moved_to_s3(night: Night) -> None:
    """The owner of the system keeps its state elsewhere from now on."""
    mark = len(night.heard.notes)
    night.house.rewrite(lambda described: described["storage"].update(state=f"s3://{BUCKET}/{SYSTEM}"))
    await night.house.stop()
    await night.house.start()
    await night.heard.until(
        "the new configuration",
        lambda note: note.type == "transition" and note.data["reason"] == "stands on the new configuration", mark,
    )  # fmt: skip


# ---- after all of them


async def test_after_all_stories_the_log_is_without_gap(calm: Night) -> None:
    assert len(calm.house.lives("trading-server")) == 1
    await calm.house.rest()
    findings = check(await calm.house.evidence())
    assert not findings, "\n".join(map(str, findings[:20]))
