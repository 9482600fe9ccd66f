-- Have the commit of this transaction wait for the disk, and for a standby if one is
-- configured. What a session has set is not enough: behind a connection pooler each
-- transaction may be in another session, whose role may have it off. It can't be a SET
-- clause of a function either, which would end before the commit. What waits for more, or
-- for the standby's memory only (remote_write), is the administrator's choice.
CREATE FUNCTION durable_1() RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('synchronous_commit', true) IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END
$$;

-- Whether an operation meets the conditions of a rule.
CREATE FUNCTION binds_1(
    rule         rule,
    principal    bigint,
    role         smallint,
    login        bigint,
    cmd          smallint,
    is_deletion  boolean,
    of_group     text
) RETURNS boolean LANGUAGE plpgsql STABLE
AS $$
-- Without a query, which would take ten times as long.
BEGIN
    IF (
        (rule.roles IS NULL OR role = ANY (rule.roles))
        AND (rule.principals IS NULL OR principal = ANY (rule.principals))
        AND (rule.logins IS NULL OR login = ANY (rule.logins))
        AND (rule.booked IS NULL OR (
            CASE WHEN is_deletion THEN rule.deleted ELSE rule.booked END >> cmd
        ) & 1 = 1)
    ) IS NOT TRUE THEN
        RETURN false;
    END IF;
    IF rule.patterns IS NULL THEN
        RETURN true;
    END IF;
    FOR i IN 1 .. cardinality(rule.patterns) LOOP
        IF coalesce(of_group, '') LIKE rule.patterns[i] THEN
            RETURN NOT rule.excludes[i];
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- The key of the sum for which it counts.
CREATE FUNCTION key_1(
    rule rule, principal bigint, login bigint, role smallint
) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE rule.per
        WHEN 'principal' THEN principal
        WHEN 'login' THEN login
        WHEN 'role' THEN coalesce(role, -1)
        ELSE 0
    END
$$;

-- Register the rules of a node, which it does at its start, when they change, and every
-- day: those whose conditions are not in the table yet, with what has counted for them on
-- the present day, and those that are, as of this day. Rules that no node has registered
-- for a week end: of several nodes with different files, none needs to know of the others.
-- While this holds the stream no batch is committed, and one that has begun before a new
-- rule is judged again.
CREATE FUNCTION register_1(
    this_stream    integer,
    this_time      bigint,
    new_ids        text[],
    new_definition json[]
) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    of_day   CONSTANT bigint := this_time / 86400;
    start    bigint;
    updated  bigint[];
    last     bigint;
    new_rule rule;
    n        integer;
BEGIN
    IF NOT EXISTS (
        SELECT FROM unnest(new_ids) AS each (id)
        WHERE each.id NOT IN (SELECT rule.id FROM rule WHERE seen >= of_day)
    ) AND NOT EXISTS (SELECT FROM rule WHERE seen < of_day - 7) THEN
        RETURN;
    END IF;
    PERFORM durable_1();
    PERFORM FROM stream WHERE id = this_stream FOR UPDATE;
    SELECT coalesce(max(rule.number), 0) INTO last FROM rule;
    UPDATE rule SET seen = of_day WHERE rule.id = ANY (new_ids) AND seen < of_day;
    -- Not the last one: its number must not be given to another.
    DELETE FROM rule WHERE seen < of_day - 7 AND rule.number < last;
    -- An hour, as a clock may have been set back by so much.
    SELECT coalesce(max(found.seq), 0) INTO start FROM (
        SELECT event.seq FROM event
        WHERE event.stream = this_stream AND event.timestamp < of_day * 86400 - 3600
        ORDER BY event.seq DESC LIMIT 1
    ) AS found;
    SELECT coalesce(array_agg(DISTINCT event."order"), '{}') INTO updated FROM event
    WHERE event.stream = this_stream AND event.seq > start
        AND event.timestamp / 86400 = of_day AND event.type = 1;
    FOR n IN 1 .. cardinality(new_ids) LOOP
        CONTINUE WHEN EXISTS (SELECT FROM rule WHERE rule.id = new_ids[n]);
        last := last + 1;
        new_rule := json_populate_record(NULL::rule, new_definition[n]);
        new_rule.id := new_ids[n];
        new_rule.number := last;
        new_rule.seen := of_day;
        INSERT INTO rule SELECT new_rule.*;
        CONTINUE WHEN NOT new_rule.counts;
        -- It may have ended today.
        DELETE FROM counted WHERE day = of_day AND counted.rule = new_rule.id;
        INSERT INTO counted (day, rule, key, amount)
        SELECT of_day, new_rule.id,
               key_1(new_rule, each.principal, each.login, each.role),
               sum(CASE each.type WHEN 1
                   THEN greatest(abs(each.profit), abs(each.profit - each.former))
                   ELSE abs(each.profit) END)
        FROM (
            SELECT event.*, changes.former FROM event
            LEFT JOIN (
                -- An updated trade may have been made at any time before.
                SELECT event.seq, lag(event.profit, 1, 0::bigint) OVER (
                    PARTITION BY event."order" ORDER BY event.seq
                ) AS former
                FROM event
                WHERE cardinality(updated) > 0 AND event.stream = this_stream
                    AND event."order" = ANY (updated)
            ) AS changes ON changes.seq = event.seq
            WHERE event.stream = this_stream AND event.seq > start
                AND event.timestamp / 86400 = of_day AND event.state NOT IN (17, 18)
        ) AS each
        LEFT JOIN opened ON opened.login = each.login
        WHERE binds_1(
            new_rule, each.principal, each.role, each.login, each.cmd, each.type = 2,
            opened."group"
        )
        GROUP BY 3;
    END LOOP;
END
$$;

-- Book one batch of a node: one statement, one transaction, one commit.
--
-- The order of all locks, everywhere: node, keys, accounts, sums, stream. Each kind is locked in
-- sorted order, so that two nodes wait for one another and never in a circle.
--
-- What is judged here is judged nowhere else; the words for it are in _booking.py.
CREATE FUNCTION book_1(
    this_stream      integer,
    this_node        integer,
    this_incarnation bigint,
    this_batch       bigint,
    -- the time of booking
    this_time        bigint,
    -- whether an operation needs an account that exists
    known_only       boolean,
    -- whether a principal may approve a finance request of its own
    self_approval    boolean,
    -- the rules of this node: their conditions, which are in the table rule, what they
    -- allow in one operation and on one day, and whether a finance request is a way out
    rule_ids         text[],
    rule_amounts     numeric[],
    rule_days        numeric[],
    rule_requests    boolean[],
    -- each key once, sorted
    key_principals   bigint[],
    keys             text[],
    -- all orders that are named or reserved here, each once
    orders           bigint[],
    -- for each operation, in the order of submission: 0 makes or updates a trade, 1 makes
    -- a finance request, 2 deletes, 3 approves, 4 declines
    kinds            smallint[],
    -- the cmds that a deletion may delete, as bits; NULL for the others
    deletables       bigint[],
    -- what it asks for; NULL where it asks for nothing of that kind
    logins           bigint[],
    cmds             smallint[],
    amounts          bigint[],
    comments         text[],
    asked_orders     bigint[],
    asked_open_times bigint[],
    asked_close_times bigint[],
    -- the number that was reserved for it; NULL if it can only change an order
    fresh_orders     bigint[],
    commands         text[],
    principals       bigint[],
    roles            smallint[],
    -- which of the keys it has, or NULL
    key_numbers      integer[]
) RETURNS TABLE (
    item       integer,
    verdict    text,
    -- what differs, if the key was used for another request
    detail     text,
    seq        bigint,
    type       smallint,
    "order"    bigint,
    login      bigint,
    cmd        smallint,
    state      smallint,
    profit     bigint,
    comment    text,
    open_time  bigint,
    close_time bigint,
    "timestamp" bigint,
    balance    bigint,
    credit     bigint,
    -- the last move of an account to another group
    moves      bigint
) LANGUAGE plpgsql
-- Plans are made once for each connection, maybe while the tables are still empty. Those
-- for the arrays of one call would seem cheaper, and cost a third of a small batch.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    max_total   CONSTANT bigint := 9223372036854775807;
    size        CONSTANT integer := cardinality(asked_orders);
    op          record;
    first       record;
    credit_cmds bigint;
    -- of the keys: the place that was booked before, and the item that is booked now
    key_seqs    bigint[];
    key_items   integer[];
    -- of the accounts, sorted by login
    a           integer;
    a_opened    bigint[];
    a_logins    bigint[];
    a_balances  bigint[];
    a_credits   bigint[];
    a_changed   boolean[];
    -- of the orders, as they are after the operations so far
    t           integer;
    t_logins    bigint[];
    t_cmds      smallint[];
    t_states    smallint[];
    t_profits   bigint[];
    t_comments  text[];
    t_opens     bigint[];
    t_closes    bigint[];
    t_revisions integer[];
    -- whether an operation of this batch makes it
    t_made      boolean[];
    -- the item that changed it last, if that is in this batch
    t_items     integer[];
    -- of the rules: those of this node, in its order, and then the others
    rules       rule[];
    rules_read  bigint;
    of_day      CONSTANT bigint := this_time / 86400;
    sum_ids     text[];
    sum_amounts numeric[];
    -- as they were before, the places that they have, and a day for each
    sum_formers numeric[];
    sum_seqs    bigint[];
    sum_days    bigint[];
    groups      text[];
    moved       bigint;
    broken      integer;
    -- the operation
    refusal     text;
    event_type  smallint;
    maker       bigint;
    of_login    bigint;
    of_cmd      smallint;
    to_state    smallint;
    to_profit   bigint;
    to_comment  text;
    opened      bigint;
    closed      bigint;
    change      bigint;
    total       bigint;
    -- the answers, and which of them are booked: 1, 2, 3 ...
    n           integer := 0;
    r_numbers   integer[] := array_fill(NULL::integer, ARRAY[size]);
    r_verdicts  text[] := array_fill(NULL::text, ARRAY[size]);
    r_details   text[] := array_fill(NULL::text, ARRAY[size]);
    r_seqs      bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_types     smallint[] := array_fill(NULL::smallint, ARRAY[size]);
    r_orders    bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_logins    bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_cmds      smallint[] := array_fill(NULL::smallint, ARRAY[size]);
    r_states    smallint[] := array_fill(NULL::smallint, ARRAY[size]);
    r_profits   bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_comments  text[] := array_fill(NULL::text, ARRAY[size]);
    r_opens     bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_closes    bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_times     bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_balances  bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    r_credits   bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    -- named, but not found
    missing     bigint[] := '{}';
    base        bigint;
    former      bytea;
    lines       text;
BEGIN
    PERFORM durable_1();
    IF current_setting('transaction_isolation', true) <> 'read committed' THEN
        -- Each statement has to see what was committed before its locks were taken.
        RAISE EXCEPTION 'the transactions of this role are not READ COMMITTED: set its'
            ' default_transaction_isolation';
    END IF;

    -- Whoever has raised the incarnation since has shut this node out. Until the commit
    -- nobody can raise it.
    PERFORM FROM node WHERE id = this_node AND incarnation = this_incarnation FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another process books as this node' USING ERRCODE = 'CS001';
    END IF;

    -- This waits for another node that is about to book under one of these keys.
    IF cardinality(keys) > 0 THEN
        INSERT INTO keyed (principal, key, stream)
        SELECT each.principal, each.key, this_stream
        FROM unnest(key_principals, keys) AS each (principal, key)
        ON CONFLICT DO NOTHING;
        SELECT array_agg(keyed.seq ORDER BY each.number)
        INTO key_seqs
        FROM unnest(key_principals, keys) WITH ORDINALITY
                 AS each (principal, key, number)
        JOIN keyed ON keyed.principal = each.principal AND keyed.key = each.key;
        key_items := array_fill(NULL::integer, ARRAY[cardinality(keys)]);
    END IF;

    -- An order keeps its login, so this may be read before the account is locked.
    SELECT array_agg(each.login ORDER BY each.login)
    INTO a_logins
    FROM (
        SELECT unnest(logins) AS login
        UNION
        SELECT trade.login FROM trade
        WHERE "order" = ANY (orders)
            AND "order" IN (
                SELECT changed.asked FROM unnest(asked_orders, kinds)
                    AS changed (asked, kind)
                WHERE changed.kind >= 2
            )
    ) AS each
    WHERE each.login IS NOT NULL;
    IF known_only THEN
        PERFORM FROM opened WHERE opened.login = ANY (a_logins)
        ORDER BY opened.login FOR UPDATE;
    ELSE
        -- Locks those that exist, too: for that the condition need not be true.
        WITH inserted AS (
            INSERT INTO opened (login)
            SELECT unnest(a_logins)
            ON CONFLICT (login) DO UPDATE SET login = excluded.login WHERE false
            RETURNING login
        )
        SELECT array_agg(inserted.login) INTO a_opened FROM inserted;
    END IF;

    -- Each of these statements sees what was committed before the locks were taken.
    SELECT array_agg(opened.login ORDER BY each.number),
           array_agg(coalesce(last.balance, opened.balance) ORDER BY each.number),
           array_agg(coalesce(last.credit, opened.credit) ORDER BY each.number),
           array_agg(opened."group" ORDER BY each.number)
    INTO a_logins, a_balances, a_credits, groups
    FROM unnest(a_logins) WITH ORDINALITY AS each (login, number)
    JOIN opened ON opened.login = each.login
    LEFT JOIN LATERAL (
        SELECT event.balance, event.credit FROM event
        WHERE event.login = each.login ORDER BY event.seq DESC LIMIT 1
    ) AS last ON true;
    a_changed := array_fill(false, ARRAY[coalesce(cardinality(a_logins), 0)]);
    SELECT array_agg(trade.login ORDER BY each.number),
           array_agg(trade.cmd ORDER BY each.number),
           array_agg(trade.state ORDER BY each.number),
           array_agg(trade.profit ORDER BY each.number),
           array_agg(trade.comment ORDER BY each.number),
           array_agg(trade.open_time ORDER BY each.number),
           array_agg(trade.close_time ORDER BY each.number),
           array_agg(trade.revision ORDER BY each.number)
    INTO t_logins, t_cmds, t_states, t_profits, t_comments, t_opens, t_closes,
         t_revisions
    FROM unnest(orders) WITH ORDINALITY AS each ("order", number)
    LEFT JOIN trade ON trade."order" = each."order";
    t_made := array_fill(false, ARRAY[cardinality(orders)]);
    t_items := array_fill(NULL::integer, ARRAY[cardinality(orders)]);
    SELECT coalesce(sum(1::bigint << operation.cmd), 0) INTO credit_cmds
    FROM operation WHERE operation.credit = 1;

    SELECT coalesce(max(rule.number), 0) INTO rules_read FROM rule;
    IF rules_read > 0 THEN
        SELECT array_agg(rule ORDER BY each.number NULLS LAST, rule.number)
        INTO rules
        FROM rule LEFT JOIN unnest(rule_ids) WITH ORDINALITY AS each (id, number)
            ON each.id = rule.id;
        -- The sums for which something may count, locked in sorted order. What an order
        -- of this batch has is known from the operation that makes it.
        WITH each AS (
            SELECT DISTINCT rule.id, key_1(rule, op.principal, of.login, op.role) AS key
            FROM unnest(
                kinds, principals, roles, asked_orders, logins, cmds
            ) AS op (kind, principal, role, asked, login, cmd)
            CROSS JOIN LATERAL (
                SELECT coalesce(
                           op.login, t_logins[array_position(orders, op.asked)],
                           logins[array_position(fresh_orders, op.asked)]
                       ) AS login,
                       coalesce(
                           op.cmd, t_cmds[array_position(orders, op.asked)],
                           cmds[array_position(fresh_orders, op.asked)]
                       ) AS cmd
            ) AS of
            CROSS JOIN unnest(rules) AS rule
            WHERE rule.counts AND of.login IS NOT NULL AND binds_1(
                rule, op.principal, op.role, of.login, of.cmd, op.kind = 2,
                groups[array_position(a_logins, of.login)]
            )
        ), kept AS (
            INSERT INTO counted (day, rule, key)
            SELECT of_day, each.id, each.key FROM each ORDER BY each.id, each.key
            ON CONFLICT (day, rule, key, seq) DO UPDATE SET amount = 0 WHERE false
        )
        SELECT array_agg(each.id || ' ' || each.key) INTO sum_ids FROM each;
        SELECT array_agg(last.amount ORDER BY each.number),
               array_agg(last.seq ORDER BY each.number),
               array_agg(of_day)
        INTO sum_amounts, sum_seqs, sum_days
        FROM unnest(sum_ids) WITH ORDINALITY AS each (id, number)
        CROSS JOIN LATERAL (
            SELECT counted.amount, counted.seq FROM counted
            WHERE counted.day = of_day AND counted.rule = split_part(each.id, ' ', 1)
                AND counted.key = split_part(each.id, ' ', 2)::bigint
            ORDER BY counted.seq DESC LIMIT 1
        ) AS last;
        sum_formers := sum_amounts;
    END IF;
    IF EXISTS (
        SELECT FROM unnest(rule_ids) AS each (id)
        WHERE each.id NOT IN (SELECT rule.id FROM rule)
    ) THEN
        RAISE EXCEPTION 'a rule of this node is not registered' USING ERRCODE = 'CS002';
    END IF;

    FOR op IN
        SELECT * FROM unnest(
            kinds, deletables, logins, cmds, amounts, comments, asked_orders,
            asked_open_times, asked_close_times, fresh_orders, commands, principals,
            roles, key_numbers
        ) WITH ORDINALITY AS each (
            kind, deletable, login, cmd, amount, comment, asked_order,
            asked_open_time, asked_close_time, fresh_order, command, principal,
            role, key_number, item
        )
    LOOP
        -- Its key.
        IF op.key_number IS NOT NULL THEN
            first := NULL;
            IF key_seqs[op.key_number] IS NOT NULL THEN
                SELECT event.* INTO STRICT first
                FROM keyed JOIN event
                    ON event.stream = keyed.stream AND event.seq = keyed.seq
                WHERE keyed.principal = key_principals[op.key_number]
                    AND keyed.key = keys[op.key_number];
                r_verdicts[op.item] := 'replay';
                r_seqs[op.item] := first.seq;
                r_types[op.item] := first.type;
                r_orders[op.item] := first."order";
                r_logins[op.item] := first.login;
                r_cmds[op.item] := first.cmd;
                r_states[op.item] := first.state;
                r_profits[op.item] := first.profit;
                r_comments[op.item] := first.comment;
                r_opens[op.item] := first.open_time;
                r_closes[op.item] := first.close_time;
                r_times[op.item] := first.timestamp;
                r_balances[op.item] := first.balance;
                r_credits[op.item] := first.credit;
                -- NULL where a command does not say it, and then nothing differs. An
                -- empty comment leaves that of a finance request as it is.
                r_details[op.item] := CASE
                    WHEN first.command IS DISTINCT FROM op.command THEN 'command'
                    WHEN first.cmd <> op.cmd THEN 'data.cmd'
                    WHEN first.login <> op.login THEN 'data.login'
                    WHEN first.profit <> op.amount THEN 'data.amount'
                    WHEN first.comment <> nullif(op.comment, '') THEN 'data.comment'
                    WHEN first.asked_order IS DISTINCT FROM op.asked_order
                        THEN 'data.order'
                    WHEN first.asked_open_time IS DISTINCT FROM op.asked_open_time
                        THEN 'data.open_time'
                    WHEN first.asked_close_time IS DISTINCT FROM op.asked_close_time
                        THEN 'data.close_time'
                END;
            ELSIF key_items[op.key_number] IS NOT NULL THEN
                a := key_items[op.key_number];
                r_verdicts[op.item] := 'twin';
                r_seqs[op.item] := a;
                r_orders[op.item] := r_orders[a];
                r_details[op.item] := CASE
                    WHEN commands[a] <> op.command THEN 'command'
                    WHEN r_cmds[a] <> op.cmd THEN 'data.cmd'
                    WHEN r_logins[a] <> op.login THEN 'data.login'
                    WHEN r_profits[a] <> op.amount THEN 'data.amount'
                    WHEN r_comments[a] <> nullif(op.comment, '') THEN 'data.comment'
                    WHEN asked_orders[a] <> op.asked_order THEN 'data.order'
                    WHEN asked_open_times[a] IS DISTINCT FROM op.asked_open_time
                        THEN 'data.open_time'
                    WHEN asked_close_times[a] IS DISTINCT FROM op.asked_close_time
                        THEN 'data.close_time'
                END;
            END IF;
            IF r_verdicts[op.item] IS NOT NULL THEN
                IF r_details[op.item] IS NOT NULL THEN
                    r_verdicts[op.item] := 'key reused';
                END IF;
                CONTINUE;
            END IF;
        END IF;

        -- What it makes of the trade that it names, or of none.
        refusal := NULL;
        t := array_position(orders, op.asked_order);
        IF op.kind >= 2 THEN
            of_login := t_logins[t];
            of_cmd := t_cmds[t];
            to_profit := t_profits[t];
            to_comment := t_comments[t];
            opened := t_opens[t];
            closed := t_closes[t];
            IF of_login IS NULL THEN
                refusal := 'not found';
            ELSIF op.kind = 2 THEN
                event_type := 2;
                to_state := 6;
                change := -to_profit;
                IF (op.deletable >> of_cmd) & 1 = 0 THEN
                    refusal := 'other kind';
                ELSIF t_states[t] = 6 THEN
                    refusal := 'deleted';
                ELSIF t_states[t] <> 3 THEN
                    refusal := 'not approved';
                END IF;
            ELSIF t_states[t] <> 17 THEN
                refusal := 'no request';
            ELSE
                event_type := 1;
                to_comment := coalesce(nullif(op.comment, ''), to_comment);
                IF op.kind = 4 THEN
                    to_state := 18;
                    change := 0;
                ELSE
                    to_state := 3;
                    change := to_profit;
                    closed := greatest(this_time, opened);
                    -- Whoever has changed it last has made it: it still waits.
                    IF t_items[t] IS NOT NULL THEN
                        maker := principals[t_items[t]];
                    ELSE
                        SELECT event.principal INTO maker
                        FROM trade JOIN event
                            ON event.stream = this_stream AND event.seq = trade.seq
                        WHERE trade."order" = op.asked_order;
                    END IF;
                    IF maker = op.principal AND NOT self_approval THEN
                        refusal := 'own request';
                    END IF;
                END IF;
            END IF;
        ELSE
            to_state := CASE op.kind WHEN 1 THEN 17 ELSE 3 END;
            of_login := op.login;
            of_cmd := op.cmd;
            to_profit := op.amount;
            to_comment := op.comment;
            change := CASE op.kind WHEN 1 THEN 0 ELSE op.amount END;
            IF t IS NULL OR t_logins[t] IS NULL THEN
                IF t IS NOT NULL THEN
                    missing := missing || op.asked_order;
                END IF;
                event_type := 0;
                t := array_position(orders, op.fresh_order);
                t_made[t] := true;
                opened := this_time;
                closed := this_time;
            ELSE
                event_type := 1;
                opened := t_opens[t];
                closed := t_closes[t];
                IF t_logins[t] <> op.login THEN
                    refusal := 'other login';
                ELSIF t_cmds[t] <> op.cmd THEN
                    refusal := 'other kind';
                ELSIF t_states[t] = 6 THEN
                    refusal := 'deleted';
                ELSIF t_states[t] <> 3 THEN
                    refusal := 'not approved';
                ELSE
                    change := op.amount - t_profits[t];
                END IF;
            END IF;
            opened := coalesce(op.asked_open_time, opened);
            closed := coalesce(op.asked_close_time, closed);
            IF refusal IS NULL AND closed < opened THEN
                refusal := 'times';
            END IF;
        END IF;

        -- Whether the account allows it.
        IF refusal IS NULL THEN
            a := array_position(a_logins, of_login);
            IF a IS NOT NULL THEN
                total := CASE WHEN (credit_cmds >> of_cmd) & 1 = 1
                    THEN a_credits[a] ELSE a_balances[a] END;
                IF change > 0 AND total > max_total - change THEN
                    refusal := 'too great';
                ELSIF total + change < 0 THEN
                    refusal := 'no money';
                END IF;
            ELSIF op.kind >= 2 THEN
                -- The order was made after the look at its login.
                RAISE serialization_failure;
            ELSE
                refusal := 'no account';
            END IF;
        END IF;

        -- Whether the rules of this node allow it: the first for which no request helps
        -- refuses, or else the first. An update may take away more than it leaves.
        moved := greatest(abs(to_profit), abs(change));
        broken := NULL;
        IF refusal IS NULL AND to_state <> 18 THEN
            FOR i IN 1 .. coalesce(cardinality(rule_ids), 0) LOOP
                CONTINUE WHEN rule_requests[i] AND (op.kind IN (1, 3) OR broken > 0);
                CONTINUE WHEN NOT binds_1(
                    rules[i], op.principal, op.role, of_login, of_cmd, op.kind = 2,
                    groups[a]
                );
                IF moved > rule_amounts[i] THEN
                    refusal := 'over amount';
                ELSIF moved + sum_amounts[array_position(
                    sum_ids,
                    rules[i].id || ' ' || key_1(rules[i], op.principal, of_login, op.role)
                )] > rule_days[i] THEN
                    refusal := 'over day';
                ELSE
                    CONTINUE;
                END IF;
                broken := i;
                EXIT WHEN NOT rule_requests[i];
            END LOOP;
        END IF;
        IF broken IS NOT NULL THEN
            r_details[op.item] := broken;
            r_profits[op.item] := moved;
        END IF;

        r_verdicts[op.item] := coalesce(refusal, 'booked');
        r_orders[op.item] := orders[t];
        r_logins[op.item] := of_login;
        r_cmds[op.item] := of_cmd;
        r_opens[op.item] := opened;
        r_closes[op.item] := closed;
        IF refusal IS NOT NULL THEN
            CONTINUE;
        END IF;

        -- It is booked.
        n := n + 1;
        r_numbers[op.item] := n;
        IF op.key_number IS NOT NULL THEN
            key_items[op.key_number] := op.item;
        END IF;
        IF (credit_cmds >> of_cmd) & 1 = 1 THEN
            a_credits[a] := total + change;
        ELSE
            a_balances[a] := total + change;
        END IF;
        a_changed[a] := true;
        IF to_state NOT IN (17, 18) THEN
            FOR i IN 1 .. coalesce(cardinality(rules), 0) LOOP
                IF rules[i].counts AND binds_1(
                    rules[i], op.principal, op.role, of_login, of_cmd, op.kind = 2,
                    groups[a]
                ) THEN
                    broken := array_position(
                        sum_ids, rules[i].id || ' '
                            || key_1(rules[i], op.principal, of_login, op.role)
                    );
                    sum_amounts[broken] := sum_amounts[broken] + moved;
                END IF;
            END LOOP;
        END IF;
        t_logins[t] := of_login;
        t_cmds[t] := of_cmd;
        t_states[t] := to_state;
        t_profits[t] := to_profit;
        t_comments[t] := to_comment;
        t_opens[t] := opened;
        t_closes[t] := closed;
        t_revisions[t] := coalesce(t_revisions[t] + 1, 0);
        t_items[t] := op.item;
        r_types[op.item] := event_type;
        r_states[op.item] := to_state;
        r_profits[op.item] := to_profit;
        r_comments[op.item] := to_comment;
        r_times[op.item] := this_time;
        r_balances[op.item] := a_balances[a];
        r_credits[op.item] := a_credits[a];
    END LOOP;

    -- What was refused leaves nothing behind.
    IF a_opened IS NOT NULL THEN
        DELETE FROM opened WHERE opened.login = ANY (a_opened) AND opened.login IN (
            SELECT each.login FROM unnest(a_logins, a_changed) AS each (login, changed)
            WHERE NOT each.changed
        );
    END IF;
    IF cardinality(keys) > 0 THEN
        DELETE FROM keyed USING (
            SELECT each.principal, each.key
            FROM unnest(key_principals, keys, key_seqs, key_items)
                AS each (principal, key, seq, item)
            WHERE each.seq IS NULL AND each.item IS NULL
        ) AS refused
        WHERE keyed.principal = refused.principal AND keyed.key = refused.key;
    END IF;

    IF n > 0 THEN
        -- Last, and held until the commit, so that places are seen in their order.
        PERFORM FROM stream WHERE id = this_stream FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no stream %', this_stream;
        END IF;
        -- A rule that was registered meanwhile has not counted this batch.
        IF rules_read <> (SELECT coalesce(max(rule.number), 0) FROM rule) THEN
            RAISE serialization_failure;
        END IF;
        IF cardinality(missing) > 0 THEN
            -- Another node may have made it meanwhile. Judged again it will be found.
            PERFORM FROM trade WHERE "order" = ANY (missing);
            IF FOUND THEN
                RAISE serialization_failure;
            END IF;
        END IF;
        SELECT link.hi, link.hash INTO base, former FROM link
        WHERE link.stream = this_stream ORDER BY link.hi DESC LIMIT 1;
        base := coalesce(base, 0);
        former := coalesce(former, decode(repeat('00', 32), 'hex'));

        WITH booked AS (
            INSERT INTO event (
                stream, seq, type, "order", login, cmd, state, profit, comment,
                open_time, close_time, timestamp, balance, credit, node, batch, item,
                principal, role, key, command,
                asked_order, asked_open_time, asked_close_time
            )
            SELECT this_stream, base + each.number, each.type, each."order", each.login,
                   each.cmd, each.state, each.profit, each.comment, each.open_time,
                   each.close_time, this_time, each.balance, each.credit,
                   this_node, this_batch, each.item,
                   each.principal, each.role, keys[each.key_number], each.command,
                   each.asked_order, each.asked_open_time, each.asked_close_time
            FROM unnest(
                r_numbers, r_types, r_orders, r_logins, r_cmds, r_states, r_profits,
                r_comments, r_opens, r_closes, r_balances, r_credits,
                principals, roles, key_numbers, commands,
                asked_orders, asked_open_times, asked_close_times
            ) WITH ORDINALITY AS each (
                number, type, "order", login, cmd, state, profit,
                comment, open_time, close_time, balance, credit,
                principal, role, key_number, command,
                asked_order, asked_open_time, asked_close_time, item
            )
            WHERE each.number IS NOT NULL
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
        ) INTO lines FROM booked;
        INSERT INTO link (stream, lo, hi, node, batch, hash) VALUES (
            this_stream, base + 1, base + n, this_node, this_batch,
            sha256(former || convert_to(lines, 'UTF8'))
        );

        -- The last change of each order, with its place.
        -- A new one fails if its number was assigned before: see _numbers.py.
        INSERT INTO trade (
            "order", login, cmd, state, profit, comment, open_time, close_time,
            timestamp, revision, seq
        )
        SELECT each."order", each.login, each.cmd, each.state, each.profit,
               each.comment, each.opened, each.closed, this_time, each.revision,
               base + r_numbers[each.item]
        FROM unnest(
            orders, t_logins, t_cmds, t_states, t_profits, t_comments, t_opens,
            t_closes, t_revisions, t_made, t_items
        ) AS each (
            "order", login, cmd, state, profit, comment, opened,
            closed, revision, made, item
        )
        WHERE each.item IS NOT NULL AND each.made;
        UPDATE trade SET
            state = each.state, profit = each.profit, comment = each.comment,
            open_time = each.opened, close_time = each.closed, timestamp = this_time,
            revision = each.revision, seq = base + r_numbers[each.item]
        FROM unnest(
            orders, t_states, t_profits, t_comments, t_opens, t_closes, t_revisions,
            t_made, t_items
        ) AS each (
            "order", state, profit, comment, opened, closed, revision,
            made, item
        )
        WHERE each.item IS NOT NULL AND NOT each.made
            AND trade."order" = each."order";
        IF sum_ids IS NOT NULL THEN
            INSERT INTO counted (day, rule, key, seq, amount)
            SELECT of_day, split_part(each.id, ' ', 1),
                   split_part(each.id, ' ', 2)::bigint, base + n, each.amount
            FROM unnest(sum_ids, sum_amounts, sum_formers)
                AS each (id, amount, former)
            WHERE each.amount <> each.former;
            -- By the whole key, so that the plan begins with the few that are replaced.
            DELETE FROM counted
            USING unnest(sum_ids, sum_days, sum_seqs, sum_amounts, sum_formers)
                AS each (id, day, seq, amount, former)
            WHERE each.seq > 0 AND each.amount <> each.former
                AND counted.day = each.day
                AND counted.rule = split_part(each.id, ' ', 1)
                AND counted.key = split_part(each.id, ' ', 2)::bigint
                AND counted.seq = each.seq;
        END IF;
        IF cardinality(keys) > 0 THEN
            UPDATE keyed SET seq = base + r_numbers[each.item]
            FROM unnest(key_principals, keys, key_items) AS each (principal, key, item)
            WHERE each.item IS NOT NULL
                AND keyed.principal = each.principal AND keyed.key = each.key;
        END IF;
    END IF;

    RETURN QUERY
    SELECT each.item::integer, each.verdict, each.detail,
           coalesce(each.seq, base + each.number), each.type, each."order",
           each.login, each.cmd, each.state, each.profit, each.comment,
           each.open_time, each.close_time, each.timestamp, each.balance, each.credit,
           -- After the lock of the stream: all that come before the places are there.
           (SELECT coalesce(max(moved.number), 0) FROM moved)
    FROM unnest(
        r_verdicts, r_details, r_seqs, r_numbers, r_types, r_orders, r_logins, r_cmds,
        r_states, r_profits, r_comments, r_opens, r_closes, r_times, r_balances,
        r_credits
    ) WITH ORDINALITY AS each (
        verdict, detail, seq, number, type, "order", login, cmd,
        state, profit, comment, open_time, close_time, timestamp, balance,
        credit, item
    );
END
$$;

-- Move an account to a group, and open one that does not exist unless accounts have to
-- exist. Returns NULL if it has to, or the number of the move. The locks are in the order
-- of above.
CREATE FUNCTION move_1(
    this_stream integer,
    this_login  bigint,
    this_group  text,
    known_only  boolean
) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
DECLARE
    last bigint;
BEGIN
    PERFORM durable_1();
    IF NOT known_only THEN
        INSERT INTO opened (login) VALUES (this_login) ON CONFLICT DO NOTHING;
    END IF;
    UPDATE opened SET "group" = this_group WHERE login = this_login;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM FROM stream WHERE id = this_stream FOR UPDATE;
    SELECT coalesce(max(number), 0) INTO last FROM moved;
    INSERT INTO moved VALUES (last + 1, this_login, this_group);
    RETURN last + 1;
END
$$;
