"""A long-running command ends at the first signal, whatever it is doing, and what its end needs is still done."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
import uvloop

from service.cli.ending import SIGNALS, Signals, Told


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def listening() -> tuple[Signals, list[str]]:
    said: list[str] = []
    signals = Signals(lambda: said.append("first"), lambda: said.append("again"))
    signals.listen()
    return signals, said


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_an_idle_loop_at_once(factory: object, number: signal.Signals) -> None:
    signals, said = listening()
    signal.setitimer(signal.ITIMER_REAL, 0)

    async def idle() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
        await asyncio.sleep(30)

    with asyncio.Runner(loop_factory=factory) as runner, pytest.raises(Told):  # type: ignore[arg-type]
        signals.run(runner, idle())
    assert said == ["first"]


def test_signal_between_two_loops_is_not_lost() -> None:
    signals, _ = listening()
    begun = []

    async def work() -> None:
        begun.append(1)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        signals.run(first, work())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Told):
            signals.run(second, work())
    assert begun == [1]


def test_second_signal_does_not_cut_the_end_short() -> None:
    signals, said = listening()
    ended = []

    async def end() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        ended.append(1)

    with asyncio.Runner() as runner:
        signals.finish(runner, end())
    assert ended == [1]
    assert said == ["again", "again"]


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_nothing_is_said_in_the_midst_of_a_callback(factory: object) -> None:
    signals, said = listening()

    async def prints() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        while not signals.told:
            pass
        assert said == []
        await asyncio.sleep(30)

    with asyncio.Runner(loop_factory=factory) as runner, pytest.raises(Told):  # type: ignore[arg-type]
        signals.run(runner, prints())
    assert said == ["first", "again"]


def test_failure_of_the_work_stays_a_failure() -> None:
    signals, _ = listening()

    async def fails() -> None:
        raise ValueError("why")

    with asyncio.Runner() as runner, pytest.raises(ValueError, match="why"):
        signals.run(runner, fails())
