"""docs/coverage.md held to what it is about: the protocol's lines, the machine's states and steps, tests that exist."""

import re
from pathlib import Path

import pytest

from machines.lifecycle import LIFECYCLE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "coverage.md").read_text("utf-8")
NOT_REAL = "**not on a real part**"

LINES = {
    "Daily Maintenance: System Restart": (
        "Controlled restart of the framework",
        "02:00 UTC",
        "5-10 min",
    ),
    "Pre-Restart Data Preservation Protocol": (
        "Send notification to all stakeholders 15 minutes before restart",
        "Log restart intention in system event log",
        'Set system status to "Preparing for Restart"',
        "Pause all active calculations and analyses",
        "Complete any in-progress database transactions",
        "Flush in-memory data to persistent storage",
        "Create snapshot of current system state",
        "Verify snapshot integrity",
        "Gracefully terminate connections to MCP servers",
        "Close database connections",
        "Stop all background tasks and workers",
        'Set system status to "Shutting Down"',
    ),
    "Post-Restart Integrity Verification Protocol": (
        "Initialize core system components",
        "Establish database connections",
        'Set system status to "Starting Up"',
        "Load system state snapshot",
        "Verify database connectivity and integrity",
        "Check file system access and permissions",
        "Validate configuration settings",
        "Test MCP server connections",
        "Resume scheduled tasks and background workers",
        "Process any queued operations",
        'Set system status to "Operational"',
        "Send notification of successful restart",
    ),
    "Daily Restart Checklist": (
        "Verify no critical operations in progress",
        "Send pre-restart notification",
        "Execute database backup",
        "Verify backup integrity",
        "Execute pre-restart data preservation protocol",
        "Perform system restart",
        "Execute post-restart integrity verification protocol",
        "Verify all services operational",
        "Send restart completion notification",
        "Document any issues encountered",
    ),
}
"""The protocol, in its own words and order: what the page is about."""

STATES = {state.name: {step.name for step in state.steps} for state in LIFECYCLE.states}
GUARDS = {guard.__name__ for move in LIFECYCLE.transitions for guard in move.guards}


def _rows(heading: str) -> list[list[str]]:
    """The cells of every row below a heading of the second level."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| line |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


ROWS = [(heading, *row) for heading in LINES for row in _rows(heading)]


@pytest.mark.parametrize("heading", LINES)
def test_every_line_of_the_protocol_is_there_in_its_order(heading: str) -> None:
    assert tuple(row[0] for row in _rows(heading)) == LINES[heading]


@pytest.mark.parametrize(("line", "where"), [(row[1], row[2]) for row in ROWS])
def test_states_steps_and_guards_are_those_of_the_machine(line: str, where: str) -> None:
    # A step belongs to the state that was named last before it; names with a dot and a word of settings are neither.
    named = [name for name in re.findall(r"`([\w.]+)`", where) if not name.startswith(("restart.", "pg_"))]
    state = ""
    for name in named:
        if name in STATES:
            state = name
        elif name not in GUARDS and name not in KINDS:
            assert name in STATES.get(state, set()), f"{line}: {state or 'no state'} has no step {name}"
    assert state, f"{line}: no state is named"


KINDS = {"sql", "integrity", "files", "config", "mcp"}
"""Kinds of checks, which are named beside the step that performs them."""


@pytest.mark.parametrize(("line", "shown"), [(row[1], row[3]) for row in ROWS])
def test_every_line_is_shown_by_tests_that_exist_and_if_only_in_memory_it_says_so(line: str, shown: str) -> None:
    tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown)
    missing = [
        f"{file}::{test}"
        for file, test in tests
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text("utf-8")
    ]
    assert missing == []
    real = [
        file for file, _ in tests if file.startswith(("tests/acceptance/", "tests/integration/", "tests/contract/"))
    ]
    assert tests, f"{line}: no test is named"
    assert real or NOT_REAL in shown, f"{line}: only unit tests, and the row does not say that it is {NOT_REAL}"
