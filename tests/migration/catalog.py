"""What a schema consists of, as lines that can be compared. Names and definitions, no data."""

from typing import Any

CATALOG = r"""
SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || ' ' || a.attidentity::text || a.attgenerated::text
        || coalesce(' collate ' || o.collname, '') || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
        || ' #' || a.attnum
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_collation o ON o.oid = a.attcollation
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'relight'::regnamespace AND a.attnum > 0
UNION ALL
SELECT 'relation ' || c.relname || ' ' || c.relkind::text || ' ' || coalesce(array_to_string(c.reloptions, ','), '')
        || ' ' || coalesce(pg_get_partkeydef(c.oid), '') || ' ' || coalesce(pg_get_expr(c.relpartbound, c.oid), '')
    FROM pg_class c WHERE c.relnamespace = 'relight'::regnamespace
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'relight'::regnamespace
UNION ALL
SELECT 'constraint ' || n.conrelid::regclass::text || ' ' || n.conname || ' ' || pg_get_constraintdef(n.oid)
    FROM pg_constraint n WHERE n.connamespace = 'relight'::regnamespace
UNION ALL
SELECT 'function ' || pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'relight'::regnamespace
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'relight'::regnamespace
UNION ALL
SELECT 'sequence '
        || row(s.sequencename, s.data_type, s.start_value, s.min_value, s.max_value, s.increment_by, s.cycle)::text
    FROM pg_sequences s WHERE s.schemaname = 'relight'
UNION ALL
SELECT 'settings ' || epoch || ' ' || coalesce(shards::text, 'none') FROM relight.settings
"""


async def catalog(connection: Any) -> list[str]:
    """Everything in the schema `relight`, sorted."""
    return sorted(row[0] for row in await connection.fetch(CATALOG))
