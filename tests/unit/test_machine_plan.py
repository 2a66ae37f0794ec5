"""From the table to named steps: order, expansion, limits, and that a printed plan is the performed one."""

from dataclasses import replace
from datetime import timedelta

import pytest

from machines.lifecycle import LIFECYCLE, At
from machines.model import Each, Machine, Step
from machines.plan import limit, plan, route, waits
from schemas.components import OnSilence
from tests.unit.machine_desk import NOON, Desk, metrics_system


def names(state: str) -> list[str]:
    return [step.name for step in plan(LIFECYCLE, state, metrics_system(), {})]


def test_components_stop_in_reverse_of_what_they_need_and_start_in_order() -> None:
    assert names(At.SHUTTING_DOWN) == ["stop:reporter", "stop:calculator", "confirm_stopped"]
    assert names(At.INITIALIZING) == ["start:store", "start:calculator", "start:reporter"]


def test_only_those_are_told_that_take_the_command_and_kept_ones_are_left_alone() -> None:
    assert names(At.PRESERVING) == [
        "identify",
        "pause:reporter",
        "pause:calculator",
        "drain:trading",
        "flush:calculator",
        "seal",
        "verify_snapshot",
    ]
    assert names(At.RESTORING) == [
        "resume:store",
        "resume:calculator",
        "confirm_running:store",
        "confirm_running:calculator",
        "confirm_running:reporter",
        "complete",
        "report",
    ]


def test_checks_run_side_by_side_and_everything_else_one_after_another() -> None:
    steps = plan(LIFECYCLE, LIFECYCLE.state(At.VERIFYING), metrics_system(), {})
    assert [(s.name, s.position, s.arguments) for s in steps] == [
        ("compare", 0, {}),
        ("check:0", 1, {"check": 0}),
        ("check:1", 1, {"check": 1}),
    ]
    positions = [s.position for s in plan(LIFECYCLE, At.PRESERVING, metrics_system(), {})]
    assert positions == [0, 1, 2, 3, 4, 5, 6]


def test_positions_close_up_where_a_line_of_the_table_concerns_nobody() -> None:
    alone = metrics_system(components={"calculator": {"process": ["c"]}}, databases={}, verify=[{"files": "."}])
    steps = plan(LIFECYCLE, At.PRESERVING, alone, {})
    assert [(s.name, s.position) for s in steps] == [("identify", 0), ("seal", 1), ("verify_snapshot", 2)]


def test_soak_is_planned_for_each_check_after_all_of_them_and_only_when_asked_for() -> None:
    soaked = plan(LIFECYCLE, At.VERIFYING, metrics_system(restart={"soak": "20s", "limits": {"verify": "1m"}}), {})
    assert [(s.name, s.position) for s in soaked[-2:]] == [("soak:0", 2), ("soak:1", 2)]
    assert soaked[-1].timeout == timedelta(seconds=80)
    assert not [name for name in names(At.VERIFYING) if name.startswith("soak")]


def test_limits_silence_and_arguments_come_from_the_systems_file() -> None:
    components = {"calculator": {"process": ["c"], "participant": "amqp", "on_silence": "proceed"}}
    restart = {"limits": {"drain": "7m", "stop": "90s"}, "answer_within": "12s", "pause_lease": "20m"}
    system = metrics_system(components=components, restart=restart, verify=[{"roundtrip": "calculator"}])
    by_name = {s.name: s for s in plan(LIFECYCLE, At.PRESERVING, system, {})}
    assert by_name["pause:calculator"].timeout == timedelta(seconds=12)
    assert by_name["pause:calculator"].on_silence is OnSilence.PROCEED
    assert by_name["pause:calculator"].component == "calculator"
    assert by_name["pause:calculator"].arguments == {"lease": 1200.0}
    assert by_name["flush:calculator"].timeout == timedelta(minutes=7)
    assert by_name["seal"].on_silence is OnSilence.ABORT
    assert plan(LIFECYCLE, At.SHUTTING_DOWN, system, {})[0].timeout == timedelta(seconds=90)


def test_unknown_limit_is_an_error_and_not_a_default() -> None:
    with pytest.raises(ValueError, match="'patience'"):
        limit(metrics_system(), "patience")
    with pytest.raises(ValueError, match="'notice'"):
        limit(metrics_system(), "notice")


def test_route_of_a_restart_is_the_way_that_a_restart_goes() -> None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics", state=At.OPERATIONAL)
    legs = route(LIFECYCLE, desk.system)
    desk.request()
    for leg in legs:
        assert desk.state == leg.state.name
        assert [fact.planned for fact in desk.steps.values()] == list(leg.steps)
        assert desk.reason.startswith(leg.entered)
        if leg is not legs[-1]:
            desk.end_all()
    assert desk.visited == [leg.state.name for leg in legs]
    assert legs[-1].state.resting


def test_route_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no way leads on from halted by restart\.requested"):
        route(LIFECYCLE, metrics_system(), start=At.HALTED)
    ways = tuple(t for t in LIFECYCLE.transitions if t.source != At.SHUTTING_DOWN)
    circle = tuple(
        replace(t, target=At.NOTIFYING) if t.source == At.RESTORING and t.trigger == "completed" else t for t in ways
    )
    with pytest.raises(ValueError, match="no way leads on from shutting_down"):
        route(replace(LIFECYCLE, transitions=ways), metrics_system())
    back = (*circle, replace(LIFECYCLE.transitions[1], source=At.SHUTTING_DOWN))
    with pytest.raises(ValueError, match="comes to no rest"):
        route(replace(LIFECYCLE, transitions=back), metrics_system())


def test_fixed_and_computed_waits_and_none() -> None:
    system = metrics_system()
    assert waits(LIFECYCLE.state(At.UNOBSERVED), system, {}, NOON) == (None, NOON + timedelta(minutes=5))
    assert waits(LIFECYCLE.state(At.OPERATIONAL), system, {}, NOON) == (None, None)
    dwell, deadline = waits(LIFECYCLE.state(At.NOTIFYING), system, {"restart": {"due": "2025-03-02T14:00:00Z"}}, NOON)
    assert dwell == NOON + timedelta(hours=2)
    assert deadline == dwell + timedelta(minutes=10)


def test_every_state_of_a_restart_has_time_for_its_steps_once() -> None:
    system = metrics_system()
    for leg in route(LIFECYCLE, system):
        if leg.state.resting:
            continue
        began, deadline = waits(leg.state, system, {}, NOON)
        assert deadline is not None
        longest: dict[int, timedelta] = {}
        for step in leg.steps:
            if step.action.startswith("component."):
                longest[step.position] = max(longest.get(step.position, timedelta()), step.timeout)
        assert (began or NOON) + sum(longest.values(), timedelta()) <= deadline


def test_each_component_line_expands_in_both_directions() -> None:
    def one(each: Each) -> list[str]:
        state = replace(LIFECYCLE.state(At.SHUTTING_DOWN), steps=(Step("look", "component.look", each, keep=True),))
        machine: Machine = replace(LIFECYCLE, states=(state,))
        return [step.name for step in plan(machine, state, metrics_system(), {})]

    assert one(Each.COMPONENT) == one(Each.COMPONENT_REVERSED)[::-1]
    assert one(Each.SYSTEM) == ["look"]


def test_backup_after_the_flush_is_restored_in_a_test_before_the_point_of_no_return() -> None:
    backup = {"databases": ["trading"], "when": "after_flush", "within": "20m"}
    storage = {"state": "file:///state", "backups": "file:///backups"}
    system = metrics_system(restart={"backup": backup}, storage=storage)
    lines = [step.name for step in plan(LIFECYCLE, At.PRESERVING, system, {})]
    after = lines[lines.index("flush:calculator") :]
    made = [f"{line}:trading" for line in ("backup", "verify_backup", "restore_test")]
    assert after == ["flush:calculator", *made, "seal", "verify_snapshot"]
    _, deadline = waits(LIFECYCLE.state(At.PRESERVING), system, {}, NOON)
    assert deadline is not None
    assert deadline >= NOON + timedelta(hours=1)
    # What is too old is deleted when the system is up again, and never where the file keeps all.
    assert "prune:trading" in [step.name for step in plan(LIFECYCLE, At.RESTORING, system, {})]
    kept = metrics_system(restart={"backup": {**backup, "keep": "all"}}, storage=storage)
    assert "prune:trading" not in [step.name for step in plan(LIFECYCLE, At.RESTORING, kept, {})]


def test_backup_that_names_no_database_means_every_database_of_the_system() -> None:
    restart = {"backup": {"when": "before_pause", "reuse_within": "3h"}}
    storage = {"state": "file:///state", "backups": "file:///backups"}
    databases = {"trading": {"url": "env:TRADING"}, "research": {"url": "env:RESEARCH"}}
    system = metrics_system(restart=restart, storage=storage, databases=databases)
    lines = [step.name for step in plan(LIFECYCLE, At.NOTIFYING, system, {}) if step.name.startswith("backup")]
    assert lines == ["backup:trading", "backup:research"]
