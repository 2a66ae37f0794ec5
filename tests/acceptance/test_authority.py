"""Who is told and who agrees, told as stories on the real `serve`: mail and HTTP receivers, people with broker users.

One system lives through the whole file; its channels are files that the stories rewrite. Every story leaves it
operational.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from service.embedded import RabbitServer
from tests.acceptance.harness import INSTANCE, SYSTEM, House, moved_in
from tests.acceptance.heard import Heard, answers, ended, entered
from tests.acceptance.terminal import stands
from tests.faults.evidence import Notification
from tests.receivers import Hook, Mail, hook, mail, nobody
from tests.servers import Databases, reachable_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

AWAITING, NOTIFYING, PRESERVING, RESUMING = (
    f"preparing_for_restart.{part}" for part in ("awaiting_approval", "notifying", "preserving", "resuming")
)
LEAD = timedelta(seconds=2)
SECRET = "hush-hush"


@dataclass
class Office:
    """The system, what is said of it, who listens, and the files that say where they listen."""

    house: House
    heard: Heard
    mail: Mail
    hook: Hook
    channels: Path
    dead: str

    @property
    def mark(self) -> int:
        return len(self.heard.notes)

    def reach(self, **urls: str) -> None:
        for name, url in urls.items():
            (self.channels / name).write_text(url)

    def titles(self) -> list[str]:
        return [subject for _, subject, _ in self.mail.mails]

    async def ask(self, reason: str) -> tuple[str, int]:
        """svc-deploy asks for a restart; the hash of the plan that waits for approval, and where its story begins."""
        mark = self.mark
        await self.house.say("svc-deploy", "restart.requested", {"reason": reason})
        waits = await self.comes_to(AWAITING, mark)
        return str(waits.data["snapshot"]["data"]["restart"]["approval"]["plan"]), mark

    async def approve(self, user: str, plan: str, kind: str = "given") -> Notification:
        """What became of the answer."""
        mark = self.mark
        data = {"instance": INSTANCE, "plan": plan, "reason": "looked at it"}
        event = await self.house.say(user, f"approval.{kind}", data)
        return await self.heard.until(f"an answer to {event}", answers(event), mark)

    async def comes_to(self, state: str, after: int) -> Notification:
        return await self.heard.until(f"{SYSTEM} is {state}", entered(state), after)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Office]:
    with reachable_directory() as folder, mail() as post, hook() as web, nobody() as dead:
        channels = folder / "channels"
        channels.mkdir()

        def demanding(described: dict[str, Any]) -> None:
            described["allow"]["approve"] = {"by": ["ana", "svc-deploy"], "within": "1m"}
            described["restart"]["notice"] = {"lead": f"{LEAD.seconds}s", "delivery": "required"}
            described["channels"] = {
                "warning": [f"file:{channels}/mail", f"file:{channels}/other"],
                "critical": [f"file:{channels}/mail"],
                "info": [f"file:{channels}/hook"],
            }

        async with moved_in(folder, databases, rabbit_server, demanding) as house:
            made = Office(house, Heard(house.amqp_url, SYSTEM), post, web, channels, dead)
            made.reach(mail=post.url, other=dead, hook=web.url)
            await house.opens()
            async with made.heard:
                await stands(house, "operational", within=60)
                for person in house.people.values():
                    await person.connect()
                yield made


@pytest.fixture
def calm(office: Office) -> Office:
    office.mail.mails.clear()
    office.hook.posts.clear()
    office.reach(mail=office.mail.url, other=office.dead, hook=office.hook.url)
    return office


async def test_restart_waits_for_the_approval_of_its_very_plan_by_somebody_else(calm: Office) -> None:
    plan, mark = await calm.ask("new release")
    wait = await calm.heard.until("whom it waits for", lambda n: n.type == "wait" and n.data["state"] == AWAITING, mark)
    assert "ana" in wait.data["whom"]
    assert "svc-deploy" not in wait.data["whom"]
    assert wait.data["then"] == "the restart is given up"
    status = calm.house.command("status", SYSTEM).stdout
    assert f"relight approve {INSTANCE} --plan {plan}" in status

    own = await calm.approve("svc-deploy", plan)
    assert "svc-deploy asked for it" in own.data["reasons"][0]
    other = await calm.approve("ana", "0" * 64)
    assert plan in other.data["reasons"][0]
    local = calm.house.command("approve", INSTANCE, "--plan", plan, "--reason", "I am root")
    assert local.returncode == 1
    assert f"plan {plan}" in local.stdout, "the plan is shown before it is answered"
    assert "is not among those who approve it; it is for ana" in local.stdout

    given = await calm.approve("ana", plan)
    assert (given.data["to"], given.data["event"]["user"]) == (NOTIFYING, "ana")
    await calm.comes_to("operational", mark)
    assert calm.titles()[0] == f"{SYSTEM}: a restart waits for approval"
    assert plan in calm.mail.mails[0][2]
    assert calm.titles()[1].startswith(f"{SYSTEM} restarts: its pause begins at ")
    assert "new release" in calm.mail.mails[1][2]
    assert [post["title"] for post in calm.hook.posts] == [f"{SYSTEM} is up again"]

    # One channel is dead all the while: it is named, and nobody was kept waiting for it.
    told = calm.heard.results(mark)["tell"]
    assert [one["error"] is None for one in told["deliveries"]] == [True, False]
    paused = await calm.comes_to(PRESERVING, mark)
    delivered = datetime.fromisoformat(told["delivered_at"])
    assert datetime.fromisoformat(paused.data["at"]) - delivered >= LEAD, "the lead counts from the first delivery"


async def test_denied_restart_stops_nothing_and_says_so(calm: Office) -> None:
    pids = calm.house.alive()
    plan, mark = await calm.ask("new kernel")
    denied = await calm.approve("ana", plan, "denied")
    assert denied.data["to"] == RESUMING
    await calm.comes_to("operational", mark)
    assert calm.house.alive() == pids
    assert calm.titles()[-1] == f"{SYSTEM}: the restart is called off"


async def test_halted_system_calls_a_person_and_says_what_to_do(calm: Office) -> None:
    plan, mark = await calm.ask("new release")
    await calm.approve("ana", plan)
    await calm.comes_to("shutting_down", mark)
    act = {"instance": INSTANCE, "reason": "I smell smoke"}
    await calm.house.say("ana", "operator.acted", {**act, "act": "hands-off"})
    await calm.comes_to("halted", mark)
    await calm.heard.until("a person is called", ended("call"), mark)
    _, title, text = calm.mail.mails[-1]
    assert title == f"{SYSTEM} is halted: a person is needed"
    assert "I smell smoke" in text
    assert f"relight act {INSTANCE}" in text
    await calm.house.say("ana", "operator.acted", {**act, "act": "adopt"})
    await calm.comes_to("operational", mark)


async def test_no_word_of_a_channels_url_is_kept_or_logged_anywhere(calm: Office) -> None:
    assert SECRET in calm.mail.url
    assert SECRET in calm.dead
    assert SECRET not in repr(await calm.house.evidence())
    logs = [file.read_text("utf-8", "replace") for file in calm.house.folder.rglob("*.log")]
    assert any("notice.not_delivered" in log for log in logs)
    assert not any(SECRET in log for log in logs)
