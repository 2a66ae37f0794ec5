"""A real restart, told as stories: the example system, the real `serve`, real servers, and what the target then shows.

One system lives through the whole file. Every story leaves it as it found it: operational, and going on with its work.
"""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest
import pytest_asyncio

from schemas.base import parse_duration
from service.embedded import RabbitServer
from tests.acceptance.harness import ANSWER_WITHIN, COMPONENTS, COUNTERS, INSTANCE, SYSTEM, House, moved_in
from tests.acceptance.heard import Heard, Match, answers, ended, entered
from tests.faults.checker import check
from tests.faults.evidence import Notification
from tests.servers import Databases, reachable_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
one_loop = pytest.mark.asyncio(loop_scope="module")

NOTIFYING, PRESERVING, RESUMING = (f"preparing_for_restart.{part}" for part in ("notifying", "preserving", "resuming"))
INITIALIZING, VERIFYING, RESTORING = (f"starting_up.{part}" for part in ("initializing", "verifying", "restoring"))
WAY = [NOTIFYING, PRESERVING, "shutting_down", INITIALIZING, VERIFYING, RESTORING, "operational"]
"""The states of a restart that goes well, in order."""
SAME = ("trades", "last_trade", "win_rate", "pnl", "sharpe", "drawdown")
"""What the calculator holds and a restart must not change."""


@dataclass
class Scene:
    """What each story is given: the system, and what is said of it."""

    house: House
    heard: Heard

    @property
    def mark(self) -> int:
        """Now, as a position in what was heard."""
        return len(self.heard.notes)

    async def restart(self, reason: str, **more: Any) -> tuple[str, int]:
        """Asks for a restart as svc-deploy, which is allowed to; the event's id, and where its story begins."""
        mark = self.mark
        return await self.house.say("svc-deploy", "restart.requested", {"reason": reason, **more}), mark

    async def cancel(self, reason: str) -> str:
        return await self.house.say("svc-deploy", "restart.cancelled", {"reason": reason})

    async def act(self, act: str, reason: str) -> str:
        """What ana, who may act, does on the lifecycle."""
        data = {"instance": INSTANCE, "act": act, "reason": reason}
        return await self.house.say("ana", "operator.acted", data)

    async def answer(self, event: str, after: int) -> Notification:
        """What became of an event."""
        return await self.heard.until(f"an answer to {event}", answers(event), after)

    async def comes_to(self, state: str, after: int) -> Notification:
        return await self.heard.until(f"{SYSTEM} is {state}", entered(state), after)

    def told(self, after: int) -> str:
        return f"what was said:\n{self.heard.tell(after)}\nserve says:\n{self.house.last_words()}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Scene]:
    """The example, started by Relight for the first time, with something in its memory."""
    with reachable_directory() as folder:
        async with moved_in(folder, databases, rabbit_server) as house:
            await house.opens()
            async with Heard(house.amqp_url, SYSTEM) as heard:
                await house.works()
                for person in house.people.values():
                    await person.connect()
                yield Scene(house, heard)


@pytest_asyncio.fixture(loop_scope="module")
async def calm(scene: Scene) -> AsyncIterator[Scene]:
    """The scene before a story: serve runs, all components run and nothing is paused; or an earlier story says why."""
    assert await scene.house.state() == "operational", f"an earlier story left it so; {scene.told(-30)}"
    assert scene.house.alive().keys() == set(COMPONENTS), f"an earlier story left {scene.house.alive()} running"
    yield scene
    scene.heard.forget()
    scene.house.switch.unlink(missing_ok=True)


# --- 1. the whole restart, undisturbed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One look at the target: what the calculator published, and the newest trade that was booked by then."""

    counters: dict[str, Any]
    booked: int
    at: datetime


@dataclass
class Whole:
    """One undisturbed restart: what was said, what the target showed meanwhile, and what was planned before."""

    request: str
    plan: dict[str, Any]
    pids: dict[str, int]
    notes: Sequence[Notification] = ()
    samples: list[Sample] = field(default_factory=list)
    sessions: dict[str, list[str]] = field(default_factory=dict)
    """Who had sessions in the trading database: before, and when everything was said to be stopped."""
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at(self, match: Match) -> datetime:
        """When that was."""
        return datetime.fromisoformat(next(note.data["at"] for note in self.notes if match(note)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(scene: Scene) -> AsyncIterator[Whole]:
    """Watched from the outside while it happens; told by the tests below."""
    house, heard = scene.house, scene.heard
    planned = await asyncio.to_thread(house.command, "plan", "restart", SYSTEM, "--json")
    assert planned.returncode == 0, planned.stderr
    story = Whole("", json.loads(planned.stdout), house.alive())
    story.sessions["before"] = await _sessions(house, datetime.now(UTC))
    watching = asyncio.create_task(_watch(house, story.samples))
    down: asyncio.Future[Notification] = asyncio.get_running_loop().create_future()
    heard.once(entered(INITIALIZING), down.set_result)
    try:
        story.request, mark = await scene.restart("a new release")
        note = await asyncio.wait_for(down, 60)
        story.sessions["down"] = await _sessions(house, datetime.fromisoformat(note.data["at"]))
        await scene.comes_to("operational", mark)
        await house.going_on()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    story.notes, story.results = heard.since(mark), heard.results(mark)
    yield story


async def _sessions(house: House, before: datetime) -> list[str]:
    """Components with a session in the trading database that began before that moment."""
    query = "select application_name from pg_stat_activity where application_name = any($1) and backend_start < $2"
    rows = await house.trading(query, [f"{SYSTEM}.calculator", f"{SYSTEM}.reporter"], before)
    return sorted({row["application_name"] for row in rows})


async def _watch(house: House, samples: list[Sample]) -> None:
    connection = await asyncpg.connect((house.example / "var/trading/dsn").read_text(), timeout=10)
    try:
        while True:
            row = await connection.fetchrow(f"select *, (select max(id) from trades) as booked from ({COUNTERS}) p")
            samples.append(Sample(dict(row), row["booked"], datetime.now(UTC)))
            await asyncio.sleep(0.1)
    finally:
        connection.terminate()


async def test_restart_goes_through_its_states_in_order(whole: Whole) -> None:
    moved = [note.data for note in whole.notes if note.type == "transition"]
    assert [data["to"] for data in moved] == WAY
    assert [data["status"] for data in moved] == [
        "Preparing for Restart", "Preparing for Restart", "Shutting Down", "Starting Up", "Starting Up", "Starting Up",
        "Operational",
    ]  # fmt: skip
    assert [data["seq"] for data in moved] == list(range(moved[0]["seq"], moved[0]["seq"] + len(WAY)))
    assert not [note for note in whole.notes if note.type == "refused"]


async def test_everybody_is_told_who_wants_what_and_when(scene: Scene, whole: Whole) -> None:
    first = whole.notes[0].data
    assert (first["event"]["id"], first["event"]["user"]) == (whole.request, "svc-deploy")
    restart = first["snapshot"]["data"]["restart"]
    assert (restart["reason"], restart["requested_by"]) == ("a new release", "svc-deploy")
    assert datetime.fromisoformat(restart["due"]) <= whole.at(entered(PRESERVING))
    lines = [json.loads(line) for line in scene.house.log.read_text().splitlines() if '"notice.told"' in line]
    told = [line["step"] for line in lines if line.get("id") == restart["id"]]
    assert told == ["tell", "complete"], lines


async def test_plan_names_the_very_steps_that_were_performed(whole: Whole) -> None:
    planned = [(state["state"], step["name"]) for state in whole.plan["states"] for step in state["steps"]]
    performed = [
        (note.data["state"], note.data["step"])
        for note in whole.notes
        if note.type == "step" and note.data["outcome"] not in ("waiting", "retrying")
    ]
    assert _side_by_side(performed) == _side_by_side(planned)
    assert [state["state"] for state in whole.plan["states"]] == WAY


def _side_by_side(steps: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Checks of one line of the table run side by side: which of them ends first is nobody's promise."""
    lines = groupby(steps, key=lambda step: (step[0], step[1].split(":")[0]) if step[1][-1].isdigit() else step)
    return [sorted(line) for _, line in lines]


async def test_paused_calculator_stands_still_while_trades_go_on(whole: Whole) -> None:
    paused, resumed = whole.at(ended("pause:calculator")), whole.at(ended("resume:calculator"))
    # From the first word of the paused one on; what was published right before the pause may still stand there.
    meanwhile = [
        sample
        for sample in whole.samples
        if paused <= sample.counters["at"] < resumed - timedelta(seconds=0.2) and sample.at < resumed
    ]
    assert meanwhile, "the calculator published nothing while it was paused"
    held = {tuple(sample.counters[name] for name in SAME) for sample in meanwhile}
    flushed = whole.results["flush:calculator"]["values"]
    assert held == {tuple(flushed[name] for name in SAME)}
    assert all(sample.counters["paused"] for sample in meanwhile)
    booked = [sample.booked for sample in whole.samples if paused <= sample.at < resumed]
    assert booked[-1] >= flushed["last_trade"] + 3, (
        "hardly any trade was booked meanwhile, so standing still is no feat"
    )


async def test_flush_and_system_snapshot_are_files_that_hold_what_was_said(scene: Scene, whole: Whole) -> None:
    flushed, sealed = whole.results["flush:calculator"], whole.results["seal"]
    content = _file(flushed["where"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == flushed["digest"]
    assert (flushed["read_back"], flushed["bytes"]) == (True, len(content))
    assert json.loads(content)["trades"] == flushed["values"]["trades"]
    document = _file(sealed["url"]).read_bytes()
    assert scene.house.documents()[sealed["url"]] == hashlib.sha256(document).hexdigest() == sealed["sha256"]
    assert whole.results["verify_snapshot"] == {"verified": True, "url": sealed["url"], "sha256": sealed["sha256"]}
    snapshot = json.loads(document)
    assert {name: part["pid"] for name, part in snapshot["components"].items()} == whole.pids
    assert snapshot["components"]["calculator"]["digest"] == flushed["digest"]
    assert snapshot["components"]["calculator"]["values"] == flushed["values"]
    assert snapshot["restart"] == whole.notes[0].data["snapshot"]["data"]["restart"]["id"]


def _file(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


async def test_stopped_in_reverse_order_of_needs_and_really_gone(scene: Scene, whole: Whole) -> None:
    old = {name: _life(scene.house, name, whole.pids[name]) for name in ("reporter", "calculator")}
    new = {name: scene.house.lives(name)[1] for name in old}
    for name, life in old.items():
        assert not life.alive
        assert life.ended is not None, f"{name} did not end in order"
        assert whole.results[f"stop:{name}"]["pid"] == life.pid
        assert life.ended < min(one.began for one in new.values()), f"{name} still ran when something was started"
    assert (old["reporter"].ended or 0) < (old["calculator"].ended or 0)
    assert f"{SYSTEM}.calculator" in whole.sessions["before"], "the look at the sessions sees nothing"
    assert whole.sessions["down"] == []
    confirmed = whole.results["confirm_stopped"]
    assert (sorted(confirmed["stopped"]), confirmed["still_running"]) == (["calculator", "reporter"], [])


def _life(house: House, component: str, pid: int) -> Any:
    return next(life for life in house.lives(component) if life.pid == pid)


async def test_started_in_order_paused_and_with_what_was_flushed(scene: Scene, whole: Whole) -> None:
    flushed, alive = whole.results["flush:calculator"], scene.house.alive()
    lives = {name: scene.house.lives(name)[1] for name in ("calculator", "reporter")}
    for name, life in lives.items():
        assert life.how == "paused", f"{name} was started {life.how}"
        assert whole.results[f"start:{name}"]["pid"] == life.pid == alive[name] != whole.pids[name]
    assert lives["calculator"].began < lives["reporter"].began
    assert lives["calculator"].state == flushed["where"]
    assert lives["reporter"].state is None
    started = whole.results["start:calculator"]
    assert (started["digest"], started["compared"]) == (flushed["digest"], True)
    assert whole.results["compare"]["digests"] == {"calculator": flushed["digest"]}


async def test_metrics_after_the_restart_equal_those_before(whole: Whole) -> None:
    before, after = whole.results["flush:calculator"]["values"], whole.results["start:calculator"]["values"]
    assert after == before
    assert all(isinstance(before[name], int | float) for name in SAME), "there was nothing to lose"
    (equal,) = (
        result
        for name, result in whole.results.items()
        if name.startswith("check:") and result["title"].startswith("equal")
    )
    assert equal["passed"] is True
    assert equal["value"] == equal["expected"] == {name: before[name] for name in equal["expected"]}
    assert {"trades", "win_rate", "pnl", "sharpe"} <= equal["expected"].keys()


async def test_resumed_calculator_goes_on_without_losing_or_doubling_a_trade(scene: Scene, whole: Whole) -> None:
    before, now = whole.results["flush:calculator"]["values"], await scene.house.counters()
    assert not now["paused"]
    assert now["trades"] > before["trades"]
    assert now["last_trade"] - now["trades"] == before["last_trade"] - before["trades"]
    await scene.house.memory_is_the_table()


async def test_kept_component_was_never_restarted(scene: Scene, whole: Whole) -> None:
    assert scene.house.alive()["trading-server"] == whole.pids["trading-server"]
    assert len(scene.house.lives("trading-server")) == 1
    assert whole.results["start:trading-server"]["adopted"] is True


# --- 7. one restart at a time ----------------------------------------------------------------------------------------


@one_loop
async def test_second_request_is_refused_by_the_name_of_the_first_and_a_late_cancel_too(calm: Scene) -> None:
    first, mark = await calm.restart("the first")
    restart = (await calm.answer(first, mark)).data["snapshot"]["data"]["restart"]
    second, _ = await calm.restart("the second")
    refused = await calm.answer(second, mark)
    assert refused.type == "refused", calm.told(mark)
    (reason,) = refused.data["reasons"]
    assert restart["id"] in reason
    assert "already in progress" in reason
    assert "svc-deploy" in reason
    await calm.comes_to("shutting_down", mark)
    late = await calm.answer(await calm.cancel("too late"), mark)
    assert late.type == "refused", calm.told(mark)
    assert f"{restart['id']} is past the point of no return" in late.data["reasons"][0]
    done = await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == WAY, calm.told(mark)
    assert done.data["snapshot"]["data"]["last_restart"]["id"] == restart["id"]
    await calm.house.going_on()


# --- 3. turning back while it costs nothing --------------------------------------------------------------------------


@one_loop
async def test_cancelled_while_notifying_returns_to_operational(calm: Scene) -> None:
    before = calm.house.alive()
    due = datetime.now(UTC) + timedelta(seconds=30)
    _, mark = await calm.restart("not yet", due=due.isoformat())
    await calm.comes_to(NOTIFYING, mark)
    await calm.cancel("the market is open")
    done = await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == [NOTIFYING, RESUMING, "operational"], calm.told(mark)
    assert datetime.now(UTC) < due
    failure = done.data["snapshot"]["data"]["last_abort"]["failure"]
    assert (failure["reason"], failure["by"]) == ("the market is open", "restart.cancelled svc-deploy")
    assert "restart" not in done.data["snapshot"]["data"]
    for number in range(3):
        # The word of a step may come after that of the transition which it made possible.
        said = await calm.heard.until(f"check {number} is done", ended(f"check:{number}"), mark)
        assert said.data["result"]["passed"] is True
    assert calm.house.alive() == before
    await calm.house.going_on()


@one_loop
async def test_cancelled_while_a_pause_is_on_its_way_leaves_nothing_paused(calm: Scene) -> None:
    before = calm.house.alive()
    # It cannot answer the pause yet, so preserving is under way when the cancel comes; the pause reaches it afterwards.
    calm.house.signal("calculator", signal.SIGSTOP)
    try:
        _, mark = await calm.restart("not yet")
        await calm.heard.until("calculator is asked to pause", ended("pause:calculator", "waiting"), mark)
        await calm.cancel("no")
        await calm.comes_to(RESUMING, mark)
    finally:
        calm.house.signal("calculator", signal.SIGCONT)
    await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == [NOTIFYING, PRESERVING, RESUMING, "operational"], calm.told(mark)
    assert calm.house.alive() == before
    await calm.house.going_on()


# --- 2. Relight is killed in every phase -----------------------------------------------------------------------------

KILLS = {
    "notifying-shutting_down-verifying": (entered(NOTIFYING), ended("stop:reporter"), entered(VERIFYING)),
    "preserving-initializing-restoring": (ended("pause:calculator"), ended("start:calculator"), entered(RESTORING)),
}
"""One restart each, killed three times: every phase is hit, and between two kills it has to go on by itself."""


@one_loop
@pytest.mark.parametrize("moments", KILLS.values(), ids=KILLS)
async def test_restart_whose_relight_is_killed_ends_operational_by_itself(calm: Scene, moments: list[Match]) -> None:
    house, before, offset = calm.house, calm.house.alive(), await calm.house.offset()
    lives = {name: len(house.lives(name)) for name in COMPONENTS}
    mark = calm.mark
    seen: list[dict[str, int]] = []
    for number, moment in enumerate(moments):
        calm.heard.once(moment, lambda _: house.process.kill() if house.process else None)
        if number == 0:
            await calm.restart("in spite of everything")
        assert await house.died() == -signal.SIGKILL, calm.told(mark)
        seen.append(house.alive())
        await house.start()
    await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == WAY, calm.told(mark)
    after = house.alive()
    started = {name: len(house.lives(name)) - lives[name] for name in COMPONENTS}
    assert started == {"trading-server": 0, "calculator": 1, "reporter": 1}, calm.told(mark)
    assert after["trading-server"] == before["trading-server"]
    for name in ("calculator", "reporter"):
        # Whatever ran when Relight was killed the last time was adopted, not started anew.
        assert seen[-1][name] == after[name] != before[name]
    assert calm.heard.results(mark)["start:calculator"]["digest"] == _flushed(calm, mark)["digest"]
    await house.going_on()
    assert await house.offset() == offset, "a trade was lost or doubled"


@one_loop
async def test_answer_that_came_while_relight_was_away_is_no_silence(calm: Scene) -> None:
    house, before = calm.house, calm.house.alive()
    house.signal("calculator", signal.SIGSTOP)
    try:
        calm.heard.once(ended("pause:calculator", "waiting"), lambda _: house.process.kill() if house.process else None)
        _, mark = await calm.restart("while Relight sleeps")
        assert await house.died() == -signal.SIGKILL, calm.told(mark)
    finally:
        house.signal("calculator", signal.SIGCONT)
    # It answers at once, and nobody looks until the time for it is over.
    await asyncio.sleep(parse_duration(ANSWER_WITHIN).total_seconds() + 0.5)
    await house.start()
    await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == WAY, calm.told(mark)
    assert house.alive()["calculator"] != before["calculator"]
    await house.going_on()


def _flushed(scene: Scene, mark: int) -> dict[str, Any]:
    return scene.heard.results(mark)["flush:calculator"]


# --- 4. silence ------------------------------------------------------------------------------------------------------


@one_loop
async def test_silent_calculator_aborts_the_restart_and_is_not_left_paused(calm: Scene) -> None:
    house, before = calm.house, calm.house.alive()
    house.signal("calculator", signal.SIGSTOP)
    try:
        _, mark = await calm.restart("while it is silent")
        resting = await calm.heard.until(
            "the restart is given up", lambda note: note.type == "transition" and note.data["to"] in RESTS, mark
        )
    finally:
        house.signal("calculator", signal.SIGCONT)
    assert calm.heard.moves(mark) == [NOTIFYING, PRESERVING, RESUMING, "degraded"], calm.told(mark)
    waits = [note.data for note in calm.heard.since(mark) if note.type == "wait"]
    (asked,) = [wait for wait in waits if wait["step"] == "pause:calculator"]
    assert (asked["whom"], asked["then"]) == ("calculator", "abort and resume")
    abort = resting.data["snapshot"]["data"]["last_abort"]
    assert abort["failure"]["steps"] == {"pause:calculator": "calculator did not answer in time"}
    assert calm.heard.errors(mark)["resume:calculator"] == "calculator did not answer in time"
    assert house.alive() == before
    await house.going_on()  # the reporter too, which was paused before the calculator was asked
    here = calm.mark
    await calm.act("adopt", "it runs again")
    await calm.comes_to("operational", here)
    assert house.alive() == before
    await house.going_on()


RESTS = ("operational", "degraded", "halted")


@one_loop
async def test_silent_reporter_does_not_hold_the_restart_up(calm: Scene) -> None:
    house, before, offset = calm.house, calm.house.alive(), await calm.house.offset()
    house.signal("reporter", signal.SIGSTOP)
    try:
        _, mark = await calm.restart("the reporter does not matter")
        done = await calm.comes_to("degraded", mark)
        assert house.alive()["reporter"] == before["reporter"]
    finally:
        os.kill(before["reporter"], signal.SIGCONT)
    assert calm.heard.moves(mark) == [*WAY[:-1], "degraded"], calm.told(mark)
    results = calm.heard.results(mark)
    assert "the file says proceed: it still runs" in results["stop:reporter"]["detail"]
    assert results["confirm_stopped"]["still_running"] == ["reporter"]
    # It was told to end and is not taken for a new one: the system is up, but it is not said to be whole.
    assert (results["start:reporter"]["old"], results["start:reporter"]["pid"]) == (True, before["reporter"])
    assert f"pid {before['reporter']}" in done.data["snapshot"]["data"]["not_started"]["reporter"]
    assert house.alive()["calculator"] != before["calculator"]
    assert await house.offset() == offset
    # The order to end reaches it when it wakes; whoever has the system looked at anew has it started.
    await house.until("the reporter ends as it was told", lambda: _gone(house, "reporter"))
    mark = calm.mark
    await calm.act("adopt", "it ended")
    await calm.comes_to("operational", mark)
    assert house.alive()["reporter"] != before["reporter"]
    await house.going_on()


async def _gone(house: House, component: str) -> bool:
    return component not in house.alive()


# --- 5. claims that do not hold --------------------------------------------------------------------------------------


@one_loop
async def test_falsified_flush_is_refused_with_both_digests_and_nothing_is_stopped(calm: Scene) -> None:
    house, before, offset = calm.house, calm.house.alive(), await calm.house.offset()
    house.switch.touch()
    _, mark = await calm.restart("with a stranger in the house")
    done = await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == [NOTIFYING, PRESERVING, RESUMING, "operational"], calm.told(mark)
    error = done.data["snapshot"]["data"]["last_abort"]["failure"]["steps"]["flush:calculator"]
    newest = max((house.example / "var/calculator").glob("state-*.json"), key=lambda file: file.stat().st_mtime_ns)
    claimed, found = newest.stem.removeprefix("state-"), hashlib.sha256(newest.read_bytes()).hexdigest()
    assert claimed != found
    assert f"says its SHA-256 is {claimed}" in error
    assert f"read back it is {found}" in error
    assert house.alive() == before
    await house.going_on()
    assert await house.offset() == offset


@one_loop
async def test_calculator_that_loads_another_state_halts_the_start_until_a_person_mends_it(calm: Scene) -> None:
    house, offset = calm.house, await calm.house.offset()
    truth: dict[Path, bytes] = {}

    def exchange(_: Notification) -> None:
        file = _file(_flushed(calm, mark)["where"])
        truth[file] = file.read_bytes()
        file.write_text(json.dumps({**json.loads(truth[file]), "pnl": 1e6}))

    calm.heard.once(entered("shutting_down"), exchange)
    mark = calm.mark
    await calm.restart("over a changed state")
    halted = await calm.comes_to("halted", mark)
    assert calm.heard.moves(mark) == [*WAY[:4], "halted"], calm.told(mark)
    ((file, content),) = truth.items()
    error = halted.data["snapshot"]["data"]["failure"]["steps"]["start:calculator"]
    assert f"flushed {_flushed(calm, mark)['digest']} before it was stopped" in error
    assert f"says it loaded {hashlib.sha256(file.read_bytes()).hexdigest()}" in error
    refused = await calm.answer((await calm.restart("at once"))[0], mark)
    assert "is halted in restart" in refused.data["reasons"][0]
    assert (await house.counters())["trades"] == json.loads(content)["trades"], "what loaded a wrong state works on it"
    # What the error advises: restore what was flushed, end the component, retry.
    file.write_bytes(content)
    house.signal("calculator", signal.SIGTERM)
    await house.until("the calculator ended", lambda: _gone(house, "calculator"))
    await calm.act("retry", "the state is restored")
    await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark)[5:] == WAY[3:], calm.told(mark)
    assert calm.heard.results(mark)["start:calculator"]["values"] == _flushed(calm, mark)["values"]
    await house.going_on()
    assert await house.offset() == offset


# --- 6. a component that ignores TERM --------------------------------------------------------------------------------


@one_loop
async def test_component_that_ignores_term_is_not_killed_where_its_file_says_abort(calm: Scene) -> None:
    house, before, offset = calm.house, calm.house.alive(), await calm.house.offset()
    calm.heard.once(entered("shutting_down"), lambda _: house.signal("calculator", signal.SIGSTOP))
    _, mark = await calm.restart("with a deaf calculator")
    halted = await calm.comes_to("halted", mark)
    assert calm.heard.moves(mark) == [*WAY[:3], "halted"], calm.told(mark)
    error = halted.data["snapshot"]["data"]["failure"]["steps"]["stop:calculator"]
    assert f"pid {before['calculator']}" in error
    assert "on_silence: abort, so it was not killed" in error
    assert house.alive()["calculator"] == before["calculator"]
    assert "reporter" not in house.alive()
    # A person wakes it; it ends as it was told to, and what it held is in what it flushed.
    house.signal("calculator", signal.SIGCONT)
    await house.until("the calculator ended", lambda: _gone(house, "calculator"))
    await calm.act("retry", "it ended after all")
    await calm.comes_to("operational", mark)
    assert house.alive()["calculator"] != before["calculator"]
    await house.going_on()
    assert await house.offset() == offset


@one_loop
async def test_component_that_ignores_term_is_killed_where_its_file_says_kill(calm: Scene) -> None:
    house, before = calm.house, calm.house.alive()
    mark = calm.mark
    house.rewrite(lambda described: described["components"]["reporter"].update(on_silence="kill"))
    await house.stop()
    assert house.alive() == before, "ending Relight ended components"
    await house.start()
    await calm.heard.until(
        "the new configuration", lambda note: _reason(note) == "stands on the new configuration", mark
    )
    house.signal("reporter", signal.SIGSTOP)
    _, mark = await calm.restart("with a deaf reporter")
    await calm.comes_to("operational", mark)
    assert calm.heard.moves(mark) == WAY, calm.told(mark)
    stopped = calm.heard.results(mark)["stop:reporter"]
    assert (stopped["pid"], stopped["killed"], stopped["exit_status"]) == (before["reporter"], True, -signal.SIGKILL)
    assert house.alive()["reporter"] != before["reporter"]
    assert _life(house, "reporter", before["reporter"]).ended is None, "it ended in order after all"
    await house.going_on()


def _reason(note: Notification) -> str | None:
    return note.data["reason"] if note.type == "transition" else None


# --- after all of them -----------------------------------------------------------------------------------------------


@one_loop
async def test_after_all_stories_the_memory_is_whole_and_the_log_without_gap(calm: Scene) -> None:
    await calm.house.memory_is_the_table()
    assert len(calm.house.lives("trading-server")) == 1
    await calm.house.rest()
    findings = check(await calm.house.evidence())
    assert not findings, "\n".join(map(str, findings[:20]))
