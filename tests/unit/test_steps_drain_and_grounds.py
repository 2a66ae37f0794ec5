"""The drain's messages in virtual time, and the looks that precede every ending of a process, in memory."""

import pytest

from schemas.components import OnSilence
from service.errors import Permanent, Retry
from service.ports import OpenTransaction
from tests.unit.steps_world import Shop

BUSY = OpenTransaction(4312, "report_ro", "shop.printer", "idle in transaction", 252.0, "select 1")
LIMIT, ATTEMPTS = 300.0, 20


async def test_attempts_together_take_the_limit_and_the_first_message_comes_early() -> None:
    shop = Shop()
    shop.memory.databases.open_transactions = (BUSY,)
    said, ends = [], []
    for attempt in range(1, ATTEMPTS):
        with pytest.raises(Retry) as blocked:
            await shop.perform("postgres.drain", database="orders", timeout=LIMIT, attempt=attempt, attempts=ATTEMPTS)
        assert blocked.value.after is not None
        assert blocked.value.after.total_seconds() == 0
        said.append(str(blocked.value))
        ends.append(shop.time.passed)
    assert ends[0] < 2
    assert all(text.startswith("pid 4312 report_ro 4m12s blocks; if nobody acts: abort and resume at") for text in said)
    assert {text.split(" at ")[1][:8] for text in said} <= {"00:04:59", "00:05:00", "00:05:01"}
    with pytest.raises(Permanent, match=r"select pg_terminate_backend\(4312\)"):
        await shop.perform("postgres.drain", database="orders", timeout=LIMIT, attempt=ATTEMPTS, attempts=ATTEMPTS)
    assert shop.time.passed == pytest.approx(LIMIT, abs=1)


async def test_crowd_in_the_way_is_named_in_part_and_counted() -> None:
    shop = Shop()
    crowd = tuple(OpenTransaction(n, "app", "shop.counter", "active", 1.0, "select 1") for n in range(1, 9))
    shop.memory.databases.open_transactions = crowd
    with pytest.raises(Retry, match="pid 5 app 0m01s and 3 more blocks"):
        await shop.perform("postgres.drain", database="orders", timeout=1.0, attempts=2)


async def test_prepared_transaction_has_no_session_to_end() -> None:
    shop = Shop()
    shop.memory.databases.open_transactions = (OpenTransaction(None, "app", "", "prepared", 9.0, "tx-1", writes=True),)
    with pytest.raises(Permanent, match=r"prepared transaction of app 0m09s.*rollback prepared"):
        await shop.perform("postgres.drain", database="orders", timeout=1.0)


async def test_database_that_stays_away_takes_the_limit_and_no_longer() -> None:
    shop = Shop()
    shop.memory.databases.away = True
    for attempt in range(1, ATTEMPTS + 1):
        with pytest.raises(Retry, match="away") as raised:
            await shop.perform("postgres.drain", database="orders", timeout=LIMIT, attempt=attempt, attempts=ATTEMPTS)
        assert raised.value.after is not None
        assert raised.value.after.total_seconds() == 0
    assert shop.time.passed == pytest.approx(LIMIT, abs=1)


@pytest.fixture
async def shop() -> Shop:
    shop = Shop()
    await shop.start_all()
    return shop


async def pid(shop: Shop, name: str) -> int:
    found = (await shop.world.processes.state(f"shop.{name}")).pid
    assert found is not None
    return found


async def test_what_relight_stands_on_is_sent_no_signal_at_all(shop: Shop) -> None:
    shop.memory.grounds.stands[await pid(shop, "counter")] = ("its broker is one of its processes",)
    with pytest.raises(Permanent, match=r"counter was not stopped.*its broker.*keep: true"):
        await shop.perform("component.stop", "counter", on_silence=OnSilence.KILL)
    assert shop.memory.processes.told == []
    await shop.perform("component.stop", "printer")


async def test_silent_participant_that_relight_stands_on_is_not_killed(shop: Shop) -> None:
    shop.counter.deaf.add("pause")
    shop.memory.grounds.stands[await pid(shop, "counter")] = ("its broker is one of its processes",)
    with pytest.raises(Permanent, match="Relight stands on it"):
        await shop.perform("participant.pause", "counter", on_silence=OnSilence.KILL, lease=60)
    assert (await shop.world.processes.state("shop.counter")).running


async def test_server_of_another_database_than_relights_own_may_be_stopped_even_when_it_hangs(shop: Shop) -> None:
    shop.memory.sockets.listening.add((await pid(shop, "server"), "postgresql://shop:hush@127.0.0.1/orders"))
    shop.memory.databases.away = True
    await shop.perform("component.stop", "server")
    assert not (await shop.world.processes.state("shop.server")).running


async def test_pinned_server_that_does_not_answer_is_not_stopped_blindly() -> None:
    shop = Shop(identity={"orders": "42"})
    await shop.start_all()
    shop.memory.sockets.listening.add((await pid(shop, "server"), "postgresql://shop:hush@127.0.0.1/orders"))
    shop.memory.databases.away = True
    with pytest.raises(Retry):
        await shop.perform("component.stop", "server")
    assert (await shop.world.processes.state("shop.server")).running


async def test_kept_components_may_be_what_relight_stands_on(shop: Shop) -> None:
    shop.memory.grounds.stands[await pid(shop, "server")] = ("its own PostgreSQL is one of its processes",)
    result = await shop.perform("identity.check")
    assert result["components"] == ["counter", "printer"]


def test_plan_names_what_is_compared() -> None:
    assert Shop().plan("identity.check") == "see that Relight does not stand on counter, printer"
    pinned = Shop(identity={"orders": "42"}).plan("identity.check")
    assert pinned.startswith("compare the server of orders with the pinned one; ")
    assert Shop().plan("postgres.drain", database="orders", timeout=300.0) == (
        "wait until no transaction is open in orders, 5m at most; end none"
    )
