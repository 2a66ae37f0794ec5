"""The list of machines, and pictures that show every state and every way of their tables."""

import pytest

from machines.diagram import mermaid
from machines.model import Machine
from machines.registry import CHARTS, MACHINES, VERSIONS, chart
from schemas.events import EVENTS

ALL = list(MACHINES.values())


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_machine_is_found_by_name_and_by_version(machine: Machine) -> None:
    assert VERSIONS[machine.name, machine.version] is machine
    assert CHARTS[machine.name] is chart(machine.name, machine.version)
    assert machine.state(machine.initial).name == machine.initial


def test_version_that_this_release_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(KeyError, match=r"lifecycle version 99 .* lifecycle 1"):
        chart("lifecycle", 99)


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_diagram_shows_every_state_transition_guard_and_step(machine: Machine) -> None:
    text = mermaid(machine)
    lines = text.splitlines()
    assert lines[0] == "stateDiagram-v2"
    for state in machine.states:
        assert any(line.strip().endswith(f"as {state.name.replace('.', '__')}") for line in lines)
        assert all(step.name in text for step in state.steps)
    arrows = {line.split(" : ")[0].strip(): line for line in lines if " --> " in line}
    for transition in machine.transitions:
        for source in transition.sources:
            arrow = f"{source} --> {transition.target}".replace(".", "__")
            assert all(guard.__name__.replace("_", " ") in arrows[arrow] for guard in transition.guards)
            if transition.trigger in EVENTS:
                assert transition.trigger in arrows[arrow]
    assert len(arrows) == 1 + len({(s, t.target) for t in machine.transitions for s in t.sources})
    assert text.count("{") == text.count("}") == sum("__box {" in line for line in lines)


def test_second_way_on_the_same_trigger_is_drawn_as_the_other_one() -> None:
    text = mermaid(MACHINES["lifecycle"])
    assert "preparing_for_restart__preserving --> shutting_down : completed [snapshot verified, pause holds]" in text
    assert "preparing_for_restart__preserving --> preparing_for_restart__resuming : completed, otherwise<br/>" in text


def test_states_of_one_status_stand_in_one_box() -> None:
    lines = mermaid(MACHINES["lifecycle"]).splitlines()
    start = next(i for i, line in enumerate(lines) if 'state "Preparing for Restart"' in line)
    assert [line.split(" as ")[-1] for line in lines[start + 1 : start + 6]] == [
        "preparing_for_restart__awaiting_approval",
        "preparing_for_restart__notifying",
        "preparing_for_restart__awaiting_quiet",
        "preparing_for_restart__preserving",
        "preparing_for_restart__resuming",
    ]
    assert lines[start + 6].strip() == "}"
