"""Looking for damage in a PostgreSQL database with its own extension amcheck: what there is to look at, what was found.

Only questions; nothing is locked beyond reading, nothing is mended.
"""

from collections.abc import Sequence

import asyncpg

from service.errors import Permanent
from service.ports import Looked

EXTENSION = """
select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
where e.extname = 'amcheck'
"""
GRANTS = """
select p.oid::regprocedure::text
from pg_extension e
join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.classid = 'pg_proc'::regclass
join pg_proc p on p.oid = d.objid
where e.extname = 'amcheck' and p.proname in ('bt_index_check', 'verify_heapam') and p.pronargs in (2, 6)
  and not has_function_privilege(p.oid, 'execute')
order by 1
"""
"""Those of the two functions that our role may not call."""

RELATIONS = """
select c.oid, c.oid::regclass::text as name, c.relkind <> 'i' as heap
from pg_class c
join pg_am a on a.oid = c.relam
left join pg_index i on i.indexrelid = c.oid
left join pg_class m on m.reltoastrelid = coalesce(i.indrelid, c.oid)
where (c.relpersistence = 'p' or c.relpersistence = 'u' and not pg_is_in_recovery())
  and (a.amname = 'heap' and c.relkind in ('r', 'm', 't')
       or a.amname = 'btree' and c.relkind = 'i' and i.indisready and i.indisvalid)
  and ($1::oid[] = '{}' or coalesce(i.indrelid, c.oid) = any($1) or m.oid = any($1))
order by c.relkind = 'i', c.oid
"""
"""Heaps (tables, materialised views, TOAST) and usable B-trees: of the whole database with its catalogs, or of some
tables. Temporary ones belong to sessions that others cannot look into."""

HEAP = "select blkno, offnum, msg from {schema}.verify_heapam($1::oid::regclass, check_toast => true) limit {most}"
INDEX = "select {schema}.bt_index_check($1::oid::regclass, true)"
"""Order, links and levels of the tree, and that every row of the table stands in it."""

MOST = 5
"""Findings that are kept of one relation: the first ones say what is broken, a thousand say no more."""
DAMAGED = ("XX001", "XX002", "58P01", "58030")
"""SQLSTATEs that are findings: data or index corrupted (also: checksum wrong), a file that is gone or unreadable."""


async def look(connection: "asyncpg.Connection", tables: Sequence[str]) -> Looked:
    """Every page and every tree, read. Raises Permanent when amcheck is not there or not for us, and asyncpg's own."""
    schema = await connection.fetchval(EXTENSION)
    if schema is None:
        raise Permanent("it needs the extension amcheck there; have its superuser run: create extension amcheck")
    if missing := [row[0] for row in await connection.fetch(GRANTS)]:
        role = await connection.fetchval("select quote_ident(current_user)")
        grant = f"grant execute on function {', '.join(missing)} to {role}"
        raise Permanent(f"the role {role} may not use amcheck there; have its superuser run: {grant}")
    oids = [await _table(connection, table) for table in tables]
    heaps = trees = 0
    damage: list[str] = []
    for oid, name, heap in await connection.fetch(RELATIONS, oids):
        found = await (_heap if heap else _index)(connection, schema, oid)
        if found is None:
            continue
        heaps, trees = heaps + heap, trees + (not heap)
        damage += [f"{'table' if heap else 'index'} {name}: {what}" for what in found]
    return Looked(heaps, trees, tuple(damage))


async def _table(connection: "asyncpg.Connection", name: str) -> int:
    found = await connection.fetchval("select to_regclass($1)::oid", name)
    if found is None:
        raise Permanent(f"there is no table {name} there")
    return int(found)


async def _heap(connection: "asyncpg.Connection", schema: str, oid: int) -> list[str] | None:
    try:
        rows = await connection.fetch(HEAP.format(schema=schema, most=MOST), oid)
    except asyncpg.PostgresError as error:
        return await _said(connection, oid, error)
    return [f"block {row['blkno']}, row {row['offnum']}: {row['msg']}" for row in rows]


async def _index(connection: "asyncpg.Connection", schema: str, oid: int) -> list[str] | None:
    try:
        await connection.fetchval(INDEX.format(schema=schema), oid)
    except asyncpg.PostgresError as error:
        return await _said(connection, oid, error)
    return []


async def _said(connection: "asyncpg.Connection", oid: int, error: asyncpg.PostgresError) -> list[str] | None:
    """A finding; None when the relation was dropped meanwhile. Raises what is neither."""
    if error.sqlstate in DAMAGED:
        return [str(error.args[0])]  # the first line; what follows is where it stands in memory
    if await connection.fetchval("select 1 from pg_class where oid = $1", oid) is None:
        return None
    raise error
