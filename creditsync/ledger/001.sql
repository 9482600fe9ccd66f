-- The creditsync ledger, version 1.
--
-- Money is an integer number of 10⁻⁸ units: profit / 1e8 is the amount.
-- Times are UNIX seconds. "order" is an SQL keyword and wants its quotes.

-- One row per finance transaction, as it is now. Rows are never deleted: a
-- deleted transaction has state 6.
CREATE TABLE trade (
    "order"    INTEGER PRIMARY KEY CHECK ("order" > 0),
    login      INTEGER NOT NULL,
    -- 6 balance in, 7 credit in, 8 balance out, 9 credit out
    cmd        INTEGER NOT NULL CHECK (cmd BETWEEN 6 AND 9),
    -- 3 booked, 6 deleted; 10, 11 and 12 are requests not yet booked
    state      INTEGER NOT NULL CHECK (state IN (3, 6, 10, 11, 12)),
    -- signed: what goes out is negative
    profit     INTEGER NOT NULL,
    comment    TEXT NOT NULL,
    open_time  INTEGER NOT NULL,
    close_time INTEGER NOT NULL,
    -- the last change
    timestamp  INTEGER NOT NULL,
    -- how often it was changed since it was made
    revision   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The sums of each account's booked trades (state 3): balance of cmd 6 and 8,
-- credit of cmd 7 and 9. Only the triggers below move them.
CREATE TABLE account (
    login   INTEGER PRIMARY KEY,
    balance INTEGER NOT NULL DEFAULT 0,
    credit  INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What was booked under an idempotency key, by the principal (the "id" of the
-- token) who sent it; kept for ever. The key makes a repeated request known:
-- what it asked for, and the trade as it was booked then, which a later update
-- does not change here.
CREATE TABLE keyed_operation (
    principal        INTEGER NOT NULL,
    key              TEXT NOT NULL,
    command          TEXT NOT NULL,
    -- of the trade event: 0 add, 1 update, 2 delete
    type             INTEGER NOT NULL CHECK (type IN (0, 1, 2)),
    -- as asked for: 0 and NULL where the request named none
    asked_order      INTEGER NOT NULL,
    asked_open_time  INTEGER,
    asked_close_time INTEGER,
    "order"          INTEGER NOT NULL,
    login            INTEGER NOT NULL,
    cmd              INTEGER NOT NULL,
    state            INTEGER NOT NULL,
    profit           INTEGER NOT NULL,
    comment          TEXT NOT NULL,
    open_time        INTEGER NOT NULL,
    close_time       INTEGER NOT NULL,
    timestamp        INTEGER NOT NULL,
    -- of the trade, by this operation: while the trade still has it, the two
    -- agree in every column
    revision         INTEGER NOT NULL,
    PRIMARY KEY (principal, key)
) STRICT, WITHOUT ROWID;

-- Never read: what is inserted here is booked as a trade and remembered under
-- its key, by one statement and so in one transaction.
CREATE VIEW keyed_booking AS
SELECT NULL AS principal, NULL AS key, NULL AS command, NULL AS type,
       NULL AS asked_order, NULL AS asked_open_time, NULL AS asked_close_time,
       "order", login, cmd, state, profit, comment, open_time, close_time, timestamp
FROM trade;

CREATE TRIGGER keyed_booking_inserted INSTEAD OF INSERT ON keyed_booking
BEGIN
    INSERT INTO trade (
        "order", login, cmd, state, profit, comment, open_time, close_time, timestamp
    ) VALUES (
        NEW."order", NEW.login, NEW.cmd, NEW.state, NEW.profit, NEW.comment,
        NEW.open_time, NEW.close_time, NEW.timestamp
    ) ON CONFLICT ("order") DO UPDATE SET
        login = excluded.login, cmd = excluded.cmd, state = excluded.state,
        profit = excluded.profit, comment = excluded.comment,
        open_time = excluded.open_time, close_time = excluded.close_time,
        timestamp = excluded.timestamp, revision = revision + 1;
    INSERT INTO keyed_operation
    SELECT NEW.principal, NEW.key, NEW.command, NEW.type, NEW.asked_order,
           NEW.asked_open_time, NEW.asked_close_time, trade.*
    FROM trade WHERE trade."order" = NEW."order" AND NEW.key IS NOT NULL;
END;

-- One row: the first order number that no process has reserved yet.
CREATE TABLE order_mark (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    next_order INTEGER NOT NULL CHECK (next_order > 0)
) STRICT;
INSERT INTO order_mark VALUES (1, 1);

-- A sum that leaves 64 bits becomes REAL in SQLite, and the STRICT table then
-- refuses it: a total is exact or the transaction fails.
CREATE TRIGGER trade_inserted AFTER INSERT ON trade
BEGIN
    INSERT INTO account (login, balance, credit) VALUES (
        NEW.login,
        iif(NEW.state = 3 AND NEW.cmd IN (6, 8), NEW.profit, 0),
        iif(NEW.state = 3 AND NEW.cmd IN (7, 9), NEW.profit, 0)
    ) ON CONFLICT (login) DO UPDATE SET
        balance = balance + excluded.balance,
        credit = credit + excluded.credit;
END;

-- An order keeps its login and its cmd.
CREATE TRIGGER trade_kept BEFORE UPDATE ON trade
WHEN NEW.login <> OLD.login OR NEW.cmd <> OLD.cmd
BEGIN
    SELECT RAISE(ABORT, 'an order keeps its login and its cmd');
END;

-- By the difference and in one step: with the old amount taken off first, a
-- total could leave 64 bits on the way to one that does not.
CREATE TRIGGER trade_updated AFTER UPDATE ON trade
BEGIN
    UPDATE account SET
        balance = balance + (
            iif(NEW.state = 3 AND NEW.cmd IN (6, 8), NEW.profit, 0)
            - iif(OLD.state = 3 AND OLD.cmd IN (6, 8), OLD.profit, 0)
        ),
        credit = credit + (
            iif(NEW.state = 3 AND NEW.cmd IN (7, 9), NEW.profit, 0)
            - iif(OLD.state = 3 AND OLD.cmd IN (7, 9), OLD.profit, 0)
        )
    WHERE login = NEW.login;
END;
