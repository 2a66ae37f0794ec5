"""Components that are units of systemd: the double in memory and a real systemd keep the same promises."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from service.adapters.grounds import HostGrounds
from service.adapters.memory.processes import ProcessScript
from service.adapters.memory.world import MemoryWorld
from service.adapters.processes.components import HostComponents
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.processes.systemd import Systemd
from service.adapters.processes.units import SystemdUnits
from service.clock import SystemClock
from service.embedded.ports import free_port
from service.errors import Permanent, Retry
from service.ports import Processes, ProcessState
from tests.systemd import OwnSystemd, systemd

__all__ = ["systemd"]
WELL, STUBBORN, BACK, SLOW, FAILS = (f"unit:{name}.service" for name in ("well", "stubborn", "back", "slow", "fails"))
SOON, LONG = timedelta(milliseconds=300), timedelta(seconds=10)
SCRIPTS = {
    STUBBORN: ProcessScript(ignores=frozenset({"TERM"})),
    BACK: ProcessScript(comes_back=0.3),
    SLOW: ProcessScript(up_after=0.5),
    FAILS: ProcessScript(exits_at_once=7),
    "unit:masked.service": ProcessScript(refused="is masked, so systemd would not start it (again)"),
    "unit:nobody.service": ProcessScript(refused="this host's systemd knows no unit nobody.service"),
}


@dataclass(frozen=True)
class Units:
    """The port, and how somebody else ends the main process of a unit."""

    port: Processes
    crash: Callable[[str], None]

    async def start(self, name: str) -> ProcessState:
        return await self.port.start(name, [], {}, "/")

    async def becomes(self, name: str, wanted: Callable[[ProcessState], bool]) -> ProcessState:
        async with asyncio.timeout(LONG.total_seconds()):
            while not wanted(state := await self.port.state(name)):
                await asyncio.sleep(0.02)
        return state


@pytest.fixture(scope="module")
def written(systemd: OwnSystemd) -> OwnSystemd:
    systemd.unit("well", "ExecStart=/bin/sleep 600")
    # Up once its shell has ended, and so not before what it left ignores TERM.
    stubborn = "trap '' TERM; (while :; do sleep 0.05; done) & exit 0"
    systemd.unit("stubborn", f'Type=forking\nExecStart=/bin/sh -c "{stubborn}"\nTimeoutStopSec=60')
    systemd.unit("back", "ExecStart=/bin/sleep 600\nRestart=always\nRestartSec=0.3", "StartLimitIntervalSec=0")
    # Not up before it says so.
    systemd.unit("slow", 'Type=forking\nExecStart=/bin/sh -c "sleep 0.5; sleep 600 & exit 0"')
    systemd.unit("fails", 'ExecStart=/bin/sh -c "exit 7"')
    systemd.unit("needs-well", "ExecStart=/bin/sleep 600", "Requires=well.service\nAfter=well.service")
    (systemd.home / "units" / "masked.service").symlink_to("/dev/null")
    systemd.systemctl("daemon-reload")
    return systemd


@pytest.fixture(params=["memory", "real"])
def units(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Units:
    if request.param == "memory":
        memory = MemoryWorld(SystemClock())
        memory.processes.scripts |= SCRIPTS
        return Units(memory.world().processes, memory.processes.crash)
    systemd: OwnSystemd = request.getfixturevalue("written")
    clock, kept = SystemClock(), tmp_path_factory.mktemp("processes")
    port = HostComponents(SupervisedProcesses(kept, clock), SystemdUnits(systemd.programs, clock))

    def crash(name: str) -> None:
        unit = name.removeprefix("unit:")
        os.kill(int(systemd.systemctl("show", "--property=MainPID", "--value", unit).stdout), signal.SIGKILL)

    for name in (WELL, STUBBORN, BACK, SLOW, FAILS):
        systemd.systemctl("stop", "--no-block", name.removeprefix("unit:"))
        systemd.systemctl("kill", "--signal=KILL", name.removeprefix("unit:"))
        while systemd.systemctl("is-active", name.removeprefix("unit:")).stdout.strip() not in ("inactive", "failed"):
            pass
    return Units(port, crash)


async def test_unit_that_does_not_run_cannot_be_told(units: Units) -> None:
    state = await units.port.state(WELL)
    assert (state.running, state.pid, state.unit) == (False, None, "well.service")
    with pytest.raises(Retry, match="does not run"):
        await units.port.tell(WELL, "TERM")
    assert await units.port.strangers(WELL, [], "/") == ()


async def test_second_start_adopts_the_run_and_the_next_after_the_end_is_another(units: Units) -> None:
    first, again = await units.start(WELL), await units.start(WELL)
    assert first.running
    assert first.invocation
    assert (first.invocation, first.pid, first.started) == (again.invocation, again.pid, again.started)
    await units.port.tell(WELL, "TERM")
    assert not (await units.port.wait_stopped(WELL, LONG)).running
    second = await units.start(WELL)
    assert second.running
    assert second.invocation != first.invocation
    assert second.pid != first.pid


async def test_hung_stop_is_ending_and_not_started_beside_until_it_is_killed(units: Units) -> None:
    await units.start(STUBBORN)
    await units.becomes(STUBBORN, lambda state: not state.starting)
    await units.port.tell(STUBBORN, "TERM")
    hung = await units.port.wait_stopped(STUBBORN, SOON)
    assert (hung.running, hung.ending) == (True, True)
    with pytest.raises(Retry, match="told to end: it is not taken for a new one"):
        await units.start(STUBBORN)
    await units.port.tell(STUBBORN, "KILL")
    ended = await units.port.wait_stopped(STUBBORN, LONG)
    assert (ended.running, ended.ending, ended.exit_status) == (False, False, -9)
    assert (await units.start(STUBBORN)).running


async def test_what_somebody_else_ended_comes_back_as_another_run(units: Units) -> None:
    first = await units.start(BACK)
    units.crash(BACK)
    between = await units.becomes(BACK, lambda state: state.comes_back)
    assert (between.running, between.pid) == (True, None)
    back = await units.becomes(BACK, lambda state: state.pid is not None)
    assert back.invocation != first.invocation
    assert not back.comes_back


@pytest.mark.parametrize("word", ["TERM", "KILL"])
async def test_what_relight_stopped_does_not_come_back(units: Units, word: str) -> None:
    await units.start(BACK)
    await units.port.tell(BACK, word)
    assert not (await units.port.wait_stopped(BACK, LONG)).running
    await asyncio.sleep(0.5)  # longer than RestartSec
    assert not (await units.port.state(BACK)).running


async def test_stop_between_two_runs_keeps_it_away(units: Units) -> None:
    await units.start(BACK)
    units.crash(BACK)
    await units.becomes(BACK, lambda state: state.comes_back)
    await units.port.tell(BACK, "TERM")
    assert not (await units.port.wait_stopped(BACK, LONG)).running


async def test_unit_that_is_not_up_yet_is_starting(units: Units) -> None:
    state = await units.start(SLOW)
    assert (state.running, state.starting) == (True, True)
    up = await units.becomes(SLOW, lambda state: not state.starting)
    assert up.running
    assert up.pid is not None


async def test_unit_that_fails_at_once_has_its_exit_status(units: Units) -> None:
    await units.start(FAILS)
    failed = await units.becomes(FAILS, lambda state: not state.running)
    assert failed.exit_status == 7


@pytest.mark.parametrize(("name", "words"), [("masked", "is masked, so systemd"), ("nobody", "knows no unit nobody")])
async def test_unit_that_cannot_be_started_is_refused_before_anything_is_done(
    units: Units, name: str, words: str
) -> None:
    for call in (units.port.state, units.start):
        with pytest.raises(Permanent, match=words):
            await call(f"unit:{name}.service")


async def test_what_systemd_says_when_it_refuses_is_repeated(written: OwnSystemd) -> None:
    with pytest.raises(Permanent, match=r"systemctl start failed with 1: .*masked\.service is masked"):
        await Systemd(written.programs).act("start", "masked.service")


async def test_signal_that_would_end_it_is_not_sent(written: OwnSystemd) -> None:
    port = SystemdUnits(written.programs, SystemClock())
    before = await port.start(WELL, [], {}, "/")
    with pytest.raises(Retry, match="does not handle USR1, which would end it"):
        await port.tell(WELL, "USR1")
    with pytest.raises(Permanent, match="'NO' is no signal"):
        await port.tell(WELL, "NO")
    assert (await port.state(WELL)).invocation == before.invocation


async def test_control_groups_are_those_of_all_that_ends_with_it(written: OwnSystemd) -> None:
    port = SystemdUnits(written.programs, SystemClock())
    await port.start("unit:needs-well.service", [], {}, "/")
    groups = await port.groups(WELL)
    assert [group.rpartition("/")[2] for group in groups] == ["well.service", "needs-well.service"]
    assert await port.groups("unit:needs-well.service") == groups[1:]
    written.systemctl("stop", "needs-well.service")


class EachEndsWithTheNext:
    """What `systemctl show` says on a host where every unit is stopped together with another one."""

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        (unit,) = command[command.index("--") + 1 :]
        number = int(unit.removeprefix("u").removesuffix(".service"))
        return 0, f"Id={unit}\nControlGroup=/system.slice/{unit}\nRequiredBy=u{number + 1}.service\n", ""


async def test_unit_with_which_too_much_ends_to_be_looked_through_is_not_stopped() -> None:
    port = SystemdUnits(EachEndsWithTheNext(), SystemClock())
    with pytest.raises(Permanent, match="more than 100 units together with u0"):
        await port.groups("unit:u0.service")


async def test_server_of_relights_own_in_a_control_group_is_found_whoever_its_parent_is(written: OwnSystemd) -> None:
    port = free_port()
    # Its main process is the shell; what listens was left by a parent that is gone, and still ends with the unit.
    server = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    written.unit("broker", f'ExecStart=/bin/sh -c "(setsid {server} &) ; exec sleep 600"')
    units = SystemdUnits(written.programs, SystemClock())
    state = await units.start("unit:broker.service", [], {}, "/")
    grounds = HostGrounds({"Relight's own RabbitMQ broker": f"http://127.0.0.1:{port}"}, _nobody)
    async with asyncio.timeout(LONG.total_seconds()):
        while not (found := await grounds.within(await units.groups("unit:broker.service"))):
            await asyncio.sleep(0.1)
    assert "Relight's own RabbitMQ broker (pid " in found[0]
    assert "broker.service" in found[0]
    assert state.pid is not None
    assert await grounds.under(state.pid) == ()
    await units.start(WELL, [], {}, "/")
    assert await grounds.within(await units.groups(WELL)) == ()
    written.systemctl("stop", "broker.service")


async def _nobody() -> str:
    raise AssertionError("it is not asked here")


START = ("systemctl", "start", "--no-block", "--no-ask-password", "--quiet", "--", "x.service")


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("Failed to start x.service: Interactive authentication required.", Permanent, "manage-units for this unit"),
        ("Failed to start x.service: Access denied", Permanent, r"docs/participants\.md has the rule"),
        ("Failed to connect to bus: Connection refused", Retry, "failed with 1"),
        ("System has not been booted with systemd as init system (PID 1). Can't operate.\nFailed to connect to bus: "
         "Host is down", Permanent, "not been booted"),
    ],
)  # fmt: skip
async def test_refusal_of_systemd_says_what_to_allow(said: str, error: type[Exception], words: str) -> None:
    programs = MemoryWorld(SystemClock()).programs
    programs.scripts[START] = (1, "", said)
    with pytest.raises(error, match=words):
        await Systemd(programs).act("start", "x.service")


async def test_last_words_of_a_unit_are_those_of_its_journal_and_none_where_it_may_not_be_read() -> None:
    programs = MemoryWorld(SystemClock()).programs
    words = ("journalctl", "--unit=x.service", "--lines=40", "--output=cat", "--no-pager", "--quiet")
    programs.scripts[words] = (0, "bind: address in use\n", "")
    units = SystemdUnits(programs, SystemClock())
    assert await units.said("unit:x.service") == "bind: address in use\n"
    programs.scripts[words] = Permanent("no program journalctl")
    assert await units.said("unit:x.service") == ""
