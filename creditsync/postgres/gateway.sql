-- What a gateway keeps on PostgreSQL beside the tables of 001.sql. It makes these at its
-- first start; a database that has them is a gateway's for ever.

-- Servers that book themselves are shut out, and have booked nothing.
DO $$
BEGIN
    UPDATE node SET incarnation = incarnation + 1, owner = '';
    IF EXISTS (SELECT FROM event) THEN
        RAISE EXCEPTION 'servers book here' USING ERRCODE = 'CS003';
    END IF;
END
$$;

-- One row for each operation that was, or may have been, sent to the platform. It is
-- durable before the first byte is sent, and never deleted. docs/gateway.rst, "What
-- becomes of an operation", has the states.
CREATE TABLE intent (
    number           bigint PRIMARY KEY,
    state            text NOT NULL CHECK (state IN (
        'sent', 'pending', 'accepted', 'unseen', 'held', 'booked', 'refused', 'absent'
    )),
    -- of the trade event: 0 add, 1 update, 2 delete
    type             smallint NOT NULL CHECK (type BETWEEN 0 AND 2),
    -- of the platform; 0 while it is not known
    "order"          bigint NOT NULL,
    -- what identifies it there while its order is not known
    login            bigint NOT NULL,
    cmd              smallint NOT NULL,
    -- signed, in 10⁻⁸ units
    amount           bigint NOT NULL,
    comment          text NOT NULL,
    -- as sent
    open_time        bigint,
    close_time       bigint,
    -- as requested, and by whom
    command          text NOT NULL,
    principal        bigint NOT NULL,
    role             smallint,
    key              text,
    asked_order      bigint NOT NULL,
    asked_open_time  bigint,
    asked_close_time bigint,
    -- 1 if it was sent as itself; otherwise one more than its finance requests
    attempts         integer NOT NULL,
    -- look-ups that have not found it since it was sent
    looks            integer NOT NULL,
    -- when it was sent last
    sent_at          bigint NOT NULL,
    -- what led to the state, for people
    why              text NOT NULL,
    -- the person who has decided, if one has
    decided_by       text NOT NULL,
    -- of its record in the journal, if it is booked
    place            bigint,
    -- the batch that has written it last
    batch            bigint NOT NULL
);
CREATE UNIQUE INDEX intent_key ON intent (principal, key)
WHERE key IS NOT NULL AND state NOT IN ('refused', 'absent');
CREATE INDEX intent_open ON intent (state)
WHERE state IN ('sent', 'pending', 'accepted', 'unseen', 'held');
CREATE INDEX intent_batch ON intent (batch);

-- One row: the platform's greatest update_time up to which the journal has all changes.
CREATE TABLE caught_up (
    id          integer PRIMARY KEY,
    update_time bigint NOT NULL
);
INSERT INTO caught_up VALUES (1, 0);

-- What people should know, in the order in which it became known.
CREATE TABLE alarm (
    number    bigint PRIMARY KEY,
    timestamp bigint NOT NULL,
    text      text NOT NULL,
    -- the batch that has written it
    batch     bigint NOT NULL
);
CREATE INDEX alarm_batch ON alarm (batch);

-- The totals are the sums of what the journal has, which begins somewhere: they may be
-- below zero.
ALTER TABLE opened
    DROP CONSTRAINT opened_balance_check, DROP CONSTRAINT opened_credit_check;
ALTER TABLE event DROP CONSTRAINT event_check;

-- Make one batch of the gateway durable: one statement, one transaction. The platform has
-- booked what is appended to the journal, so nothing is judged here. The order of locks is
-- that of book.sql.
--
-- Returns the hash of the batch, or NULL if it appends nothing.
CREATE FUNCTION record_1(
    this_stream      integer,
    this_node        integer,
    this_incarnation bigint,
    this_batch       bigint,
    -- the last place before it
    base             bigint,
    -- arrays of objects, whose members are the columns
    new_events       json,
    new_intents      json,
    new_alarms       json,
    new_mark         bigint
) RETURNS bytea LANGUAGE plpgsql
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    last_place bigint;
    last_order bigint;
    former     bytea;
    lines      text;
    new_hash   bytea;
BEGIN
    PERFORM durable_1();
    -- Whoever has raised the incarnation since has shut this gateway out. Until the commit
    -- nobody can raise it.
    PERFORM FROM node WHERE id = this_node AND incarnation = this_incarnation FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another process sends for this ledger' USING ERRCODE = 'CS001';
    END IF;

    INSERT INTO intent
    SELECT * FROM json_populate_recordset(NULL::intent, new_intents)
    ON CONFLICT (number) DO UPDATE SET
        state = excluded.state, "order" = excluded."order",
        attempts = excluded.attempts, looks = excluded.looks,
        sent_at = excluded.sent_at, why = excluded.why,
        decided_by = excluded.decided_by, place = excluded.place,
        batch = excluded.batch;
    INSERT INTO alarm
    SELECT coalesce((SELECT max(number) FROM alarm), 0) + each.at,
           (each.value ->> 0)::bigint, each.value ->> 1, this_batch
    FROM json_array_elements(new_alarms) WITH ORDINALITY AS each (value, at);
    UPDATE caught_up SET update_time = new_mark
    WHERE id = 1 AND update_time <> new_mark;

    IF json_array_length(new_events) = 0 THEN
        RETURN NULL;
    END IF;

    INSERT INTO opened (login)
    SELECT DISTINCT login FROM json_populate_recordset(NULL::event, new_events)
    ON CONFLICT DO NOTHING;
    PERFORM FROM stream WHERE id = this_stream FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no stream %', this_stream;
    END IF;
    SELECT link.hi, link.hash INTO last_place, former FROM link
    WHERE link.stream = this_stream ORDER BY link.hi DESC LIMIT 1;
    IF coalesce(last_place, 0) <> base THEN
        RAISE EXCEPTION 'the journal ends at place %, not at %', last_place, base;
    END IF;
    former := coalesce(former, decode(repeat('00', 32), 'hex'));

    WITH booked AS (
        INSERT INTO event
        SELECT * FROM json_populate_recordset(NULL::event, new_events)
        RETURNING *
    )
    -- As docs/ledger.rst has it: a JSON array on a line of its own for each row.
    SELECT string_agg(
        '[' || concat_ws(
            ',', seq, type, "order", login, cmd, state, profit, to_json(comment),
            open_time, close_time, timestamp, balance, credit, principal,
            coalesce(role::text, 'null'), to_json(command), asked_order,
            coalesce(to_json(key)::text, 'null'),
            coalesce(asked_open_time::text, 'null'),
            coalesce(asked_close_time::text, 'null')
        ) || E']\n', '' ORDER BY seq
    ), max(seq), max("order")
    INTO lines, last_place, last_order FROM booked;
    new_hash := sha256(former || convert_to(lines, 'UTF8'));
    INSERT INTO link (stream, lo, hi, node, batch, hash) VALUES (
        this_stream, base + 1, last_place, this_node, this_batch, new_hash
    );

    -- The last change of each order, with its place.
    INSERT INTO trade
    SELECT DISTINCT ON ("order")
        "order", login, cmd, state, profit, comment, open_time, close_time, timestamp,
        count(*) OVER (PARTITION BY "order") - 1, seq
    FROM json_populate_recordset(NULL::event, new_events) ORDER BY "order", seq DESC
    ON CONFLICT ("order") DO UPDATE SET
        state = excluded.state, profit = excluded.profit, comment = excluded.comment,
        open_time = excluded.open_time, close_time = excluded.close_time,
        timestamp = excluded.timestamp, seq = excluded.seq,
        revision = trade.revision + excluded.revision + 1;
    INSERT INTO keyed (principal, key, stream, seq)
    SELECT principal, key, this_stream, seq
    FROM json_populate_recordset(NULL::event, new_events) WHERE key IS NOT NULL;
    -- Above all orders of the platform, by so much that it is seldom to be raised.
    UPDATE block SET next = (last_order / 64 + 1563) * 64
    WHERE id = 1 AND next <= last_order;
    RETURN new_hash;
END
$$;
