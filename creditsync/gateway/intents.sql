-- What the gateway keeps beside a ledger of its own. The server runs this at each
-- start; there is nothing to do from the second one on.

-- One row for each operation that was, or may have been, sent to the platform. It is
-- durable before the first byte is sent, and never deleted.
CREATE TABLE IF NOT EXISTS intent (
    number           INTEGER PRIMARY KEY,
    -- creditsync.gateway._states has what each means, and which follow
    state            TEXT NOT NULL CHECK (state IN (
        'sent', 'pending', 'accepted', 'unseen', 'held', 'booked', 'refused', 'absent'
    )),
    -- of the trade event: 0 add, 1 update, 2 delete
    type             INTEGER NOT NULL CHECK (type BETWEEN 0 AND 2),
    -- of the platform; 0 while it is not known
    "order"          INTEGER NOT NULL,
    -- what identifies it there while its order is not known
    login            INTEGER NOT NULL,
    cmd              INTEGER NOT NULL,
    -- signed, in 10⁻⁸ units
    amount           INTEGER NOT NULL,
    comment          TEXT NOT NULL,
    -- as sent
    open_time        INTEGER,
    close_time       INTEGER,
    -- as requested, and by whom
    command          TEXT NOT NULL,
    principal        INTEGER NOT NULL,
    role             INTEGER,
    key              TEXT,
    asked_order      INTEGER NOT NULL,
    asked_open_time  INTEGER,
    asked_close_time INTEGER,
    -- 1 if it was sent as itself; otherwise one more than its finance requests
    attempts         INTEGER NOT NULL,
    -- look-ups that have not found it since it was sent
    looks            INTEGER NOT NULL,
    -- when it was sent last
    sent_at          INTEGER NOT NULL,
    -- what led to the state, for people
    why              TEXT NOT NULL,
    -- the person who has decided, if one has
    decided_by       TEXT NOT NULL,
    -- of its record in the journal, if it is booked
    place            INTEGER
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS intent_key ON intent (principal, key)
WHERE key IS NOT NULL AND state NOT IN ('refused', 'absent');
CREATE INDEX IF NOT EXISTS intent_open ON intent (state)
WHERE state IN ('sent', 'pending', 'accepted', 'unseen', 'held');
CREATE INDEX IF NOT EXISTS intent_order ON intent ("order");
CREATE INDEX IF NOT EXISTS intent_content ON intent (login, open_time);

-- One row: the platform's greatest update_time up to which the journal has all changes.
CREATE TABLE IF NOT EXISTS caught_up (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    update_time INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO caught_up VALUES (1, 0);

-- What people should know, in the order in which it became known.
CREATE TABLE IF NOT EXISTS alarm (
    number    INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    text      TEXT NOT NULL
) STRICT;

-- To recognize an event that comes twice.
CREATE INDEX IF NOT EXISTS intent_journal_order ON journal ("order");
