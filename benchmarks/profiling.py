"""Where the time goes: one more run from a full queue, looked at from inside Python, PostgreSQL and RabbitMQ.

Looking costs something, so no figure is taken from it but shares.
"""

import json
import os
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.counting import Tables
from benchmarks.ground import Ground
from benchmarks.serving import Serve, serving
from benchmarks.stage import Track, publish
from benchmarks.usage import cpu

WATCHED = {
    "shared_preload_libraries": "'pg_stat_statements'",
    "pg_stat_statements.track": "'all'",
}
"""What PostgreSQL needs to count the time of each statement, those inside functions too."""

TOP = 12
"""Lines of each table."""

STATEMENTS = """
    SELECT toplevel, query, calls, total_exec_time AS ms FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY total_exec_time DESC LIMIT 40
"""

REDUCTIONS = """
Kind = fun(P) -> case process_info(P, registered_name) of
    {registered_name, Name} -> Name;
    _ -> case process_info(P, dictionary) of
        {dictionary, D} -> case lists:keyfind('$initial_call', 1, D) of {_, {M, _, _}} -> M; _ -> other end;
        _ -> other end end end,
maps:to_list(lists:foldl(fun(P, All) -> case process_info(P, reductions) of
    {reductions, R} -> maps:update_with(Kind(P), fun(V) -> V + R end, R, All);
    _ -> All end end, #{}, processes())).
"""
"""The work that Erlang has counted, by the name of the process or the module it began in."""

_PAIR = re.compile(r"\{'?([^',{}]+)'?,(\d+)\}")


async def profile(ground: Ground, track: Track, files: Path, events: int) -> str:
    """The page's section, as Markdown. PostgreSQL is restarted with its own statistics on."""
    await ground.postgres_anew(WATCHED)
    place = track.place
    samples = place.folder / "samples.json"
    async with Tables(place.postgres_url) as tables:
        await tables.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        wave = track.wave(events)
        await publish(place, [wave])
        serve = Serve(place, files, more={"BENCH_SAMPLES": str(samples)})
        mark = await tables.mark(serve)
        # After the publishing, which is not serve's.
        reductions = await _reductions(ground)
        await tables.execute("SELECT pg_stat_statements_reset()")
        before = cpu([], ground.postgres.pids, ground.rabbit.pids)
        async with serving(serve, before=("-m", "benchmarks.sampling")):
            os.kill(serve.pid, signal.SIGUSR1)
            begun = cpu([serve.pid], [], []).python
            counted = await tables.until_told(wave.source, wave.count, mark, serve)
            os.kill(serve.pid, signal.SIGUSR2)
            used = cpu([serve.pid], ground.postgres.pids, ground.rabbit.pids)
            # While its connections are there: with them, what their processes did would be gone.
            worked = await _reductions(ground) - reductions
        statements = await tables.rows(STATEMENTS)
    python = json.loads(samples.read_text())
    return "\n".join(
        [
            f"{events:,} events in {counted.seconds:.1f} s while being looked at. CPU for 1,000 of them: Python "
            f"{_ms(used.python - begun, events)}, PostgreSQL {_ms(used.postgres - before.postgres, events)}, RabbitMQ "
            f"{_ms(used.rabbitmq - before.rabbitmq, events)}.",
            "",
            *_python(python),
            *_postgres(statements, events),
            *_rabbitmq(worked),
        ]
    )


def _ms(seconds: float, events: int) -> str:
    return f"{1e6 * seconds / events:.0f} ms"


def _python(found: dict[str, Any]) -> list[str]:
    total, files = found["total"] or 1, defaultdict[str, int](int)
    for name, count in found["ours"]:
        files[name.split(" ")[0] if "/" in name else name] += count
    return [
        "**Python**, by the file of ours that was at work or had a library work for it:",
        "",
        *_table(("file", "share"), [(f"`{n}`" if "/" in n else n, c / total) for n, c in _top(files.items())]),
        "by the function of ours:",
        "",
        *_table(("function", "share"), [(f"`{n}`" if "/" in n else n, c / total) for n, c in found["ours"][:TOP]]),
        "and by whatever function it was:",
        "",
        *_table(("function", "share"), [(f"`{n}`", c / total) for n, c in _top(found["inner"])]),
    ]


def _postgres(statements: Sequence[Any], events: int) -> list[str]:
    lines = []
    for row in statements[:TOP]:
        text = " ".join(str(row["query"]).split())
        inside = "" if row["toplevel"] else "… "
        lines.append(
            (f"{inside}`{text[:90].replace('|', '/')}`", f"{1000 * row['ms'] / events:.1f}", f"{row['calls']:,}")
        )
    return [
        "**PostgreSQL**, by statement (… inside a function, and contained in it), microseconds an event:",
        "",
        "| statement | µs an event | calls |",
        "|---|---|---|",
        *(f"| {statement} | {time} | {calls} |" for statement, time, calls in lines),
        "",
    ]


def _rabbitmq(worked: Counter[str]) -> list[str]:
    total = sum(worked.values()) or 1
    return [
        "**RabbitMQ**, by process, in reductions (Erlang's measure of work):",
        "",
        *_table(("process", "share"), [(f"`{name}`", count / total) for name, count in worked.most_common(TOP)]),
    ]


def _top(counts: Any) -> list[tuple[str, int]]:
    return sorted(counts, key=lambda pair: -pair[1])[:TOP]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, float]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---|---|", *(f"| {name} | {share:.0%} |" for name, share in rows), ""]


async def _reductions(ground: Ground) -> Counter[str]:
    said = await ground.rabbit.ctl("eval", REDUCTIONS)
    return Counter({name: int(count) for name, count in _PAIR.findall(said)})
