"""This host's systemd, through the programs `systemctl` and `journalctl` as argument lists: what it knows of its units,
and how it is asked to start, stop or signal one. What that means for a component stands in `units.py`.
"""

import getpass
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from service.children import base_environment
from service.errors import Permanent, Retry, StepError
from service.ports import Programs

WITHIN = timedelta(seconds=15)
"""For one question to systemd (normally 0.05 s)."""
PROPERTIES = (
    "Id", "Description", "ActiveState", "MainPID", "FragmentPath", "WorkingDirectory", "User", "ControlGroup",
    "Requires", "Requisite", "BindsTo", "Wants", "After",
)  # fmt: skip
NEEDS = ("Requires", "Requisite", "BindsTo", "Wants", "After")
"""By what a unit says that it needs another one, the strongest word first."""
AWAY = ("Failed to connect to bus", "Connection timed out", "Transport endpoint", "Connection reset", "Host is down")
"""How `systemctl` says that systemd does not answer now, as in the moment of `systemctl daemon-reexec`."""
DENIED = ("Interactive authentication required", "Access denied", "Permission denied", "not authorized")


@dataclass(frozen=True, slots=True)
class Unit:
    """A service of systemd. `main_pid` is 0 when it does not run; `needs`: the services that it needs, each with the
    word of its file for it (`Requires`, `After`). `group`: its control group."""

    name: str
    description: str
    active: str
    main_pid: int
    file: str
    folder: str
    user: str
    needs: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    group: str = ""


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
        return tuple(_unit(said) for said in await self.all_shown(names, PROPERTIES))

    async def shown(self, unit: str, properties: Sequence[str]) -> Mapping[str, str]:
        """What systemd says of one unit, also of one that it does not know (`LoadState=not-found`)."""
        (said,) = await self.all_shown([unit], properties) or ({},)
        return said

    async def all_shown(self, units: Sequence[str], properties: Sequence[str]) -> tuple[Mapping[str, str], ...]:
        """The same of several. Raises Permanent when systemd refuses, Retry when it does not answer."""
        shown = await self._ask(["show", f"--property={','.join(properties)}", "--no-pager", "--", *units])
        blocks = (block for block in shown.strip().split("\n\n") if block.strip())
        return tuple(dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks)

    async def act(self, verb: Literal["start", "stop"], unit: str) -> None:
        """Puts the job into systemd's queue, and waits for nothing. Nobody is asked for a password. Raises Permanent
        when systemd refuses, which says what to allow."""
        await self._ask([verb, "--no-block", "--no-ask-password", "--quiet", "--", unit])

    async def signal(self, unit: str, name: str, whom: Literal["main", "all"]) -> None:
        """Sends `USR1` to the main process of a unit, or to all of its control group."""
        await self._ask(["kill", f"--kill-who={whom}", f"--signal=SIG{name}", "--no-ask-password", "--", unit])

    async def journal(self, unit: str, lines: int, within: timedelta) -> str:
        """The last lines of its journal; empty when there is none or we may not read it."""
        words = ["journalctl", f"--unit={unit}", f"--lines={lines}", "--output=cat", "--no-pager", "--quiet"]
        try:
            status, output, _ = await self._programs.run(words, {}, "/", within)
        except StepError:
            return ""
        return output if status == 0 else ""

    async def _ask(self, words: Sequence[str]) -> str:
        status, output, errors = await self._programs.run(["systemctl", *words], {}, "/", WITHIN)
        if status == 0:
            return output
        said = errors.strip() or output.strip()
        if any(one in said for one in DENIED):
            raise Permanent(
                f"systemd does not let {getpass.getuser()} {words[0]} {words[-1]}: {said}. Allow it the action "
                "org.freedesktop.systemd1.manage-units for this unit in polkit; docs/participants.md has the rule"
            )
        failed = f"systemctl {words[0]} failed with {status}: {said}"
        if any(one in said for one in AWAY) and "not been booted" not in said:
            raise Retry(failed)
        raise Permanent(failed)


def _glob(pattern: str) -> str:
    """`metrics-*` means services, as everywhere else with systemd."""
    return pattern if "." in pattern else f"{pattern}.service"


def _unit(said: Mapping[str, str]) -> Unit:
    needs: dict[str, str] = {}
    for word in NEEDS:
        for name in said.get(word, "").split():
            if name.endswith(".service"):
                needs.setdefault(name, word)
    pid = said.get("MainPID", "0")
    return Unit(
        name=said.get("Id", ""),
        description=said.get("Description", ""),
        active=said.get("ActiveState", ""),
        main_pid=int(pid) if pid.isdigit() else 0,
        file=said.get("FragmentPath", ""),
        folder=said.get("WorkingDirectory", ""),
        user=said.get("User", ""),
        needs=tuple(needs.items()),
        group=said.get("ControlGroup", ""),
    )
