"""`relight doctor`: what is missing or unreachable, and how to mend it. Every look has a time limit; nothing stays.

What one system's file needs is looked at in `doctor_systems.py`.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from schemas.system import System
from service.cli.console import Screen
from service.cli.doctor_systems import Finding, looked, of_system
from service.cli.home import ENDPOINTS, Found, find, read_system
from service.cli.render import Tone
from service.errors import Misconfigured, RelightError, Unavailable
from service.settings import Settings, strangers


def doctor(screen: Screen, paths: Sequence[Path], as_json: bool) -> int:
    """A row a finding. 0 when all is well, 1 when anything is not."""
    findings = asyncio.run(_everything(paths))
    problems = [finding for finding in findings if finding.problem is not None]
    if as_json:
        screen.json(findings)
        return 1 if problems else 0
    screen.table(
        ("WHAT", "", "FOUND", "HOW TO MEND IT"),
        [
            (finding.what, "✗" if finding.problem else "✓", finding.problem or finding.found, finding.mend)
            for finding in findings
        ],
    )
    if problems:
        screen.say(f"{len(problems)} of {len(findings)} are not well", Tone.BAD)
    else:
        screen.say(f"all {len(findings)} are well", Tone.GOOD)
    return 1 if problems else 0


def crash_points(screen: Screen, as_json: bool) -> int:
    """The places that RELIGHT_CRASH_AT may name, with what stands and what does not when the process dies there."""
    from service.crash import POINTS

    if as_json:
        screen.json({name: asdict(point) for name, point in POINTS.items()})
    else:
        lines = [(name, point.where, f"{point.stands}; {point.missing}") for name, point in POINTS.items()]
        screen.table(("RELIGHT_CRASH_AT", "IN", "WHAT STANDS THERE; WHAT DOES NOT"), lines)
    return 0


async def _everything(paths: Sequence[Path]) -> list[Finding]:
    findings = [
        Finding("setting", line, problem=line, mend="correct its name, or unset it") for line in strangers(os.environ)
    ]
    try:
        settings = Settings.load()
    except Misconfigured as error:
        return [*findings, *(Finding("setting", problem=problem, mend="correct it") for problem in error.problems)]
    home = settings.servers.home
    findings.append(looked("private folder", lambda: _folder(home), "set RELIGHT_HOME to a folder of your own"))
    if settings.servers.embedded:
        findings += _programs()
    findings += await _servers(settings)
    # As `serve` sets it: systems' files name the passwords of the private broker's users by it.
    os.environ.setdefault("RELIGHT_USERS", str(home / "users"))
    systems, wrong = _systems(home, paths)
    findings += wrong
    for system in systems:
        findings += await of_system(system, settings)
    return findings


def _folder(home: Path) -> str:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    with tempfile.TemporaryFile(dir=there):
        return f"{home} can be {'written to' if there == home else 'made'}"


def _programs() -> Iterator[Finding]:
    from service.embedded.programs import epmd_program, postgres_programs, rabbitmq_programs

    for what, where in (
        ("PostgreSQL's programs", postgres_programs),
        ("RabbitMQ's programs", rabbitmq_programs),
        ("Erlang's epmd", epmd_program),
    ):
        yield looked(what, lambda where=where: str(where()), "")  # type: ignore[misc]  # bound at once


async def _servers(settings: Settings) -> list[Finding]:
    from service.adapters.postgres import diagnose as postgres
    from service.adapters.rabbitmq import diagnose as rabbitmq

    servers = settings.servers
    if servers.embedded and not (servers.home / ENDPOINTS).exists():
        return [Finding("private servers", f"not running; `relight serve` starts them in {servers.home / 'servers'}")]
    try:
        found: Found = find(servers)
    except RelightError as error:
        return [Finding("servers", problem=str(error), mend=f"end `relight serve`, remove {servers.home / ENDPOINTS}")]
    hint = f"start it, or correct its address (it is from {found.by})"
    return [
        *await _server("PostgreSQL", lambda: postgres(found.postgres_url), hint),
        *await _server("RabbitMQ", lambda: rabbitmq(found.amqp_url), hint),
    ]


async def _server(
    what: str, ask: Callable[[], Awaitable[tuple[str, list[tuple[str, str]]]]], hint: str
) -> list[Finding]:  # fmt: skip
    try:
        found, problems = await ask()
    except (Unavailable, Misconfigured) as error:
        return [Finding(what, problem=str(error), mend=hint)]
    return [Finding(what, found), *(Finding(what, problem=problem, mend=mend) for problem, mend in problems)]


def _systems(home: Path, paths: Sequence[Path]) -> tuple[list[System], list[Finding]]:
    from service.adapters.systems import load_systems

    if paths:
        try:
            return list(load_systems(paths).values()), []
        except Misconfigured as error:
            return [], [Finding("system's file", problem=problem, mend="correct it") for problem in error.problems]
    known = sorted(file.stem for file in (home / "systems").glob("*.json"))
    systems, wrong = [], []
    for name in known:
        try:
            systems.append(read_system(home, name))
        except ValueError as error:
            text = str(error).splitlines()[0]
            wrong.append(Finding(name, problem=f"what {home} keeps of it cannot be read: {text}", mend="serve it anew"))
    return systems, wrong
