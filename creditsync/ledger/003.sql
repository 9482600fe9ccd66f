-- The creditsync ledger, version 3: a journal of all that was booked.
--
-- trade and account are what the journal adds up to. Triggers keep them so.

-- What an upgrade has to copy; in a new ledger both are empty. The server copies the
-- rows after this script and drops the two tables, in the same transaction.
DROP VIEW keyed_booking;
DROP TRIGGER trade_inserted;
DROP TRIGGER trade_kept;
DROP TRIGGER trade_updated;
ALTER TABLE trade RENAME TO former_trade;
ALTER TABLE keyed_operation RENAME TO former_key;
CREATE INDEX former_key_order ON former_key ("order", revision);

-- One row for each operation, in the order of booking; never changed, never deleted.
-- NULL in balance, credit, principal, role, command and asked_order means that an
-- older version did not record it.
CREATE TABLE journal (
    -- 1, 2, 3 ... without a gap
    place            INTEGER PRIMARY KEY,
    -- of the trade event: 0 add, 1 update, 2 delete
    type             INTEGER NOT NULL CHECK (type BETWEEN 0 AND 2),
    -- the trade as this operation made it
    "order"          INTEGER NOT NULL CHECK ("order" > 0),
    login            INTEGER NOT NULL,
    -- one of the table operation
    cmd              INTEGER NOT NULL,
    -- 3 booked, 6 deleted; a finance request is 17, or 18 if it was declined. For IN
    -- SQLite would make a table at each row
    state            INTEGER NOT NULL
                     CHECK (state = 3 OR state = 6 OR state BETWEEN 10 AND 12
                            OR state BETWEEN 17 AND 18),
    -- signed: withdrawals are negative
    profit           INTEGER NOT NULL,
    comment          TEXT NOT NULL,
    open_time        INTEGER NOT NULL,
    close_time       INTEGER NOT NULL,
    timestamp        INTEGER NOT NULL,
    -- the account's totals after this operation
    balance          INTEGER,
    credit           INTEGER,
    -- the id of the token that requested it
    principal        INTEGER,
    -- the role of that token: 1 manager, 2 dealer, 3 admin
    role             INTEGER,
    command          TEXT,
    -- as requested: 0 and NULL where the request named none
    asked_order      INTEGER,
    -- the idempotency key, NULL without one; with it a repeated request is recognized
    key              TEXT,
    asked_open_time  INTEGER,
    asked_close_time INTEGER,
    -- in the last row of each commit: the SHA-256 digest of the hash before it (32
    -- zero bytes for the first) and of the rows since; see docs/ledger.rst
    hash             BLOB CHECK (length(hash) = 32)
) STRICT;
CREATE UNIQUE INDEX journal_key ON journal (principal, key) WHERE key IS NOT NULL;

-- By which tokens are restricted to some of the accounts.
ALTER TABLE account ADD COLUMN "group" TEXT NOT NULL DEFAULT '';

-- One row for each commit: its first and last place, and its hash.
CREATE VIEW link AS
SELECT ifnull(lag(place) OVER (ORDER BY place), 0) + 1 AS lo, place AS hi, hash
FROM journal WHERE hash IS NOT NULL;

-- Each finance transaction as it is now. A deleted one has state 6.
CREATE TABLE trade (
    "order"    INTEGER PRIMARY KEY,
    login      INTEGER NOT NULL,
    cmd        INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    profit     INTEGER NOT NULL,
    comment    TEXT NOT NULL,
    open_time  INTEGER NOT NULL,
    close_time INTEGER NOT NULL,
    -- the last change
    timestamp  INTEGER NOT NULL,
    -- how often it was changed since it was made
    revision   INTEGER NOT NULL DEFAULT 0,
    -- in the journal, of the last change
    place      INTEGER NOT NULL
) STRICT;

CREATE INDEX trade_waiting ON trade ("order") WHERE state = 17;

-- The lives of this ledger, the present one last. A copy begins a life of its own, so
-- that a cursor of one is not mistaken for a cursor of the other.
CREATE TABLE life (
    number INTEGER PRIMARY KEY,
    -- random
    epoch  TEXT NOT NULL UNIQUE,
    -- the last place before it
    head   INTEGER NOT NULL,
    -- created, upgraded or copied. What an upgraded ledger has up to this head is from
    -- an older version, in the order of the transactions' numbers
    cause  TEXT NOT NULL,
    -- when it began
    timestamp INTEGER NOT NULL
) STRICT;

-- INSERT OR REPLACE deletes the rows in its way without a DELETE trigger.
CREATE TRIGGER journal_appended BEFORE INSERT ON journal
WHEN NEW.place IS NOT (SELECT ifnull(max(place), 0) + 1 FROM journal)
    OR (NEW.key IS NOT NULL AND EXISTS (
        SELECT 1 FROM journal WHERE principal = NEW.principal AND key = NEW.key
    ))
BEGIN
    SELECT RAISE(ABORT, 'the journal is never changed');
END;

CREATE TRIGGER journal_booked AFTER INSERT ON journal
BEGIN
    INSERT INTO trade (
        "order", login, cmd, state, profit, comment, open_time, close_time, timestamp,
        place
    ) VALUES (
        NEW."order", NEW.login, NEW.cmd, NEW.state, NEW.profit, NEW.comment,
        NEW.open_time, NEW.close_time, NEW.timestamp, NEW.place
    ) ON CONFLICT ("order") DO UPDATE SET
        login = excluded.login, cmd = excluded.cmd, state = excluded.state,
        profit = excluded.profit, comment = excluded.comment,
        open_time = excluded.open_time, close_time = excluded.close_time,
        timestamp = excluded.timestamp, revision = revision + 1,
        place = excluded.place;
    INSERT INTO account (login, balance, credit)
    VALUES (NEW.login, NEW.balance, NEW.credit)
    ON CONFLICT (login) DO UPDATE SET
        balance = excluded.balance, credit = excluded.credit;
END;

-- An order keeps its login and its cmd.
CREATE TRIGGER trade_kept BEFORE UPDATE ON trade
WHEN NEW.login <> OLD.login OR NEW.cmd <> OLD.cmd
BEGIN
    SELECT RAISE(ABORT, 'an order keeps its login and its cmd');
END;

CREATE TRIGGER journal_updated BEFORE UPDATE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is never changed');
END;
CREATE TRIGGER journal_deleted BEFORE DELETE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is never changed');
END;
CREATE TRIGGER life_continued BEFORE INSERT ON life
WHEN NEW.number <> (SELECT ifnull(max(number), 0) + 1 FROM life)
    OR NEW.epoch IN (SELECT epoch FROM life)
BEGIN
    SELECT RAISE(ABORT, 'a life has the next number and a new epoch');
END;
CREATE TRIGGER life_updated BEFORE UPDATE ON life
BEGIN
    SELECT RAISE(ABORT, 'the lives are never changed');
END;
CREATE TRIGGER life_deleted BEFORE DELETE ON life
BEGIN
    SELECT RAISE(ABORT, 'the lives are never changed');
END;
