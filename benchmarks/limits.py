"""The limit: pgbench, in C, on the same tables, rows and indexes. Nothing here is slowed down by Python.

One event a transaction: the statements that a straightforward client sends, over 16 connections. Batched: the very
batches that the store commits, through the same function, from one connection.
"""

import asyncio
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.counting import Tables
from benchmarks.errors import BenchError
from benchmarks.stage import Track
from service.embedded.programs import postgres_programs

CONNECTIONS = 16
"""Of the measurement with one event a transaction."""

_TPS = re.compile(r"tps = ([\d.]+)")
_LATENCY = re.compile(r"^\s*([\d.]+)\s.*relight\.commit\(", re.MULTILINE)

PER_EVENT = """
\\set number random(0, {last})
\\set system :number % {systems}
\\set metric :number / {systems}
BEGIN;
INSERT INTO relight.inbox (source, id, body_hash, outcomes, received_at)
    VALUES ('bench/pgbench', replace(gen_random_uuid()::text, '-', ''), decode('{hash}', 'hex'),
        '{{"alert/s10/m10": "applied"}}', clock_timestamp());
UPDATE relight.instances SET machine_version = 1, config_hash = '{config}', epoch = 1, seq = seq + 1,
        state = '{state}', entry = entry + 1, entered_at = clock_timestamp(), dwell_until = NULL, deadline_at = NULL,
        data = '{data}', hash = '{hash}'
    WHERE instance = 'alert/s' || :system::text || '/m' || :metric::text RETURNING seq AS seq \\gset
INSERT INTO relight.log (instance, epoch, seq, kind, at, state_from, state_to, source, event_id, event_type, "user",
        causation, correlation, machine_version, config_hash, record, previous, hash)
    VALUES ('alert/s' || :system::text || '/m' || :metric::text, 1, :seq, 'transition', clock_timestamp(), 'normal',
        '{state}', 'bench/pgbench', replace(gen_random_uuid()::text, '-', ''), 'relight.metric.observed', 'relight',
        NULL, NULL, 1, '{config}', '{record}', '{hash}', '{hash}');
DELETE FROM relight.outbox WHERE shard = 0 AND id = :gone;
INSERT INTO relight.outbox (shard, exchange, routing_key, message_id, body)
    VALUES (0, 'relight.status', 's10.alert.{state}', '1.alert/s10/m10.' || :seq::text, '{body}')
    RETURNING id AS gone \\gset
COMMIT;
"""
"""The straightforward client: a row in the inbox, the snapshot, a row in the log, and the outbox, whose row of the
event before is deleted. The texts are those of a real event. Its reads, its observation and its lease are left out:
this is a limit."""

SAMPLE = """
    SELECT l.config_hash, l.record, l.hash, l.state_to, i.data, octet_length(l.record) AS bytes
    FROM relight.log l JOIN relight.instances i USING (instance)
    WHERE l.event_type = 'relight.metric.observed' ORDER BY octet_length(l.record) DESC LIMIT 1
"""


async def per_event(track: Track, seconds: int) -> float:
    """Transactions a second with one event each."""
    async with Tables(track.place.postgres_url) as tables:
        sample = await tables.row(SAMPLE)
        before = await tables.value("SELECT count(*) FROM relight.log")
        # A notification carries what its record does, in an envelope.
        body = sample["record"] + "x" * 240
        script = PER_EVENT.format(
            last=track.instances.count - 1, systems=track.instances.systems, config=sample["config_hash"],
            state=sample["state_to"], hash=sample["hash"], data=plain(sample["data"]),
            record=plain(sample["record"]), body=plain(body),
        )  # fmt: skip
        options = ("-c", str(CONNECTIONS), "-j", "2", "-T", str(seconds), "-D", "gone=0")
        said = await pgbench(track, script, options, seconds + 60)
        rows = await tables.value("SELECT count(*) FROM relight.log") - before
    if rows < 1:
        raise BenchError(f"pgbench wrote nothing:\n{said}")
    return float(found(_TPS, said))


async def batched(track: Track, batches: int, size: int) -> float:
    """Events a second, `size` a batch: the batches that `benchmarks.store` laid ready, committed in their order."""
    async with Tables(track.place.postgres_url) as tables:
        names = await tables.value("SELECT proargnames::text[] FROM pg_proc WHERE oid = 'relight.commit'::regproc")
        before = await tables.value("SELECT count(*) FROM relight.log")
        said = await pgbench(track, batch_script(names), ("-c", "1", "-t", str(batches), "-r", *FIRST), 240)
        rows = await tables.value("SELECT count(*) FROM relight.log") - before
    if rows != batches * size:
        raise BenchError(f"pgbench committed {rows} transitions instead of {batches * size}:\n{said}")
    # Only the commit: fetching the next batch from the table is not what is measured.
    return size * 1000.0 / float(found(_LATENCY, said))


FIRST = ("-D", "next=-1", "-D", "gone={}")


def batch_script(names: list[str]) -> str:
    """Fetches the next batch into variables, then commits it. pgbench knows no NULL: an empty text stands for it."""
    given = {name: f":{name}" for name in names} | {"sent": ":gone", "rest": "nullif(:rest::text, '')::jsonb"}
    values = ", ".join(given[name] for name in names)
    return (
        "\\set next :next + 1\n"
        "SELECT * FROM public.staged WHERE number = :next \\gset\n"
        f"SELECT relight.commit({values}) AS gone \\gset\n"
    )


def plain(text: str) -> str:
    """A text of the same length that pgbench takes for no variable and SQL for one literal."""
    return text.replace(":", "=").replace("'", "_").replace("\\", "_")


async def pgbench(track: Track, script: str, options: tuple[str, ...], within: float) -> str:
    """What it says. Raises BenchError when a transaction failed."""
    file = track.place.folder / "pgbench.sql"
    file.write_text(script)
    parts = urlsplit(track.place.postgres_url)
    process = await asyncio.create_subprocess_exec(
        program(), "-n", "-M", "prepared", *options, "-f", str(file),
        env={
            **os.environ,
            "PGHOST": parts.hostname or "", "PGPORT": str(parts.port), "PGUSER": unquote(parts.username or ""),
            "PGPASSWORD": unquote(parts.password or ""), "PGDATABASE": parts.path[1:], "PGSSLMODE": "disable",
            "PGOPTIONS": "-c synchronous_commit=on -c jit=off",
        },
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(within):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = output.decode() + errors.decode()
    if process.returncode != 0 or "ERROR" in said:
        raise BenchError(f"pgbench failed with {process.returncode}:\n{said[-2000:]}")
    return said


def program() -> Path:
    """pgbench, where PostgreSQL's other programs are, or on the PATH. Raises BenchError."""
    beside = postgres_programs() / "pgbench"
    found_on_path = shutil.which("pgbench")
    if beside.exists():
        return beside
    if found_on_path is not None:
        return Path(found_on_path)
    raise BenchError("pgbench is not installed; Debian's package postgresql brings it (elsewhere postgresql-contrib)")


def found(pattern: re.Pattern[str], said: str) -> str:
    """The last match's group. Raises BenchError when pgbench did not say it."""
    matches = pattern.findall(said)
    if not matches:
        raise BenchError(f"pgbench said something unexpected:\n{said[-2000:]}")
    return str(matches[-1])
