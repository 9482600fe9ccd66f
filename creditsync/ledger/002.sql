-- The creditsync ledger, version 2: what a cmd counts for is data.

-- One row for each cmd that a trade may have. The server writes the rows from
-- its table of methods; each start proves that the two agree.
CREATE TABLE operation (
    cmd     INTEGER PRIMARY KEY,
    -- 1 for the total of the account that its trades count for
    balance INTEGER NOT NULL CHECK (balance IN (0, 1)),
    credit  INTEGER NOT NULL CHECK (credit IN (0, 1)),
    -- of its profits: 1 what goes in, -1 what goes out
    sign    INTEGER NOT NULL CHECK (sign IN (-1, 1)),
    -- what people call it
    label   TEXT NOT NULL,
    CHECK (balance + credit = 1)
) STRICT;

-- A CHECK says nothing about what is stored, so it can be taken out of the text
-- of the table (SQLite's "Making Other Kinds Of Table Schema Changes"). That
-- takes no time, whatever the size, where a copy of the table takes minutes.
-- RESET has the text read again: this connection would otherwise go on checking
-- what is no longer there.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql,
'    -- 6 balance in, 7 credit in, 8 balance out, 9 credit out
    cmd        INTEGER NOT NULL CHECK (cmd BETWEEN 6 AND 9),',
'    -- one of operation: trade_inserted refuses any other
    cmd        INTEGER NOT NULL,'
) WHERE type = 'table' AND name = 'trade';
PRAGMA writable_schema = RESET;

-- A sum that leaves 64 bits becomes REAL in SQLite, and the STRICT table then
-- refuses it: a total is exact or the transaction fails.
DROP TRIGGER trade_inserted;
CREATE TRIGGER trade_inserted AFTER INSERT ON trade
BEGIN
    INSERT INTO account (login, balance, credit)
    SELECT NEW.login,
           operation.balance * NEW.profit * (NEW.state = 3),
           operation.credit * NEW.profit * (NEW.state = 3)
    FROM operation WHERE operation.cmd = NEW.cmd
    ON CONFLICT (login) DO UPDATE SET
        balance = balance + excluded.balance,
        credit = credit + excluded.credit;
    -- Of the statement above: the quickest way to see that there is such a row.
    SELECT RAISE(ABORT, 'operation has no such cmd') WHERE changes() = 0;
END;

-- By the difference and in one step: with the old amount taken off first, a
-- total could leave 64 bits on the way to one that does not.
DROP TRIGGER trade_updated;
CREATE TRIGGER trade_updated AFTER UPDATE ON trade
BEGIN
    UPDATE account SET
        balance = balance
            + (SELECT operation.balance FROM operation WHERE operation.cmd = NEW.cmd)
            * (NEW.profit * (NEW.state = 3) - OLD.profit * (OLD.state = 3)),
        credit = credit
            + (SELECT operation.credit FROM operation WHERE operation.cmd = NEW.cmd)
            * (NEW.profit * (NEW.state = 3) - OLD.profit * (OLD.state = 3))
    WHERE login = NEW.login;
END;
