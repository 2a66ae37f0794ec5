"""What a verification asks of a system, before a restart (the baseline) and after it. Nothing is asked here."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Closed, Duration, Json, Name


class SqlCheck(Closed):
    """The first column of the first row of `query` on database `sql` equals `is`."""

    sql: Name
    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    is_: Annotated[Json, Field(alias="is")] = True

    @property
    def title(self) -> str:
        return f"sql {self.sql}"


class RoundTripCheck(Closed):
    """The component `roundtrip` answers a `report` command in time: a real question through the real path."""

    roundtrip: Name
    within: Duration = timedelta(seconds=5)

    @property
    def title(self) -> str:
        return f"round trip {self.roundtrip}"


class EqualCheck(Closed):
    """The named values of all components that report them equal those in the system snapshot (relative 1e-9)."""

    equal: Annotated[list[Name], Field(min_length=1)]
    to: Literal["snapshot"] = "snapshot"

    @property
    def title(self) -> str:
        return f"equal {', '.join(self.equal)}"


class FilesCheck(Closed):
    """The file or folder can be read (and written, with `rw`), and its file system has `free` bytes left at least.

    `absent`: nothing of that name is there, as when nobody holds a lock file.
    """

    files: Annotated[str, Field(min_length=1, max_length=4000)]
    access: Literal["r", "rw", "absent"] = "r"
    free: Annotated[int, Field(ge=0)] = 0

    @property
    def title(self) -> str:
        return f"files {self.files}"


class ConfigCheck(Closed):
    """The file has this SHA-256: a fixed one, or (`last_good`) the one it had when the system was last verified."""

    config: Annotated[str, Field(min_length=1, max_length=4000)]
    sha256: Literal["last_good"] | Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "last_good"

    @property
    def title(self) -> str:
        return f"config {self.config}"


class McpCheck(Closed):
    """The MCP server of this name, or `all` of the file, can be connected to and lists the tools that are expected."""

    mcp: Name

    @property
    def title(self) -> str:
        return f"mcp {self.mcp}"


class IntegrityCheck(Closed):
    """Every table and B-tree index of database `integrity` is read and found whole, by the extension amcheck.

    Everything is read, catalogs too, in `restart.limits.verify`; for a large database name the `tables` that matter.
    """

    integrity: Name
    tables: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(default_factory=list)

    @property
    def title(self) -> str:
        return f"integrity {self.integrity}"


Check = SqlCheck | RoundTripCheck | EqualCheck | FilesCheck | ConfigCheck | McpCheck | IntegrityCheck

CriticalCheck = SqlCheck | RoundTripCheck | FilesCheck | McpCheck
"""What can say that no critical operation is in progress: it passes when there is none."""
