-- Nobody calls it any more: batches come as rows.

DROP FUNCTION relight.commit(
    int, bigint, timestamptz, text[], text[], bytea[], text[], text[], bigint[], bigint[], text[], timestamptz[],
    text[], text[], text[], text[], text[], text[], text[], text[], int[], text[], text[], text[], text[], text[],
    text[], text[], int[], text[], bigint[], bigint[], text[], bigint[], timestamptz[], timestamptz[], timestamptz[],
    text[], text[], bigint[], text[], text[], text[], text[], bigint[], bigint[], text[], timestamptz[], bigint[],
    double precision[], jsonb
);
