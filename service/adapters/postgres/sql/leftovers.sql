-- dead --
-- Dead letters, newest first: those nobody has settled yet, or all; or one by its id.
SELECT * FROM relight.dead_letters
WHERE ($2 OR settled IS NULL) AND ($3::bigint IS NULL OR id = $3)
ORDER BY id DESC LIMIT $1;

-- undelivered --
-- Undelivered notifications, newest first: those nobody has settled yet, or all; or one by its id.
SELECT * FROM relight.undelivered
WHERE ($2 OR settled IS NULL) AND ($3::bigint IS NULL OR id = $3)
ORDER BY id DESC LIMIT $1;

-- settle_dead --
-- Notes what a person did about a dead letter; no row when it was settled before.
UPDATE relight.dead_letters SET settled = $2, settled_by = $3, settled_why = $4, settled_at = clock_timestamp()
WHERE id = $1 AND settled IS NULL
RETURNING 1;

-- settle_undelivered --
-- Notes what a person did about an undelivered notification; no row when it was settled before.
UPDATE relight.undelivered SET settled = $2, settled_by = $3, settled_why = $4, settled_at = clock_timestamp()
WHERE id = $1 AND settled IS NULL
RETURNING 1;

-- outcomes --
-- What became of an event, by instance.
SELECT outcomes FROM relight.inbox WHERE source = $1 AND id = $2;
