-- prune_inbox --
-- Forgets events older than a moment, a bounded number at a time.
WITH old AS (
    SELECT i.source, i.id FROM relight.inbox i WHERE i.received_at < $1 LIMIT $2
)
DELETE FROM relight.inbox i USING old o WHERE i.source = o.source AND i.id = o.id
RETURNING 1;

-- prune_attempts --
-- Forgets attempts older than a moment.
DELETE FROM relight.attempts WHERE last_at < $1;

-- prune_observations --
-- Forgets minutes older than a moment.
DELETE FROM relight.observations WHERE minute < $1;

-- prune_dead --
-- Forgets dead letters that a person settled before a moment.
DELETE FROM relight.dead_letters WHERE settled_at < $1;

-- prune_undelivered --
-- Forgets undelivered notifications that a person settled before a moment.
DELETE FROM relight.undelivered WHERE settled_at < $1;

-- make_log_partitions --
-- Creates the log's partitions of a month and of the coming ones; one at a time, and not beside a migration.
WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(32199663644272756))
SELECT relight.make_log_partitions($1, $2) FROM locked;

-- applied_migrations --
-- Which migrations the database has.
SELECT name, hash FROM relight.migrations ORDER BY name;

-- has_migrations --
-- Whether the database was ever migrated.
SELECT to_regclass('relight.migrations') IS NOT NULL;

-- record_migration --
-- Remembers a migration that was applied.
INSERT INTO relight.migrations (name, hash) VALUES ($1, $2);

-- migration_lock --
-- Only one changes tables at a time; the number is the word relight in ASCII.
SELECT pg_advisory_lock(32199663644272756);

-- shards --
-- How many shards the rows were written for.
SELECT shards FROM relight.settings;

-- leases --
-- How many leases last.
SELECT count(*) FROM relight.shards WHERE until > clock_timestamp();

-- hold_leases --
-- Keeps leases as they are until the transaction ends.
LOCK TABLE relight.shards IN EXCLUSIVE MODE;

-- systems_waiting --
-- Every system that something waits for: a signal, a timer, a notification.
SELECT system FROM relight.signals
UNION SELECT split_part(instance, '/', 2) FROM relight.timers
UNION SELECT split_part(routing_key, '.', 1) FROM relight.outbox;

-- move_signals --
-- Gives a system's signals to another shard.
UPDATE relight.signals SET shard = $2 WHERE system = $1 AND shard <> $2;

-- move_timers --
-- Gives a system's timers to another shard.
UPDATE relight.timers SET shard = $2 WHERE split_part(instance, '/', 2) = $1 AND shard <> $2;

-- move_outbox --
-- Gives a system's notifications to another shard.
UPDATE relight.outbox SET shard = $2 WHERE split_part(routing_key, '.', 1) = $1 AND shard <> $2;

-- forget_systems --
-- Which systems a shard has is counted anew: its next owner says.
UPDATE relight.shards SET systems = '{}';

-- set_shards --
-- Remembers how many shards the rows are written for.
UPDATE relight.settings SET shards = $1;
