-- The creditsync ledger, version 2: the total that each cmd counts for is data.

-- One row for each cmd that a trade may have. At each start the server writes the
-- rows from its table of methods, creditsync.methods.
CREATE TABLE operation (
    cmd     INTEGER PRIMARY KEY,
    -- 1 for the total that its trades count for, 0 for the other
    balance INTEGER NOT NULL CHECK (balance IN (0, 1)),
    credit  INTEGER NOT NULL CHECK (credit IN (0, 1)),
    -- the sign of its profits: 1 for deposits, -1 for withdrawals
    sign    INTEGER NOT NULL CHECK (sign IN (-1, 1)),
    -- its name for people
    label   TEXT NOT NULL,
    CHECK (balance + credit = 1)
) STRICT;

-- ALTER TABLE can't drop a CHECK, and to copy the table would take minutes. But a
-- CHECK does not affect how rows are stored, so SQLite's documentation ("Making
-- Other Kinds Of Table Schema Changes") allows editing the table's text, which
-- takes the same short time at any size. RESET makes this connection read the text
-- again; otherwise it would go on applying the CHECK.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql,
'    -- 6 balance in, 7 credit in, 8 balance out, 9 credit out
    cmd        INTEGER NOT NULL CHECK (cmd BETWEEN 6 AND 9),',
'    -- one of the table operation; trade_inserted refuses any other
    cmd        INTEGER NOT NULL,'
) WHERE type = 'table' AND name = 'trade';
PRAGMA writable_schema = RESET;

-- In SQLite a sum that exceeds 64 bits becomes REAL, which the STRICT table then
-- refuses: a total is exact or the transaction fails.
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
    -- The INSERT above changed a row only if operation has this cmd. changes() is
    -- faster than another look-up.
    SELECT RAISE(ABORT, 'operation has no such cmd') WHERE changes() = 0;
END;

-- The difference is added in one step. If the old amount were subtracted first, a
-- total could exceed 64 bits although the result does not.
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
