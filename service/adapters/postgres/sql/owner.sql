-- acquire_shard --
-- Takes a shard's lease with a new token, unless another owner's lease still lasts or shards are counted anew.
INSERT INTO relight.shards AS s (shard, owner, token, until, timeline)
SELECT $1, $2, relight.next_token(), clock_timestamp() + $3::interval, relight.timeline()
FROM relight.settings WHERE coalesce(shards, $4) = $4
ON CONFLICT (shard) DO UPDATE
    SET owner = excluded.owner, token = excluded.token, until = clock_timestamp() + $3::interval,
        timeline = excluded.timeline
    WHERE s.until <= clock_timestamp() OR s.owner = excluded.owner
RETURNING token, compared_at, compared IS NOT NULL AS compared;

-- renew_shard --
-- Prolongs a lease that still lasts; no row when it was lost.
UPDATE relight.shards SET until = clock_timestamp() + $3::interval,
    compared_at = CASE WHEN compared = token THEN clock_timestamp() ELSE compared_at END
WHERE shard = $1 AND token = $2 AND until > clock_timestamp()
    AND (timeline IS NULL OR timeline = relight.timeline())
RETURNING token;

-- release_shard --
-- Ends a lease now; one that was lost stays as it is.
UPDATE relight.shards SET until = clock_timestamp(),
    compared_at = CASE WHEN compared = token THEN clock_timestamp() ELSE compared_at END
WHERE shard = $1 AND token = $2 AND until > clock_timestamp()
    AND (timeline IS NULL OR timeline = relight.timeline());

-- missing --
-- Of these publications the places (from 1) of those that no log row stands for; lost ones of earlier epochs aside.
SELECT k.place FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[])
    WITH ORDINALITY AS k(system, instance, epoch, seq, at, source, event_id, place)
WHERE NOT EXISTS (
        SELECT FROM relight.log l WHERE l.instance = k.instance AND l.seq = k.seq AND l.at = k.at AND l.epoch = k.epoch
            AND l.source = k.source AND l.event_id = k.event_id
    )
    AND NOT EXISTS (SELECT FROM relight.losses o WHERE o.system = k.system AND o.epoch > k.epoch)
ORDER BY k.place;

-- clear --
-- Lets steps of a shard's systems be claimed, and says how far its log is known to be whole; no row without the lease.
UPDATE relight.shards SET cleared = token, systems = $3, compared = CASE WHEN $4 THEN token END,
    compared_at = CASE WHEN $4 THEN clock_timestamp() ELSE compared_at END
WHERE shard = $1 AND token = $2 AND until > clock_timestamp()
    AND (timeline IS NULL OR timeline = relight.timeline())
RETURNING token, pg_notify('relight_steps', '');

-- lose --
-- This database lacks what it had published: see the function.
SELECT relight.lose($1, $2, $3, $4, $5, $6, $7);

-- pending --
-- The oldest signals and the due timers of a shard.
SELECT
    ARRAY(SELECT s FROM relight.signals s WHERE s.shard = $1 ORDER BY s.id LIMIT $3) AS signals,
    ARRAY(SELECT t FROM relight.timers t WHERE t.shard = $1 AND t.due_at <= $2 ORDER BY t.due_at LIMIT $3) AS timers;

-- next_timer --
-- When the earliest timer of a shard is due.
SELECT due_at FROM relight.timers WHERE shard = $1 ORDER BY due_at LIMIT 1;

-- prepare --
-- What is known of some events, instances and systems: the LIMIT 1 keeps each look-up an index probe of its own.
SELECT
    ARRAY(
        SELECT i FROM unnest($1::text[], $2::text[]) AS k(source, id)
        CROSS JOIN LATERAL (SELECT x FROM relight.inbox x WHERE x.source = k.source AND x.id = k.id LIMIT 1) AS l(i)
    ) AS known,
    ARRAY(
        SELECT i FROM unnest($3::text[]) AS k(instance)
        CROSS JOIN LATERAL (SELECT x FROM relight.instances x WHERE x.instance = k.instance LIMIT 1) AS l(i)
    ) AS instances,
    ARRAY(
        SELECT s FROM unnest($3::text[]) AS k(instance)
        CROSS JOIN LATERAL (SELECT x.entry FROM relight.instances x WHERE x.instance = k.instance LIMIT 1) AS l
        JOIN relight.steps s ON s.instance = k.instance AND s.entry = l.entry
    ) AS steps,
    ARRAY(SELECT r FROM relight.live_runs r WHERE r.system = ANY ($4::text[])) AS live_runs,
    ARRAY(
        SELECT jsonb_build_object('system', k.system, 'waiting', count(h.id) FILTER (WHERE h.expires_at > $6),
            'overdue', count(h.id) FILTER (WHERE h.expires_at <= $6),
            'expiring', min(h.expires_at) FILTER (WHERE h.expires_at > $6),
            'held', (SELECT g.held FROM relight.gates g WHERE g.system = k.system))::text
        FROM unnest($5::text[]) AS k(system) LEFT JOIN relight.held h ON h.system = k.system
        GROUP BY k.system
    ) AS gates,
    ARRAY(
        SELECT h FROM unnest($5::text[]) AS k(system)
        CROSS JOIN LATERAL (
            SELECT x FROM relight.held x WHERE x.system = k.system AND x.expires_at <= $6::timestamptz
            ORDER BY x.expires_at, x.id LIMIT $7
        ) AS l(h)
    ) AS overdue;

-- commit --
-- Writes one micro-batch: see the function.
SELECT relight.commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- count_attempt --
-- One more attempt at an event that is tried alone; no row when the lease was lost.
WITH held AS (
    SELECT 1 FROM relight.shards s WHERE s.shard = $1 AND s.token = $2 AND s.until > clock_timestamp() FOR SHARE
)
INSERT INTO relight.attempts AS a (source, id, attempts) SELECT $3, $4, 1 FROM held
ON CONFLICT (source, id) DO UPDATE SET attempts = a.attempts + 1, last_at = clock_timestamp()
RETURNING attempts;

-- unsent --
-- The oldest outbox rows of a shard.
SELECT id, exchange, routing_key, message_id, body FROM relight.outbox WHERE shard = $1 ORDER BY id LIMIT $2;

-- undeliverable --
-- Puts a row that the status exchange refused aside; no row when the lease was lost.
WITH held AS (
    SELECT 1 FROM relight.shards s WHERE s.shard = $1 AND s.token = $2 AND s.until > clock_timestamp() FOR SHARE
), gone AS (
    DELETE FROM relight.outbox o USING held WHERE o.shard = $1 AND o.id = $3
    RETURNING o.id, o.shard, o.exchange, o.routing_key, o.message_id, o.body
), kept AS (
    INSERT INTO relight.undelivered (id, shard, exchange, routing_key, message_id, body, reason)
    SELECT g.id, g.shard, g.exchange, g.routing_key, g.message_id, g.body, $4 FROM gone g
)
SELECT 1 FROM held;

-- signal --
-- Appends signals and wakes the owners of their shards.
WITH new AS (
    INSERT INTO relight.signals (shard, system, body, "user", local)
    SELECT n.shard, n.system, n.body, n."user", n.local
    FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::boolean[])
        WITH ORDINALITY AS n(shard, system, body, "user", local, place)
    ORDER BY n.place
    RETURNING shard
)
SELECT pg_notify('relight_signals', n.shard::text) FROM (SELECT DISTINCT shard FROM new) n;

-- keep_configurations --
-- Remembers configurations; known ones stay as they are.
INSERT INTO relight.configurations (hash, system, text)
SELECT n.hash, n.system, n.text FROM unnest($1::text[], $2::text[], $3::text[]) AS n(hash, system, text)
ON CONFLICT (hash) DO NOTHING;

-- configurations_in_use --
-- Every configuration that an instance stands on; the text is empty when it is missing.
SELECT u.config_hash AS hash, coalesce(c.text, '') AS text
FROM (SELECT DISTINCT config_hash FROM relight.instances) u
LEFT JOIN relight.configurations c ON c.hash = u.config_hash;

-- machines_in_use --
-- How many instances stand on each version of each machine.
SELECT machine, machine_version, count(*) AS instances FROM relight.instances GROUP BY machine, machine_version;
