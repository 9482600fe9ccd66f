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
    timestamp  INTEGER NOT NULL
) STRICT;

-- The sums of each account's booked trades (state 3): balance of cmd 6 and 8,
-- credit of cmd 7 and 9. Only the triggers below move them.
CREATE TABLE account (
    login   INTEGER PRIMARY KEY,
    balance INTEGER NOT NULL DEFAULT 0,
    credit  INTEGER NOT NULL DEFAULT 0
) STRICT;

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

-- In two steps, although an order keeps its login and its cmd: whatever
-- changes, the totals stay the sums, and no step can lose a unit.
CREATE TRIGGER trade_updated AFTER UPDATE ON trade
BEGIN
    UPDATE account SET
        balance = balance - iif(OLD.state = 3 AND OLD.cmd IN (6, 8), OLD.profit, 0),
        credit = credit - iif(OLD.state = 3 AND OLD.cmd IN (7, 9), OLD.profit, 0)
    WHERE login = OLD.login;
    INSERT INTO account (login, balance, credit) VALUES (
        NEW.login,
        iif(NEW.state = 3 AND NEW.cmd IN (6, 8), NEW.profit, 0),
        iif(NEW.state = 3 AND NEW.cmd IN (7, 9), NEW.profit, 0)
    ) ON CONFLICT (login) DO UPDATE SET
        balance = balance + excluded.balance,
        credit = credit + excluded.credit;
END;
