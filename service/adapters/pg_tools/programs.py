"""Where PostgreSQL's programs are on this machine, and how new they are. Nothing is run here but `--version`."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from service.errors import Permanent

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin")
"""Debian's, Red Hat's and others'. Debian's wrappers in /usr/bin are left out: they choose a version by themselves."""
ASKED_WITHIN = 10.0
"""Seconds for `pg_dump --version`."""


@dataclass(frozen=True, slots=True)
class Tools:
    """A folder with pg_dump, pg_restore, initdb and postgres of one major version."""

    folder: Path
    version: int

    def __getitem__(self, program: str) -> str:
        return str(self.folder / program)


def tools_for(server: int, *programs: str) -> Tools:
    """The newest that are installed. Raises Permanent when they are older than the server, major version `server`:
    an older pg_dump refuses it, and could not know what to save."""
    found = sorted(_installed(programs), key=lambda tools: tools.version)
    if found and found[-1].version >= server:
        return found[-1]
    have = ", ".join(f"{tools.version} in {tools.folder}" for tools in found) or "none"
    raise Permanent(
        f"{' and '.join(programs)} of PostgreSQL {server} or newer are needed for a server of version {server}, but "
        f"here are: {have}. Nothing was changed; install postgresql-{server}, or set RELIGHT_POSTGRES_BIN to newer ones"
    )


def _installed(programs: tuple[str, ...]) -> list[Tools]:
    if chosen := os.environ.get("RELIGHT_POSTGRES_BIN"):
        folders = [Path(chosen)]
    else:
        folders = [folder for place in PLACES for folder in Path("/").glob(place[1:])]
    return [
        Tools(folder, version)
        for folder in folders
        if all((folder / program).exists() for program in programs)
        and (folder / programs[0]).resolve().name != "pg_wrapper"
        and (version := _version(folder / programs[0])) is not None
    ]


def _version(program: Path) -> int | None:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, timeout=ASKED_WITHIN, check=True, cwd="/")
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"\b(\d+)(?:\.|devel|beta|rc)", said.stdout)
    return int(found[1]) if found else None
