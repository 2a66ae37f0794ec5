-- What a person did about a dead letter or an undelivered notification: kept with the row, which stays.

ALTER TABLE relight.dead_letters
    ADD COLUMN settled text CHECK (settled IN ('replayed', 'dropped')),
    ADD COLUMN settled_by text,
    ADD COLUMN settled_why text,
    ADD COLUMN settled_at timestamptz;
ALTER TABLE relight.undelivered
    ADD COLUMN settled text CHECK (settled IN ('replayed', 'dropped')),
    ADD COLUMN settled_by text,
    ADD COLUMN settled_why text,
    ADD COLUMN settled_at timestamptz;
