"""The manifest of a backup: what was in the database when it was dumped, to compare a restore with. No I/O here."""

import json
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Moment, Name, Open
from schemas.system_snapshot import Digest


class Table(Open):
    """One table: its owner, its exact number of rows, and the newest value (as text, None in an empty table) of its
    primary key and of its columns of time, by column."""

    owner: str
    rows: int
    newest: dict[str, str | None] = Field(default_factory=dict)


class Contents(Open):
    """A database as one snapshot saw it. `server_version` is the major one, `system_identifier` the server's;
    `roles` own something in it or were granted something; `tables` by `schema.table`; `database_bytes` on disk."""

    server_version: int
    system_identifier: str
    encoding: str
    database_bytes: int
    roles: list[str]
    tables: dict[str, Table]

    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())

    def differences(self, found: "Contents") -> list[str]:
        """What is not the same in `found`, a restored copy, one line each, at most twenty: tables, owners, rows."""
        lines = [f"table {name} is missing" for name in self.tables if name not in found.tables]
        lines += [f"table {name} was not in the backup" for name in found.tables if name not in self.tables]
        for name, table in self.tables.items():
            other = found.tables.get(name, table)
            if other.owner != table.owner:
                lines.append(f"table {name} is owned by {other.owner}, not by {table.owner}")
            if other.rows != table.rows:
                lines.append(f"table {name} has {other.rows} rows, not {table.rows}")
            lines += [
                f"table {name}: the newest {column} is {other.newest.get(column)}, not {value}"
                for column, value in table.newest.items()
                if other.newest.get(column) != value
            ]
        return lines[:20]


class Restored(Open):
    """A test that succeeded: when it ended, on which major version, in how many seconds."""

    at: Moment
    server_version: int
    seconds: float


class Backup(Open):
    """What stands beside a dump, and as `latest.json` once it was restored in a test. `file` is the dump's name in the
    same folder; `made_by` names the step that made it; `contents` and the dump come from one snapshot."""

    format: Literal[1] = 1
    system: Name
    database: Name
    made_by: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    bytes: int
    sha256: Digest
    started_at: Moment
    ended_at: Moment
    contents: Contents
    restored: Restored | None = None

    def canonical(self) -> str:
        """The text that is stored: keys sorted, one line end."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
