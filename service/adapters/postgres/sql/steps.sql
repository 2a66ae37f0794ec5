-- claim --
-- Steps that are ready, or running under a lease that ended; those that another worker claims right now are passed over.
-- So are those of an instance that has a step which was cancelled or waived and whose worker is still at it, and those of
-- a system whose shard's owner has not looked yet whether the database has lost anything.
WITH free AS (
    SELECT s.instance, s.entry, s.name, s.status AS old_status, s.answer AS old_answer
    FROM relight.steps s
    WHERE s.place = ANY ($2::text[])
        AND s.status IN ('ready', 'running')
        AND (
            (s.status = 'ready' AND (s.ready_at IS NULL OR s.ready_at <= $3))
            OR (s.status = 'running' AND s.lease_until <= clock_timestamp())
        )
        AND NOT EXISTS (
            SELECT FROM relight.steps held
            WHERE held.instance = s.instance AND held.entry <= s.entry
                AND held.status IN ('cancelled', 'waived') AND held.worker IS NOT NULL
                AND held.lease_until > clock_timestamp()
        )
        AND NOT EXISTS (
            SELECT FROM relight.shards h
            WHERE s.system = ANY (h.systems) AND (h.cleared IS DISTINCT FROM h.token OR h.until <= clock_timestamp()
                OR h.timeline <> relight.timeline())
        )
    ORDER BY s.ready_at NULLS FIRST, s.instance, s.position, s.name
    LIMIT $5
    FOR UPDATE SKIP LOCKED
)
UPDATE relight.steps s SET
    status = 'running',
    token = relight.next_token(),
    worker = $1,
    lease_until = clock_timestamp() + $4::interval,
    -- An interrupted attempt goes on, and an answer belongs to the attempt that asked: neither begins anew.
    attempt = CASE WHEN f.old_status = 'running' OR f.old_answer IS NOT NULL
        THEN greatest(s.attempt, 1) ELSE s.attempt + 1 END,
    -- What went wrong before stays to be read while it is tried again.
    error = CASE WHEN f.old_status = 'running' THEN 'interrupted' ELSE nullif(s.error, 'interrupted') END
FROM free f
WHERE s.instance = f.instance AND s.entry = f.entry AND s.name = f.name
RETURNING s.*;

-- renew_claim --
-- Prolongs a claim; no row when it was lost.
UPDATE relight.steps SET lease_until = clock_timestamp() + $5::interval
WHERE instance = $1 AND entry = $2 AND name = $3 AND token = $4 AND status = 'running'
RETURNING token;

-- taken --
-- Of these claims the tokens of those whose steps were cancelled or waived meanwhile.
SELECT s.token FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS c(instance, entry, name, token)
JOIN relight.steps s ON s.instance = c.instance AND s.entry = c.entry AND s.name = c.name AND s.token = c.token
WHERE s.status IN ('cancelled', 'waived');

-- let_go --
-- Ends the claim of a step that was cancelled or waived, and tells those who waited for that.
WITH gone AS (
    UPDATE relight.steps SET worker = NULL, lease_until = NULL
    WHERE instance = $1 AND entry = $2 AND name = $3 AND token = $4
        AND status IN ('cancelled', 'waived') AND worker IS NOT NULL
    RETURNING token
)
SELECT pg_notify('relight_steps', '') FROM gone;

-- finish --
-- Records what became of a claim, together with the signal that says so; no row when the claim was lost.
WITH mine AS (
    UPDATE relight.steps SET
        status = $5, result = $6, error = $7, ready_at = $8, worker = NULL, lease_until = NULL,
        -- The next attempt asks again.
        answer = CASE WHEN $5 = 'ready' THEN NULL ELSE answer END
    WHERE instance = $1 AND entry = $2 AND name = $3 AND token = $4 AND status = 'running'
    RETURNING status
), new AS (
    INSERT INTO relight.signals (shard, system, body, "user", local)
    SELECT $9, $10, $11, $12, $13 FROM mine
    RETURNING shard
)
SELECT pg_notify('relight_signals', n.shard::text),
    CASE WHEN m.status = 'ready' THEN pg_notify('relight_steps', '') END
FROM new n CROSS JOIN mine m;

-- wait --
-- Gives a claim up until an answer comes: see the function.
SELECT relight.wait_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- context --
-- An instance and the steps of one of its state entries.
SELECT
    (SELECT i FROM relight.instances i WHERE i.instance = $1) AS instance,
    ARRAY(SELECT s FROM relight.steps s WHERE s.instance = $1 AND s.entry = $2 ORDER BY s.position, s.name) AS steps;
