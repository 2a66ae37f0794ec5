"""A machine drawn from its table, as a Mermaid state diagram. Draws only what the table says; decides nothing."""

from collections.abc import Iterator

from machines.model import Machine, On, State, Transition

_WORDS = {On.COMPLETED: "completed", On.STEP_FAILED: "step failed", On.DEADLINE_PASSED: "deadline passed"}


def mermaid(machine: Machine) -> str:
    """The text of a `stateDiagram-v2`: states of one status stand in one box, guards in brackets, the good way first.

    All transitions between the same two states share one arrow, one line of its label each.
    """
    lines = ["stateDiagram-v2", "    direction TB"]
    for status, states in by_status(machine).items():
        composite = any("." in state.name for state in states)
        indent = "        " if composite else "    "
        if composite:
            lines += [f'    state "{states[0].status}" as {_box(status)} {{']
        lines += [f'{indent}state "{_title(state)}" as {_id(state.name)}' for state in states]
        if composite:
            lines += ["    }"]
    lines.append(f"    [*] --> {_id(machine.initial)}")
    lines += list(_arrows(machine))
    lines += [f"    {_id(state.name)} --> [*]" for state in machine.states if state.final]
    resting = [_id(state.name) for state in machine.states if state.resting]
    if resting:
        lines += ["    classDef resting stroke-width:3px", f"    class {','.join(resting)} resting"]
    return "\n".join(lines) + "\n"


def by_status(machine: Machine) -> dict[str, list[State]]:
    """The states in the order of the table, those of one status (the first word of their names) together."""
    groups: dict[str, list[State]] = {}
    for state in machine.states:
        groups.setdefault(state.name.split(".")[0], []).append(state)
    return groups


def labels(machine: Machine) -> dict[tuple[str, str], list[str]]:
    """What leads from one state to another: by (source, target) the words for each transition, guards in brackets."""
    arrows: dict[tuple[str, str], list[str]] = {}
    tried: set[tuple[str, str]] = set()
    for transition in machine.transitions:
        for source in transition.sources:
            other = (source, transition.trigger) in tried and not transition.guards
            tried.add((source, transition.trigger))
            label = _label(transition) + (", otherwise" if other else "")
            arrows.setdefault((source, transition.target), []).append(label)
    return {way: list(dict.fromkeys(words)) for way, words in arrows.items()}


def _arrows(machine: Machine) -> Iterator[str]:
    for (source, target), words in labels(machine).items():
        yield f"    {_id(source)} --> {_id(target)} : {'<br/>'.join(words)}"


def _label(transition: Transition) -> str:
    guards = [guard.__name__.strip("_").replace("_", " ") for guard in transition.guards]
    bounds = [f"at most {transition.budget} times"] if transition.budget is not None else []
    trigger = next((words for on, words in _WORDS.items() if on == transition.trigger), transition.trigger)
    return trigger + (f" [{', '.join(guards + bounds)}]" if guards or bounds else "")


def _title(state: State) -> str:
    """The last word of the name, and the lines of the table that are performed there."""
    name = state.name.split(".")[-1].replace("_", " ")
    return name + (f"<br/>{', '.join(step.name for step in state.steps)}" if state.steps else "")


def _id(name: str) -> str:
    return name.replace(".", "__").replace("-", "_")


def _box(status: str) -> str:
    # A status may be the name of a state too (`normal` and `normal.rising`): the box needs a name of its own.
    return f"{_id(status)}__box"
