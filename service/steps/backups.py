"""Backups, `postgres.*`: a dump with its manifest, shown to be readable, then restorable, and only then the latest.

How a database is dumped and restored, and how a document is stored, is the world's business.
"""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta

from pydantic import ValidationError

from machines.model import PlannedStep
from schemas.backup import Backup, Restored
from schemas.base import Json
from schemas.system import System
from service.errors import Full, Missing, Permanent, StepError
from service.ports import Done, StepContext
from service.steps.naming import restart_id

DATABASE_BYTES = "select pg_database_size(current_database())"
ASKED_WITHIN = timedelta(seconds=10)
"""For the size of a database, which is only asked to say how much room is missing."""
LATEST = "latest.json"
"""The manifest of the newest backup that was restored in a test; nothing else is ever published under this name."""


class BackUp:
    """Dumps a database into storage and writes its manifest. Twice is safe: what the manifest of this very step names
    is complete and is answered again; without a manifest the dump is made anew under a name of this claim's own, so
    that nobody writes over what another worker counted, and what the earlier claim left is deleted.
    """

    name = "postgres.backup"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        name, backup = str(step.arguments.get("database")), system.restart.backup
        words = f"dump {name} to {system.backup_url(name)}/<restart>.dump with a manifest"
        if backup is not None and backup.reuse_within:
            hours = backup.reuse_within.total_seconds() / 3600
            return f"{words}, unless one was restored in a test within the last {hours:g} h"
        return words

    async def perform(self, context: StepContext) -> Done:
        """Result: `reused`, `url`, `bytes`, `sha256`, `manifest` (URL), `made_at`, and `restored_at` when reused, else
        `tables`, `rows`. Raises Permanent when the database is on another server than its pinned `identity`."""
        name, system, world = _database(context), context.system, context.world
        dsn = world.secrets.resolve(system.databases[name].url, system.folder)
        server = await world.dumps.identify(dsn)
        if (pinned := system.identity.get(name)) not in (None, server):
            raise Permanent(
                f"{name} of {system.system} is on the server {server}, but {pinned} is pinned as its identity; nothing "
                "was dumped. If it moved, change identity: in the system's file"
            )
        if (reused := await reusable(context, name, server)) is not None:
            return reused
        base = _base(context)
        manifest = system.backup_url(name, f"{base}.manifest.json")
        made = await _read(context, manifest)
        if made is None or made.made_by != context.command_id:
            made = await self._dump(context, name, dsn, f"{base}-{context.token:x}.dump")
            await world.storage.write(manifest, made.canonical().encode())
        await self._tidy(context, name, f"{base}-", made)
        facts: dict[str, Json] = {"tables": len(made.contents.tables), "rows": made.contents.rows()}
        return Done({"reused": False, **_about(context, made, manifest), **facts})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _dump(self, context: StepContext, name: str, dsn: str, file: str) -> Backup:
        url, storage, began = context.system.backup_url(name, file), context.world.storage, context.clock.now()
        try:
            contents, (size, digest) = await context.world.dumps.dump(
                dsn, lambda chunks: storage.write_stream(url, chunks), context.row.planned.timeout
            )
        except Full as error:
            raise Full(f"{error}. {await self._needed(context, name, dsn, error.free)}", error.free) from error
        return Backup(
            system=context.system.system,
            database=name,
            made_by=context.command_id,
            file=file,
            bytes=size,
            sha256=digest,
            started_at=began,
            ended_at=context.clock.now(),
            contents=contents,
        )

    async def _needed(self, context: StepContext, name: str, dsn: str, free: int) -> str:
        """How much room a person has to make for the dump, which nobody knows before it is made."""
        latest = await _read(context, context.system.backup_url(name, LATEST))
        like = f"The latest dump of {name} had {latest.bytes} bytes. " if latest is not None else ""
        try:
            size = await context.world.databases.value(dsn, DATABASE_BYTES, ASKED_WITHIN)
        except StepError as error:
            return f"{like}How large {name} is now cannot be told ({error})"
        more = max(size - free, 0) if isinstance(size, int) else 0
        return f"{like}{name} has {size} bytes, and its dump is smaller: with {more} more bytes free there it fits"

    async def _tidy(self, context: StepContext, name: str, prefix: str, made: Backup) -> None:
        """Deletes the dumps that interrupted claims of this step finished and nobody counted."""
        kept = context.system.backup_url(name, made.file)
        for stored in await context.world.storage.list(context.system.backup_url(name, prefix)):
            if stored.url != kept and stored.url.endswith(".dump"):
                await context.world.storage.delete(stored.url)


class VerifyBackup:
    """Reads the dump back from storage to its end: size, SHA-256, every block unpacked. Twice is safe: it only reads.

    A backup that is reused was read and restored when it was made, so it is answered at once.
    """

    name = "postgres.verify_backup"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"read the dump of {step.arguments.get('database')} back, compare its SHA-256, unpack it to its end"

    async def perform(self, context: StepContext) -> Done:
        """Result: `verified` true, `reused`, `bytes`, `sha256`. Raises Permanent when it is not what was dumped."""
        made, told = await _made(context)
        if made is None:
            return Done({"verified": True, **told})
        floor = context.system.restart.backup.floor if context.system.restart.backup is not None else 1
        if made.bytes < floor:
            raise Permanent(
                f"the dump {made.file} has {made.bytes} bytes; less than {floor} is no backup (backup.floor)"
            )
        refused: Permanent | None = None
        async with aclosing(_Copy(context, made)) as copy:
            try:
                await context.world.dumps.readable(copy.chunks(), context.row.planned.timeout)
            except Missing:
                raise
            except Permanent as error:
                refused = error
            await copy.compare()
        if refused is not None:
            raise refused
        return Done({"verified": True, "reused": False, "bytes": made.bytes, "sha256": made.sha256})

    async def probe(self, context: StepContext) -> Done | None:
        return None


class RestoreTest:
    """Restores the stored dump into a scratch server and compares all that the manifest says; then the manifest says so
    and `latest.json` is published. Twice is safe: a scratch server is nobody's, and documents are replaced as a whole.
    """

    name = "postgres.restore_test"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        name = str(step.arguments.get("database"))
        return (
            f"restore the dump of {name} into a scratch server, compare it, publish {system.backup_url(name, LATEST)}"
        )

    async def perform(self, context: StepContext) -> Done:
        """Result: `restored` true, `reused`, `manifest`, `restored_at`, `tables`, `rows`, `seconds`. Raises Permanent
        with every difference."""
        made, told = await _made(context)
        if made is None:
            return Done({"restored": True, **told})
        if made.restored is None:
            made = await self._tested(context, made)
            await context.world.storage.write(str(told["manifest"]), made.canonical().encode())
        assert made.restored is not None  # noqa: S101  # set above, or read so
        await context.world.storage.write(context.system.backup_url(made.database, LATEST), made.canonical().encode())
        facts: dict[str, Json] = {"tables": len(made.contents.tables), "rows": made.contents.rows()}
        at, seconds = _text(made.restored.at), made.restored.seconds
        return Done({"restored": True, **told, "restored_at": at, "seconds": seconds, **facts})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _tested(self, context: StepContext, made: Backup) -> Backup:
        began = context.clock.monotonic()
        async with aclosing(_Copy(context, made)) as copy:
            found = await context.world.dumps.restored(copy.chunks(), made.contents, context.row.planned.timeout)
            await copy.compare()
        if differences := made.contents.differences(found):
            raise Permanent(
                f"the restored copy of {made.file} is not what its manifest says: {'; '.join(differences)}. It was not "
                "published as the latest backup"
            )
        seconds = round(context.clock.monotonic() - began, 3)
        restored = Restored(at=context.clock.now(), server_version=found.server_version, seconds=seconds)
        return made.model_copy(update={"restored": restored})


class _Copy:
    """The stored dump as it is read, counted and hashed on its way."""

    def __init__(self, context: StepContext, made: Backup) -> None:
        self._made = made
        self._url = context.system.backup_url(made.database, made.file)
        self._source = context.world.storage.read_stream(self._url)
        self._bytes = 0
        self._digest = hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._source:
            self._bytes += len(chunk)
            self._digest.update(chunk)
            yield chunk

    async def aclose(self) -> None:
        """Whatever held the document open is let go."""
        await self._source.aclose()

    async def compare(self) -> None:
        """Reads what nobody wanted any more, too. Raises Permanent when it is not what was dumped."""
        async for _ in self.chunks():
            pass
        found = (self._bytes, self._digest.hexdigest())
        if found != (self._made.bytes, self._made.sha256):
            raise Permanent(
                f"{self._url} was written with {self._made.bytes} bytes and SHA-256 {self._made.sha256}, but read back "
                f"it has {found[0]} and {found[1]}: the storage lost or changed it"
            )


async def reusable(context: StepContext, name: str, server: str) -> Done | None:
    """The latest backup, when its test is young enough, it is of this very server and its dump is still there."""
    backup = context.system.restart.backup
    latest = await _read(context, context.system.backup_url(name, LATEST))
    if backup is None or latest is None or latest.restored is None:
        return None
    if context.clock.now() - latest.restored.at >= backup.reuse_within:
        return None
    if (latest.system, latest.contents.system_identifier) != (context.system.system, server):
        return None
    url = context.system.backup_url(name, latest.file)
    there = await context.world.storage.list(url)
    if not any(stored.url == url and stored.bytes == latest.bytes for stored in there):
        return None
    about = _about(context, latest, context.system.backup_url(name, LATEST))
    return Done({"reused": True, **about, "restored_at": _text(latest.restored.at)})


def _database(context: StepContext) -> str:
    name = context.row.planned.arguments.get("database")
    if not isinstance(name, str) or name not in context.system.databases:
        raise Permanent(f"step {context.row.key.name} needs a database of {context.system.system}, not {name!r}")
    return name


def _base(context: StepContext) -> str:
    """The restart's id, which begins with its time; outside of a restart the step's own command id."""
    return restart_id(context.data) or re.sub(r"[^A-Za-z0-9._-]+", "-", context.command_id).strip(".-_")


async def _read(context: StepContext, url: str) -> Backup | None:
    """The manifest there; None when there is none, or none that can be read: it proves nothing then."""
    try:
        return Backup.model_validate_json(await context.world.storage.read(url))
    except (Missing, ValidationError):
        return None


async def _made(context: StepContext) -> tuple[Backup | None, dict[str, Json]]:
    """(the backup of this entry, what to say of it); None for one that is reused. Raises Permanent without any."""
    name = _database(context)
    result = context.results.get(f"backup:{name}")
    if result is None:
        raise Permanent(f"no backup of {name} was made in this entry of {context.system.system}")
    told: dict[str, Json] = {key: result[key] for key in ("reused", "manifest") if key in result}
    if result.get("reused") is True:
        return None, {**told, "restored_at": result.get("restored_at")}
    made = await _read(context, str(result.get("manifest")))
    if made is None:
        raise Permanent(f"the manifest {result.get('manifest')} is gone or cannot be read")
    if (made.system, made.database, made.sha256) != (context.system.system, name, result.get("sha256")):
        raise Permanent(f"the manifest {result.get('manifest')} is not that of the backup made for this restart")
    return made, told


def _about(context: StepContext, made: Backup, manifest: str) -> dict[str, Json]:
    return {
        "url": context.system.backup_url(made.database, made.file),
        "bytes": made.bytes,
        "sha256": made.sha256,
        "manifest": manifest,
        "made_at": _text(made.ended_at),
    }


def _text(moment: datetime) -> str:
    return moment.isoformat()
