-- instances --
-- All instances, or those of one system.
SELECT * FROM relight.instances WHERE $1::text IS NULL OR system = $1 ORDER BY instance;

-- current_steps --
-- The steps of the current state entries of all instances, or of those of one system.
SELECT s.* FROM relight.instances i
JOIN relight.steps s ON s.instance = i.instance AND s.entry = i.entry
WHERE $1::text IS NULL OR i.system = $1
ORDER BY s.instance, s.position, s.name;

-- current_timers --
-- The due times of the current state entries of all instances, or of those of one system.
SELECT t.instance, t.entry, t.kind, t.due_at FROM relight.instances i
JOIN relight.timers t ON t.instance = i.instance AND t.entry = i.entry
WHERE $1::text IS NULL OR i.system = $1
ORDER BY t.instance, t.due_at;

-- history --
-- The log of one instance after a seq.
SELECT * FROM relight.log WHERE instance = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- steps --
-- The steps of one instance from a state entry on.
SELECT * FROM relight.steps WHERE instance = $1 AND entry >= $2 ORDER BY entry, position, name;

-- dead_letters --
-- The newest dead letters, newest first.
SELECT * FROM relight.dead_letters ORDER BY id DESC LIMIT $1;

-- gates --
-- The gates that hold something.
SELECT system, count(*) AS waiting, min(held_at) AS since, min(expires_at) AS expiring FROM relight.held
WHERE $1::text IS NULL OR system = $1
GROUP BY system ORDER BY system;

-- counts --
-- How many rows wait, by what they wait for.
SELECT 'signals' AS what, count(*) AS rows FROM relight.signals
UNION ALL SELECT 'outbox', count(*) FROM relight.outbox
UNION ALL SELECT 'undelivered', count(*) FROM relight.undelivered WHERE settled IS NULL
UNION ALL SELECT 'dead', count(*) FROM relight.dead_letters WHERE settled IS NULL
UNION ALL SELECT 'timers', count(*) FROM relight.timers
UNION ALL SELECT 'held', count(*) FROM relight.held
UNION ALL SELECT 'steps_' || s.status, count(*) FROM relight.steps s
    WHERE s.status IN ('planned', 'ready', 'running', 'waiting', 'unknown') GROUP BY s.status;
