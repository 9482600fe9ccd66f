-- The creditsync ledger on PostgreSQL, version 1: one journal that many nodes write.
--
-- Money is an integer number of 10⁻⁸ units, times are UNIX seconds. "order" and "group"
-- are SQL keywords and need their quotes.
--
-- The rows of trade and account are what the journal adds up to. Nothing is a trigger, a
-- sequence or a foreign key, so that engines which speak this protocol and lack them can
-- run the same statements: only the function of book.sql writes what was booked.

-- Each script that was run.
CREATE TABLE version (
    number integer PRIMARY KEY
);

-- A journal. Its row is locked by whoever gives out places, until its commit, and is
-- never updated: a row that changed with every batch would grow slow to find while an old
-- snapshot is open.
CREATE TABLE stream (
    id    integer PRIMARY KEY,
    -- of its last life: tells the places of this journal from those of others
    epoch text NOT NULL
);

-- The lives of a journal, the present one last.
CREATE TABLE life (
    stream integer NOT NULL,
    number integer NOT NULL,
    epoch  text NOT NULL,
    -- the last place before it
    head   bigint NOT NULL,
    -- created, upgraded or copied
    cause  text NOT NULL,
    -- when it began
    timestamp bigint NOT NULL,
    PRIMARY KEY (stream, number)
);

-- The servers that book here: one row for each lane of each, changed only when it
-- connects.
CREATE TABLE node (
    id          integer PRIMARY KEY,
    name        text NOT NULL,
    lane        integer NOT NULL,
    -- raised by each connection: what was sent before is shut out
    incarnation bigint NOT NULL,
    -- random, of the process
    owner       text NOT NULL,
    UNIQUE (name, lane)
);

-- One row for each batch: its first and last place. Never changed.
CREATE TABLE link (
    stream integer NOT NULL,
    lo     bigint NOT NULL,
    hi     bigint NOT NULL,
    node   integer NOT NULL,
    batch  bigint NOT NULL,
    -- the SHA-256 digest of the hash before it (32 zero bytes for the first) and of the
    -- batch's rows; see docs/ledger.rst, "The chain of hashes"
    hash   bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (stream, hi),
    UNIQUE (node, batch)
);

-- The journal: one row for each operation that was booked, in the order of booking. Never
-- changed. NULL in balance, credit, principal, role, command and asked_order means that
-- the ledger which the row was imported from did not record it.
CREATE TABLE event (
    stream      integer NOT NULL,
    -- 1, 2, 3 ... without a gap
    seq         bigint NOT NULL,
    -- of the trade event: 0 add, 1 update, 2 delete
    type        smallint NOT NULL CHECK (type BETWEEN 0 AND 2),
    -- the trade as this operation made it
    "order"     bigint NOT NULL CHECK ("order" > 0),
    login       bigint NOT NULL,
    -- one of the table operation
    cmd         smallint NOT NULL,
    -- 3 booked, 6 deleted; a finance request is 17, or 18 if it was declined
    state       smallint NOT NULL CHECK (state IN (3, 6, 10, 11, 12, 17, 18)),
    -- signed: withdrawals are negative
    profit      bigint NOT NULL,
    comment     text NOT NULL,
    open_time   bigint NOT NULL,
    close_time  bigint NOT NULL,
    timestamp   bigint NOT NULL,
    -- the account's totals after this operation
    balance     bigint,
    credit      bigint,
    -- who booked it: in this batch, the nth operation of that
    node        integer NOT NULL,
    batch       bigint NOT NULL,
    item        integer NOT NULL,
    -- the id and the role of the token that requested it
    principal   bigint,
    role        smallint,
    -- the idempotency key, NULL without one
    key         text,
    command     text,
    -- as requested: 0 and NULL where the request named none
    asked_order      bigint,
    asked_open_time  bigint,
    asked_close_time bigint,
    -- What was imported is as it was.
    CHECK (node = 0 OR (balance >= 0 AND credit >= 0)),
    PRIMARY KEY (stream, seq)
);
-- An account's last event has its totals.
CREATE INDEX event_login ON event (login, seq);

-- Each finance transaction as it is now. A deleted one has state 6.
CREATE TABLE trade (
    "order"    bigint PRIMARY KEY,
    login      bigint NOT NULL,
    cmd        smallint NOT NULL,
    state      smallint NOT NULL,
    profit     bigint NOT NULL,
    comment    text NOT NULL,
    open_time  bigint NOT NULL,
    close_time bigint NOT NULL,
    -- the last change
    timestamp  bigint NOT NULL,
    -- how often it was changed since it was made
    revision   integer NOT NULL DEFAULT 0,
    -- of the last change
    seq        bigint NOT NULL
);
CREATE INDEX trade_login ON trade (login);
CREATE INDEX trade_waiting ON trade ("order") WHERE state = 17;

-- The accounts that were opened. Whoever books on one locks its row first, and does not
-- update it: each batch would leave a version of it behind, and as long as an old
-- snapshot is open, such as that of a dump, none can be removed, and all are searched.
CREATE TABLE opened (
    login   bigint PRIMARY KEY,
    -- by which tokens are restricted to some of the accounts
    "group" text NOT NULL DEFAULT '',
    -- the totals with which it was imported: they count until an event has others
    balance bigint NOT NULL DEFAULT 0 CHECK (balance >= 0),
    credit  bigint NOT NULL DEFAULT 0 CHECK (credit >= 0)
);

-- The accounts as they are now.
CREATE VIEW account AS
SELECT login, "group",
       coalesce((
           SELECT event.balance FROM event WHERE event.login = opened.login
           ORDER BY event.seq DESC LIMIT 1
       ), balance) AS balance,
       coalesce((
           SELECT event.credit FROM event WHERE event.login = opened.login
           ORDER BY event.seq DESC LIMIT 1
       ), credit) AS credit
FROM opened;

-- Which accounts were moved to another group, in the order of the moves: what nodes read
-- to keep the groups at hand.
CREATE TABLE moved (
    number  bigint PRIMARY KEY,
    login   bigint NOT NULL,
    "group" text NOT NULL
);

-- The place that was booked under each principal's key. NULL is seen only by the
-- transaction that is about to book it.
CREATE TABLE keyed (
    principal bigint NOT NULL,
    key       text NOT NULL,
    stream    integer NOT NULL,
    seq       bigint,
    PRIMARY KEY (principal, key)
);

-- One row: the first order number that no node has reserved yet.
CREATE TABLE block (
    id   integer PRIMARY KEY,
    next bigint NOT NULL
);
INSERT INTO block VALUES (1, 64);

-- The conditions of all rules that some node has, or had until a week ago, in its file of
-- --limits. What meets the conditions of one that counts is added up for it by every node.
CREATE TABLE rule (
    -- the digest of all that follows
    id         text PRIMARY KEY,
    -- 1, 2, 3 ...
    number     bigint NOT NULL UNIQUE,
    -- whether sums are kept: for each principal, login or role, or one for all
    counts     boolean NOT NULL,
    per        text NOT NULL,
    -- NULL where there is no such condition
    roles      smallint[],
    principals bigint[],
    logins     bigint[],
    -- the cmds of the trades that are made or updated, and of those that are deleted, as
    -- bits
    booked     bigint,
    deleted    bigint,
    -- of groups, as LIKE has them; the first that matches decides
    patterns   text[],
    excludes   boolean[],
    -- the last UTC day on which a node has said that it has this rule
    seen       bigint NOT NULL
);

-- What counts for each rule on each UTC day, in 10⁻⁸ units. A day is the number of days
-- since 1970-01-01; a key is a principal, a login or a role, and 0 if there is one sum.
-- Each sum has a row that is never updated but locked by whoever counts; once something
-- was counted, another one has the sum, and is replaced by the next. So the last one is
-- found at once, however many were replaced while an old snapshot is open.
-- Those of past days are of no use, and are deleted after a week.
CREATE TABLE counted (
    day    bigint NOT NULL,
    rule   text NOT NULL,
    key    bigint NOT NULL,
    -- the last place of the batch that has counted last; 0 in the row that is locked
    seq    bigint NOT NULL DEFAULT 0,
    amount numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (day, rule, key, seq)
);

-- The methods: the total for which the trades of each cmd count.
CREATE TABLE operation (
    cmd     smallint PRIMARY KEY,
    balance smallint NOT NULL,
    credit  smallint NOT NULL,
    sign    smallint NOT NULL,
    label   text NOT NULL,
    CHECK (balance + credit = 1)
);
