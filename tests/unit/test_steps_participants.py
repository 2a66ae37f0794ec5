"""Telling components: by message, by signal, by program, and what their answers and their silence mean."""

import copy
import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from schemas.base import Json
from schemas.components import OnSilence
from service.errors import Permanent, Retry
from service.ports import Done, Waiting
from tests.unit.steps_world import SHOP, Shop


@pytest.fixture
async def shop() -> Shop:
    shop = Shop()
    await shop.start_all()
    shop.entry += 1
    return shop


async def test_command_carries_its_id_token_expiry_and_lease(shop: Shop) -> None:
    context = shop.context("participant.pause", "counter", timeout=30, lease=600.0)
    waiting = await shop.actions["participant.pause"].perform(context)
    assert waiting == Waiting(shop.time.now() + timedelta(seconds=30), "counter")
    command = shop.memory.commands.sent[-1]
    assert (command.commandid, command.token) == ("lifecycle/shop:2:participant.pause:counter", context.token)
    assert (command.command, command.expires) == ("pause", shop.time.now() + timedelta(seconds=30))
    assert command.arguments == {"lease": 600.0}


async def test_pause_is_done_when_it_is_answered(shop: Shop) -> None:
    result = await shop.perform("participant.pause", "counter")
    assert result == {"by": "amqp", "values": {"count": 0}}
    assert shop.counter.paused


async def test_command_sent_twice_is_done_once(shop: Shop) -> None:
    shop.counter.count = 5
    first = await shop.perform("participant.flush", "counter")
    shop.counter.count = 6
    assert await shop.perform("participant.flush", "counter") == first
    assert shop.counter.done.count("flush") == 1


async def test_running_participant_that_is_not_at_the_broker_is_tried_again(shop: Shop) -> None:
    shop.memory.commands.bound.clear()
    with pytest.raises(Retry, match="not at the broker"):
        await shop.perform("participant.pause", "counter")


async def test_dead_component_has_nothing_to_pause_or_flush(shop: Shop) -> None:
    shop.memory.processes.crash("shop.counter")
    for action in ("participant.pause", "participant.flush"):
        result = await shop.perform(action, "counter")
        assert result["running"] is False
    assert "digest" not in result


async def test_refusal_is_permanent_and_failure_is_tried_again(shop: Shop) -> None:
    for outcome, kind in (("refused", Permanent), ("failed", Retry)):
        answer = {"component": "counter", "commandid": "x", "token": 1, "outcome": outcome, "detail": "not now"}
        context = shop.context("participant.pause", "counter", answer=answer)
        with pytest.raises(kind, match="not now"):
            await shop.actions["participant.pause"].perform(context)


async def test_answer_of_another_component_is_none(shop: Shop) -> None:
    answer = {"component": "printer", "commandid": "x", "token": 1, "outcome": "done"}
    context = shop.context("check.run", answer=answer, check=1)
    with pytest.raises(Permanent, match="but printer answered"):
        await shop.actions["check.run"].perform(context)


async def test_silent_participant_is_killed_where_the_file_says_so(shop: Shop) -> None:
    shop.counter.deaf.add("pause")
    result = await shop.perform("participant.pause", "counter", on_silence=OnSilence.KILL)
    assert (result["killed"], result["silent"]) == (True, True)
    assert ("shop.counter", "KILL") in shop.memory.processes.told
    # What follows finds it dead, and does not wait for it.
    assert (await shop.perform("participant.flush", "counter"))["running"] is False


async def test_silence_to_resume_is_not_mended_by_a_kill(shop: Shop) -> None:
    shop.counter.deaf.add("resume")
    with pytest.raises(Permanent, match="did not answer resume"):
        await shop.perform("participant.resume", "counter", on_silence=OnSilence.KILL)
    assert not shop.memory.processes.told


async def test_signal_is_sent_and_only_that_is_claimed(shop: Shop) -> None:
    result = await shop.perform("participant.pause", "printer")
    assert (result["by"], result["sent"]) == ("signal", "USR1")
    assert shop.memory.processes.told == [("shop.printer", "USR1")]
    assert "answered" not in result
    assert "outcome" not in result


async def test_program_is_told_what_and_answers_with_json(shop: Shop) -> None:
    shop.memory.programs.scripts["printer", "report"] = (0, '{"values": {"pages": 3}, "detail": "fine", "more": 1}', "")
    result = await shop.perform("participant.report", "printer")
    assert result == {"by": "command", "values": {"pages": 3}, "detail": "fine"}
    _, environment = shop.memory.programs.ran[-1]
    assert (environment["RELIGHT_COMMAND"], environment["PGAPPNAME"]) == ("report", "shop.printer")


async def test_program_without_words_is_done_by_its_status(shop: Shop) -> None:
    assert await shop.perform("participant.report", "printer") == {"by": "command"}


async def test_program_that_ends_badly_is_tried_again_with_its_words(shop: Shop) -> None:
    shop.memory.programs.scripts["printer", "report"] = (3, "", "out of paper\n")
    with pytest.raises(Retry, match="status 3, saying: out of paper"):
        await shop.perform("participant.report", "printer")


async def test_program_that_hangs_is_silence_tried_again_and_then_decided_by_the_file(shop: Shop) -> None:
    shop.memory.programs.scripts["printer", "flush"] = Retry("it did not end within 4 s and was ended")
    flush = shop.actions["participant.flush"]
    for attempt, on_silence in ((1, OnSilence.PROCEED), (2, OnSilence.ABORT)):
        context = shop.context("participant.flush", "printer", attempt=attempt, attempts=2, on_silence=on_silence)
        with pytest.raises(Retry, match="was told to flush by printer: it did not end"):
            await flush.perform(context)
    context = shop.context("participant.flush", "printer", attempt=2, attempts=2, on_silence=OnSilence.PROCEED)
    assert await flush.perform(context) == Waiting(shop.time.now(), "printer")
    killed = await shop.perform("participant.flush", "printer", on_silence=OnSilence.KILL)
    assert (killed["silent"], killed["killed"]) == (True, True)


async def test_program_that_prints_nonsense_is_permanent(shop: Shop) -> None:
    for text in ('{"values": 1}', '{"digest": "short"}', "{broken"):
        shop.memory.programs.scripts["printer", "report"] = (0, text, "")
        with pytest.raises(Permanent, match="cannot be read"):
            await shop.perform("participant.report", "printer")


async def test_command_without_a_way_is_permanent(shop: Shop) -> None:
    with pytest.raises(Permanent, match="names no way"):
        await shop.perform("participant.pause", "server")


async def test_flush_is_read_back_and_compared(shop: Shop) -> None:
    shop.counter.count = 41
    result = await shop.perform("participant.flush", "counter")
    content = shop.memory.storage.documents[str(result["where"])]
    assert (result["digest"], result["read_back"]) == (hashlib.sha256(content).hexdigest(), True)
    assert result["bytes"] == len(content)


async def test_flush_whose_claim_does_not_hold_is_permanent(shop: Shop) -> None:
    context = shop.context("participant.flush", "counter")
    assert isinstance(await shop.actions["participant.flush"].perform(context), Waiting)
    _, _, answer = shop.memory.commands.answers.pop()
    shop.memory.storage.documents[str(answer["where"])] += b" "
    answered = replace(context, row=replace(context.row, answer=answer))
    with pytest.raises(Permanent, match=f"{answer['digest']}, but read back it is"):
        await shop.actions["participant.flush"].perform(answered)


async def test_flush_that_names_no_place_is_permanent(shop: Shop) -> None:
    shop.memory.programs.scripts["printer", "flush"] = (0, "{}", "")
    with pytest.raises(Permanent, match="names no digest or no place"):
        await shop.perform("participant.flush", "printer")


async def test_secret_in_a_programs_words_is_hidden() -> None:
    shop = Shop()
    system = shop.system.components["printer"].model_copy(update={"env": {"DSN": "env:ORDERS"}})
    shop.system = shop.system.model_copy(update={"components": {**shop.system.components, "printer": system}})
    shop.memory.programs.scripts["printer", "report"] = (1, "", "no route to postgresql://shop:hush@127.0.0.1/orders")
    with pytest.raises(Retry) as error:
        await shop.perform("participant.report", "printer")
    assert "hush" not in str(error.value)
    assert "***" in str(error.value)


def test_plans_say_how_and_how_long() -> None:
    shop = Shop()
    assert "over AMQP, answer within 30 s, silent → abort" in shop.plan("participant.pause", "counter")
    assert shop.plan("participant.pause", "printer") == "tell printer to pause by signal USR1; sent is done"
    assert "by program printer within 30 s" in shop.plan("participant.report", "printer")
    assert "compare its SHA-256" in shop.plan("participant.flush", "counter")


def test_every_action_is_listed_by_its_own_name() -> None:
    shop = Shop()
    assert {name: action.name for name, action in shop.actions.items()} == {name: name for name in shop.actions}
    assert "notice.tell" in shop.actions


async def test_telling_people_says_where() -> None:
    shop = Shop()
    context = shop.context("notice.tell")
    done = await shop.actions["notice.tell"].perform(context)
    assert isinstance(done, Done)
    assert done.result["told"] == ["relight.status shop.lifecycle.starting_up.verifying", "log"]


def _round(shop: Shop, number: int, planned: float, *, entered: float = 0.0) -> dict[str, Json]:
    """What the engine tells round `number`, planned and entered so many seconds after the beginning."""
    start = shop.time.now() - timedelta(seconds=shop.time.passed)
    moments = {"planned_at": planned, "entered_at": entered}
    told = {key: (start + timedelta(seconds=seconds)).isoformat() for key, seconds in moments.items()}
    return {"lease": 600.0, "renews": True, "round": number, **told}


async def test_renewal_prolongs_what_is_paused_and_says_until_when(shop: Shop) -> None:
    shop.results["pause:counter"] = await shop.perform("participant.pause", "counter", lease=600.0)
    shop.time.passed = 200
    result = await shop.perform("participant.renew", "counter", **_round(shop, 1, 200))
    sent = shop.memory.commands.sent[-1]
    assert (sent.command, sent.arguments["lease"], sent.arguments["renews"]) == ("pause", 600.0, True)
    assert result["holds_until"] == (shop.time.now() + timedelta(seconds=600)).isoformat()
    shop.results["renew:counter:1"] = result
    shop.time.passed = 700  # longer than the first lease, and still within the renewed one
    shop.counter.look()
    assert shop.counter.paused
    assert "holds_until" in await shop.perform("participant.renew", "counter", **_round(shop, 2, 700))


async def test_renewal_that_comes_too_late_proves_nothing(shop: Shop) -> None:
    shop.results["pause:counter"] = await shop.perform("participant.pause", "counter", lease=6000.0)
    shop.time.passed = 601
    asked = len(shop.memory.commands.sent)
    with pytest.raises(Permanent, match="was not renewed before its lease ended"):
        await shop.perform("participant.renew", "counter", **_round(shop, 1, 200))
    assert len(shop.memory.commands.sent) == asked


async def test_who_is_not_paused_or_does_not_run_is_not_renewed(shop: Shop) -> None:
    assert "holds_until" not in await shop.perform("participant.renew", "counter", **_round(shop, 1, 200))
    shop.results["pause:counter"] = await shop.perform("participant.pause", "counter", lease=600.0)
    shop.memory.processes.crash("shop.counter")
    assert (await shop.perform("participant.renew", "counter", **_round(shop, 2, 400)))["running"] is False


async def test_program_is_told_the_lease_and_that_it_is_renewed(shop: Shop) -> None:
    components = copy.deepcopy(SHOP["components"])
    components["printer"]["participant"]["pause"] = {"command": ["printer", "pause"]}  # type: ignore[index]  # plain JSON
    shop = Shop(components=components)  # type: ignore[arg-type]
    await shop.start_all()
    shop.results["pause:printer"] = await shop.perform("participant.pause", "printer", lease=600.0)
    assert "RELIGHT_RENEWS" not in shop.memory.programs.ran[-1][1]
    await shop.perform("participant.renew", "printer", **_round(shop, 1, 0))
    given = shop.memory.programs.ran[-1][1]
    assert (given["RELIGHT_COMMAND"], given["RELIGHT_LEASE"], given["RELIGHT_RENEWS"]) == ("pause", "600", "1")
