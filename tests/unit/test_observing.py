"""A Relight that only looks: it can change nothing, whatever it is handed, and says what each step would meet."""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from machines.chart import Chart
from machines.lifecycle import LIFECYCLE
from machines.model import Event, Facts, InstanceId, Move, Refusal, Snapshot
from machines.observing import OBSERVING
from machines.plan import route
from schemas.backup import Contents
from schemas.events import RestartRequested, SystemRegistered
from schemas.system import System
from service.adapters.local_files import LocalFiles
from service.adapters.looking import (
    LookingDumps,
    LookingFiles,
    LookingStorage,
    NoCommands,
    NoHttp,
    NoNotifier,
    NoPrograms,
)
from service.adapters.memory.chronicle import MemoryChronicle
from service.adapters.processes.looking import LookingProcesses
from service.app import Addresses
from service.app_observing import Observing, ObservingService
from service.errors import Permanent, Refrained, StepError
from service.ports import OpenTransaction, World
from service.settings import Settings
from service.steps.foreseeing import UNREADABLE, Foreseen, Outlook
from service.steps.naming import folder, process_name
from service.steps.observation import Observation, Request, markdown, observe
from service.steps.registry import ACTIONS
from tests.unit.steps_world import SHOP, Shop

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
READS_ONLY = {"databases", "secrets", "mcp", "sockets", "grounds", "chronicle"}
"""Fields of a World whose ports have no method that changes anything of a system."""
STORE = {"state": "file:///var/shop", "backups": "file:///var/backups"}
HELD = Contents(
    server_version=15, system_identifier="1", encoding="UTF8", database_bytes=3_000_000, roles=[], tables={}
)
BACKED_UP = {"storage": STORE, "restart": {"backup": {"databases": ["orders"]}}}


def looking(shop: Shop) -> World:
    """The memory world as an observing Relight sees it."""
    memory = shop.memory.world()
    commands = {
        process_name(shop.system, name): (component.process, folder(shop.system, component))
        for name, component in shop.system.components.items()
    }
    return replace(
        memory,
        processes=LookingProcesses(
            memory.processes.state, memory.processes.strangers, memory.processes.groups, memory.processes.said, commands
        ),
        storage=LookingStorage(memory.storage),
        files=LookingFiles(memory.files),
        dumps=LookingDumps(memory.dumps),
        commands=NoCommands(),
        programs=NoPrograms(),
        http=NoHttp(),
        notifier=NoNotifier(),
    )


async def running(**changes: Any) -> Shop:
    shop = Shop(**changes)
    shop.memory.files.contents |= {"/var": None, ".": None}
    shop.memory.databases.answers |= {
        "select fresh": True,
        UNREADABLE: 0,
        "select pg_database_size(current_database())": 3_000_000,
    }
    shop.memory.dumps.databases[shop.memory.secrets.values["env:ORDERS"]] = HELD
    await shop.start_all()
    return shop


async def look(shop: Shop, request: Request | None = None) -> Observation:
    return await observe(shop.system, route(LIFECYCLE, shop.system), ACTIONS, looking(shop), shop.time, request)


def step(seen: Observation, name: str) -> Foreseen:
    return next(one for one in seen.steps if one.step == name)


def traces(shop: Shop) -> Any:
    """Whatever could have been done to the world in memory."""
    memory = shop.memory
    return (
        list(memory.processes.told), dict(memory.processes.starts), dict(memory.storage.documents),
        list(memory.programs.ran), list(memory.http.asked), list(memory.notifier.told), list(memory.commands.answers),
        shop.counter.paused,
    )  # fmt: skip


WAY = route(LIFECYCLE, System.model_validate({**SHOP, **BACKED_UP}))


@pytest.mark.parametrize("name", sorted({one.action for leg in WAY for one in leg.steps}))
async def test_no_action_changes_anything_in_a_world_that_only_looks(name: str) -> None:
    shop = await running(**BACKED_UP)
    before = traces(shop)
    world = looking(shop)
    performed = 0
    for leg in route(LIFECYCLE, shop.system):
        for planned in leg.steps:
            if planned.action == name:
                context = replace(shop.context(name, planned.component, timeout=0.1, **planned.arguments), world=world)
                with suppress(StepError):
                    await ACTIONS[name].perform(context)
                performed += 1
    assert performed
    assert traces(shop) == before


def test_every_port_of_an_observing_world_only_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_HOME", str(tmp_path))
    addresses = Addresses("postgresql://x@127.0.0.1/x", "amqp://x@127.0.0.1/")
    service = ObservingService(Observing(timedelta(1), lambda page: None), Settings.load(), {}, addresses, None)
    world = service._looking(MemoryChronicle())
    refraining = {
        "processes": LookingProcesses, "storage": LookingStorage, "files": LookingFiles, "dumps": LookingDumps,
        "commands": NoCommands, "programs": NoPrograms, "http": NoHttp, "notifier": NoNotifier,
    }  # fmt: skip
    assert {field.name for field in fields(World)} == READS_ONLY | set(refraining), "a new port has to be judged"
    assert {name: type(getattr(world, name)) for name in refraining} == refraining


CHANGES: dict[str, Callable[[World], Awaitable[Any]]] = {
    "start": lambda w: w.processes.start("shop.server", ["server"], {}, "/"),
    "tell": lambda w: w.processes.tell("shop.server", "TERM"),
    "wait": lambda w: w.processes.wait_stopped("shop.server", timedelta(1)),
    "write": lambda w: w.storage.write("file:///x", b"x"),
    "delete": lambda w: w.storage.delete("file:///x"),
    "stream": lambda w: w.storage.write_stream("file:///x", None),  # type: ignore[arg-type]
    "dump": lambda w: w.dumps.dump("x", None, timedelta(1)),  # type: ignore[arg-type]
    "restore": lambda w: w.dumps.restored(None, None, timedelta(1)),  # type: ignore[arg-type]
    "unpack": lambda w: w.dumps.readable(None, timedelta(1)),  # type: ignore[arg-type]
    "command": lambda w: w.commands.send("a.b.pause", "c", "{}"),
    "program": lambda w: w.programs.run(["true"], {}, "/", timedelta(1)),
    "request": lambda w: w.http.send("GET", "http://127.0.0.1/", {}, None, timedelta(1)),
    "people": lambda w: w.notifier.tell({"a": "b"}, "t", "b", "info", timedelta(1)),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_every_change_is_refrained_from(change: str) -> None:
    with pytest.raises(Refrained):
        await CHANGES[change](looking(await running()))


async def test_folder_that_may_not_be_written_is_known_without_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert (await LookingFiles(LocalFiles()).tried(str(tmp_path), write=True)).folder
    assert tmp_path.stat().st_mtime_ns == before
    monkeypatch.setattr("service.adapters.looking.os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(Permanent, match="Permission denied"):
        await LookingFiles(LocalFiles()).tried(str(tmp_path), write=True)


# ---- what it says


async def test_page_names_who_would_block_whom_it_would_stop_and_what_it_could_not_ask() -> None:
    shop = await running(**BACKED_UP)
    shop.memory.databases.open_transactions = (
        OpenTransaction(4312, "report_rw", "", "active", 252.0, "update x", writes=True),
        OpenTransaction(4313, "shop", "shop.counter", "active", 0.1, "insert", writes=True),
    )
    request = Request("e1", "ana (local)", NOW, ("observing only",))
    seen = await look(shop, request)
    drain, stop = step(seen, "drain:orders"), step(seen, "stop:counter")
    assert drain.outlook is Outlook.WOULD_NOT
    assert drain.words.startswith("pid 4312 report_rw 4m12s would block now; it would be waited for 5m")
    assert (stop.outlook, stop.words) == (Outlook.WOULD, "pid 1002, TERM, up to 2m")
    assert step(seen, "pause:counter").outlook is Outlook.UNKNOWN
    assert step(seen, "baseline:0").words.startswith("passes now: True")
    assert step(seen, "baseline:1").outlook is Outlook.UNKNOWN
    assert "at most 3.0 MB to file:///var/backups" in step(seen, "backup:orders").words
    assert "in the way of a restart: drain:orders" in seen.summary
    assert "3/3 run, 2/3 checks pass (1 not asked)" in seen.summary
    page = markdown(seen)
    assert "Asked for by ana (local)" in page
    assert "✗ `drain:orders`" in page
    assert "hush" not in page


async def test_backup_that_would_not_fit_or_be_read_is_in_the_way() -> None:
    shop = await running(**BACKED_UP)
    shop.memory.files.free = 2_000_000
    assert "orders has 3.0 MB, and only 2.0 MB are free" in step(await look(shop), "backup:orders").words
    shop.memory.databases.answers[UNREADABLE] = 7
    assert "may not read 7 of its tables" in step(await look(shop), "backup:orders").words
    assert step(await look(shop), "backup:orders").outlook is Outlook.WOULD_NOT


async def test_component_that_does_not_run_and_one_that_somebody_else_started_are_told_apart() -> None:
    shop = await running()
    shop.memory.processes.crash("shop.counter")
    shop.memory.processes.crash("shop.printer")
    shop.memory.processes.copies["shop.printer"] = (os.getpid(),)
    seen = {one.component: one for one in (await look(shop)).components}
    assert (seen["counter"].pid, seen["counter"].foreign) == (None, False)
    assert (seen["printer"].pid, seen["printer"].foreign) == (os.getpid(), True)
    assert (seen["server"].foreign, seen["server"].pid) == (False, 1001)


async def test_component_of_another_host_is_not_said_to_be_down() -> None:
    components = {**SHOP["components"], "far": {"process": ["far"], "host": "m2"}}  # type: ignore[dict-item]
    seen = await look(await running(components=components))
    (far,) = (one for one in seen.components if one.component == "far")
    assert (far.pid, far.problem) == (None, "it runs on m2, which is not looked at from here")
    assert step(seen, "stop:far").outlook is Outlook.UNKNOWN
    assert "stop:far" not in seen.summary


async def test_failing_check_and_other_server_are_in_the_way() -> None:
    shop = await running(identity={"orders": "1"})
    shop.memory.databases.answers["select fresh"] = False
    seen = await look(shop)
    assert step(seen, "baseline:0").words == "sql orders: expected True, found False (select fresh)"
    assert step(seen, "identify").outlook is Outlook.WOULD_NOT


# ---- the lifecycle that stands still


def facts(name: str, data: Any, **system: Any) -> Facts:
    described = System.model_validate({**SHOP, **system})
    event = Event("e1", "test", name, "shop", data, NOW, "ana (local)", local=True)
    snapshot = Snapshot(
        InstanceId("lifecycle/shop"), "shop", "lifecycle", 1, described.config_hash(), 1, 0, "unobserved", 0, NOW
    )
    return Facts(NOW, event, snapshot, described)


def test_request_is_refused_with_what_the_real_lifecycle_would_have_decided() -> None:
    chart = Chart(OBSERVING)
    asked = RestartRequested(reason="new release")
    verdict = chart.decide("restart.requested", facts("restart.requested", asked))
    assert isinstance(verdict, Refusal)
    (reason,) = verdict.reasons
    assert reason.startswith("observing only, nothing was moved: if it were operational it would now be preparing_for")
    frozen = [{"when": "MON-FRI 09:30-16:00 UTC", "blocks": ["restart"]}]
    verdict = chart.decide("restart.requested", facts("restart.requested", asked, freeze=frozen))
    assert isinstance(verdict, Refusal)
    assert "this would be refused: the pause at" in verdict.reasons[0]
    assert "lies in the freeze" in verdict.reasons[0]


def test_no_row_of_its_table_leads_anywhere() -> None:
    assert {(row.source, row.trigger, row.target, row.stay) for row in OBSERVING.transitions} == {
        ("unobserved", "system.registered", "unobserved", True)
    }
    assert (OBSERVING.name, OBSERVING.version, OBSERVING.initial) == (
        LIFECYCLE.name, LIFECYCLE.version, LIFECYCLE.initial,
    )  # fmt: skip
    assert [(state.steps, state.deadline) for state in OBSERVING.states] == [((), None)]
    real = Chart(LIFECYCLE)
    registered = facts("system.registered", SystemRegistered(config_hash="0" * 64))
    after = replace(registered, snapshot=replace(registered.snapshot, seq=3))
    assert isinstance(Chart(OBSERVING).decide("system.registered", registered), Move)
    assert isinstance(real.decide("system.registered", after), Move), "a later serve goes on from it"
