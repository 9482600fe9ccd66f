-- The ledger of every peer: the tables of creditsync without its keys.
-- Money is an integer number of 10⁻⁸ units.
PRAGMA journal_mode = wal;
PRAGMA synchronous = FULL;
CREATE TABLE trade (
    "order"    INTEGER PRIMARY KEY,
    login      INTEGER NOT NULL,
    cmd        INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    profit     INTEGER NOT NULL,
    comment    TEXT NOT NULL,
    open_time  INTEGER NOT NULL,
    close_time INTEGER NOT NULL,
    timestamp  INTEGER NOT NULL
) STRICT;
CREATE TABLE account (
    login  INTEGER PRIMARY KEY,
    credit INTEGER NOT NULL
) STRICT;
