"""`relight adopt`: a first system's file from what is found on this machine. It writes that file, no more.

The text is read back through the very loader that `serve` uses before it is written; a file that is there is replaced
only with --force.
"""

import asyncio
import os
import re
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from schemas.base import NAME_PATTERN
from service.cli.adopt_found import Found
from service.cli.adopt_look import Wanted, look
from service.cli.adopt_text import Draft, draft
from service.cli.console import Screen
from service.cli.masking import masked
from service.cli.render import Tone
from service.errors import Misconfigured, RelightError
from service.settings import Settings


def adopt(settings: Settings, screen: Screen, wanted: Wanted, output: str | None, force: bool, as_json: bool) -> int:
    """Writes `output` (default `<system>.yaml`; `-`: standard output). Raises RelightError when nothing was written."""
    if not re.fullmatch(NAME_PATTERN, wanted.system):
        raise RelightError(f"{wanted.system!r} is no name of a system: lower case, digits, - and _, a letter first")
    file = None if output == "-" else Path(output or f"{wanted.system}.yaml").absolute()
    if file is not None and file.exists() and not force:
        raise RelightError(f"{file} exists and was not touched; --output names another file, --force replaces it")
    if file is not None and not file.parent.is_dir():
        raise RelightError(f"the folder {file.parent} is not there; nothing was written")
    found = asyncio.run(look(wanted, settings.servers))
    if not any(one.reason is None for one in found.components):
        raise RelightError(_nothing(wanted, found))
    made = draft(wanted.system, found, socket.gethostname(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    _write(made.text, file)
    if as_json:
        screen.json(_plain(found, made, file))
        return 0
    if file is None:
        screen.out.out(made.text, end="", highlight=False)
    _tell(screen, found, made, file, wanted.system)
    return 0


def _write(text: str, file: Path | None) -> None:
    """Read back beside its place first: its folder is part of its meaning. Then there as a whole, or not at all."""
    from service.adapters.systems import load_systems

    with tempfile.TemporaryDirectory(prefix=".relight-adopt-", dir=file.parent if file is not None else None) as folder:
        aside = Path(folder) / "system.yaml"
        aside.write_text(text)
        try:
            load_systems([aside])
        except Misconfigured as error:
            raise RelightError(
                "what was found makes no valid system's file, so none was written; this is a mistake of Relight's:\n"
                f"{error}"
            ) from error
        if file is not None:
            os.replace(aside, file)


def _nothing(wanted: Wanted, found: Found) -> str:
    left = [f"  pid {one.pid} ({' '.join(masked(one.command))[:120]}): {one.reason}" for one in found.components]
    left += [f"  {unit.name}: {unit.reason}" for unit in found.units if unit.reason is not None]
    why = "\n".join(["Left out:", *left]) if left else "No process matched."
    problems = "".join(f"\n  {line}" for line in found.problems)
    return (
        f"nothing was found that Relight could start and stop for {wanted.system}, so no file was written.\n{why}"
        f"{problems}\nName its processes with --process PID or --process PATTERN."
    )


def _tell(screen: Screen, found: Found, made: Draft, file: Path | None, system: str) -> None:
    """Beside the file: what has to be set, what to decide, what to do next. Values of secrets are never repeated."""
    shown = [one for one in found.components if one.reason is None]
    kept = [one for one in found.databases if one.left_out is None]
    if file is not None:
        screen.note(
            f"wrote {file}: {_count(len(shown), 'component')}, {_count(len(kept), 'database')}, "
            f"{_count(len(found.mcp), 'MCP server')}; it was read back and is valid",
            Tone.GOOD,
        )
    if made.variables:
        screen.note("set these for `relight serve` (their values are not in the file):", Tone.HEADING)
        for name, place in made.variables:
            screen.note(f"  {name}   the URL of {place}", Tone.PLAIN)
    screen.note("to decide:", Tone.HEADING)
    for line in made.decide:
        screen.note(f"  - {line}", Tone.PLAIN)
    where = file or f"{system}.yaml"
    screen.note("next:", Tone.HEADING)
    screen.note(f"  relight doctor --systems {where}            what is missing or unreachable", Tone.PLAIN)
    screen.note(
        f"  relight serve --observe --systems {where}   what a restart would do; it changes nothing", Tone.PLAIN
    )


def _plain(found: Found, made: Draft, file: Path | None) -> dict[str, object]:
    return {
        "file": str(file) if file is not None else None,
        "text": made.text,
        "components": [one.name for one in found.components if one.reason is None],
        "databases": [one.name for one in found.databases if one.left_out is None],
        "mcp": [one.name for one in found.mcp],
        "variables": [name for name, _ in made.variables],
        "decide": list(made.decide),
    }


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
