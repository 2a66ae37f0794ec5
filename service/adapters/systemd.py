"""The units of this host's systemd, through the program `systemctl` as argument lists. They are looked at, no more."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from service.children import base_environment
from service.errors import Permanent
from service.ports import Programs

WITHIN = timedelta(seconds=15)
"""For one question to systemd (normally 0.05 s)."""
PROPERTIES = ("Id", "Description", "ActiveState", "MainPID", "FragmentPath", "WorkingDirectory", "User", "Requires")


@dataclass(frozen=True, slots=True)
class Unit:
    """A service of systemd. `main_pid` is 0 when it does not run; `needs`: units that it requires."""

    name: str
    description: str
    active: str
    main_pid: int
    file: str
    folder: str
    user: str
    needs: tuple[str, ...] = field(default_factory=tuple)


class Systemd:
    """Asks systemd about services. `programs` runs `systemctl`."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def absent(self) -> str | None:
        """Why no unit can be looked at on this host; None when one can."""
        found = shutil.which("systemctl", path=base_environment()["PATH"])
        return None if found else "this host has no systemctl, so it has no units of systemd"

    async def units(self, patterns: Sequence[str]) -> tuple[Unit, ...]:
        """The loaded services that one of the globs names, by name. Raises Permanent when systemd refuses, Retry when
        it does not answer."""
        words = ["list-units", "--type=service", "--all", "--output=json", "--no-pager", "--", *map(_glob, patterns)]
        listed = await self._ask(words)
        try:
            names = sorted({str(row["unit"]) for row in json.loads(listed or "[]")})
        except (ValueError, KeyError, TypeError) as error:
            raise Permanent(f"systemctl did not answer in JSON, it may be too old: {listed[:200]!r}") from error
        if not names:
            return ()
        shown = await self._ask(["show", f"--property={','.join(PROPERTIES)}", "--no-pager", "--", *names])
        return tuple(_unit(block) for block in shown.strip().split("\n\n") if block.strip())

    async def _ask(self, words: Sequence[str]) -> str:
        status, output, errors = await self._programs.run(["systemctl", *words], {}, "/", WITHIN)
        if status != 0:
            raise Permanent(f"systemctl {words[0]} failed with {status}: {errors.strip() or output.strip()}")
        return output


def _glob(pattern: str) -> str:
    """`metrics-*` means services, as everywhere else with systemd."""
    return pattern if "." in pattern else f"{pattern}.service"


def _unit(block: str) -> Unit:
    said = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    pid = said.get("MainPID", "0")
    return Unit(
        name=said.get("Id", ""),
        description=said.get("Description", ""),
        active=said.get("ActiveState", ""),
        main_pid=int(pid) if pid.isdigit() else 0,
        file=said.get("FragmentPath", ""),
        folder=said.get("WorkingDirectory", ""),
        user=said.get("User", ""),
        needs=tuple(name for name in said.get("Requires", "").split() if name.endswith(".service")),
    )
