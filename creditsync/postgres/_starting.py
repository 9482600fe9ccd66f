"""
What a start finds out about its PostgreSQL: whether it can be used at all, in one
sentence if not; what its operator should know; and whether it has tables, which are
made if not.

No password is ever in a sentence: a server is named by its user, host and database.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import psycopg
from attrs import define
from twisted.internet.defer import Deferred

from creditsync._cursor import newEpoch
from creditsync.errors import LedgerProblem
from creditsync.methods import BOOKING_METHODS
from creditsync.postgres._connection import ConnectionLost, Row
from creditsync.postgres._schema import (
    IS_MADE,
    METHODS,
    MISSING,
    SCRIPTS,
    VERSION,
    newMethods,
    newStream,
    upgrade,
    wanted,
)
from creditsync.postgres._session import isStandby

_FACTS: Final = """
    SELECT current_user, current_schema(), pg_is_in_recovery(),
           current_setting('transaction_read_only') = 'on',
           current_setting('server_encoding'),
           current_setting('synchronous_standby_names', true),
           coalesce(current_setting('fsync', true), 'on') = 'on',
           pg_backend_pid(),
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
"""

# Whether a commit waits for a second machine. Engines that speak this protocol and lack
# the setting do so by themselves.
IS_SYNCHRONOUS: Final = (
    "SELECT coalesce(current_setting('synchronous_standby_names', true), '*') <> ''"
)

# What a failover without synchronous replication does: to nodes, and to a gateway.
LOSS: Final = (
    "what was acknowledged last. The nodes notice that after a failover, and stop"
)
GATEWAYS_LOSS: Final = (
    "what was written last. A gateway that is started after that does not know what was"
    " sent, and books it twice if a client repeats it"
)

Rights: TypeAlias = Mapping[str, Sequence[str]]

# What a node does with each table. It changes nothing that was booked, so the role of
# its connections need not be able to.
RIGHTS: Final[Rights] = {
    "version": ("SELECT",),
    "stream": ("SELECT", "UPDATE"),
    "life": ("SELECT",),
    "node": ("SELECT", "INSERT", "UPDATE"),
    "link": ("SELECT", "INSERT"),
    "event": ("SELECT", "INSERT"),
    "trade": ("SELECT", "INSERT", "UPDATE"),
    "opened": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "account": ("SELECT",),
    "moved": ("SELECT", "INSERT"),
    "keyed": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "block": ("SELECT", "UPDATE"),
    "operation": ("SELECT",),
    "rule": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "counted": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
# For what reads a ledger, opens accounts, begins the next life, and imports a ledger.
TO_READ: Final = dict.fromkeys(RIGHTS, ("SELECT",))
TO_ADD: Final[Rights] = {
    "stream": RIGHTS["stream"],
    "opened": ("SELECT", "INSERT", "UPDATE"),
    "moved": RIGHTS["moved"],
}
TO_RESTORE: Final = {**RIGHTS, "life": ("SELECT", "INSERT")}
TO_IMPORT: Final = {**RIGHTS, "life": ("SELECT", "INSERT", "DELETE")}

# The statements that grant the rights which a role lacks.
_LACKING: Final = """
    SELECT 'GRANT ' || privileges || ' ON '
        || string_agg(prefix || name, ', ' ORDER BY number)
        || ' TO ' || quote_ident(current_user)
    FROM (
        SELECT name, min(number) AS number,
               string_agg(privilege, ', ' ORDER BY number) AS privileges,
               CASE WHEN current_schema() = 'public' THEN ''
                   ELSE quote_ident(current_schema()) || '.' END AS prefix
        FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY
            AS needed (name, privilege, number)
        WHERE NOT has_table_privilege(to_regclass(name), privilege)
        GROUP BY name
    ) AS lacking
    GROUP BY privileges ORDER BY min(number)
"""

# The errors of two nodes that make or upgrade the tables at the same time: there is
# one, or the other is about to make it. The same errors come from other programs'
# tables of these names.
_ALREADY: Final = ("42P07", "42P06", "42710", "42723", "23505", "40P01", "55P03")
_TRIES: Final = 3


class ISession(Protocol):
    """
    What a check needs of a connection.
    """

    @property
    def place(self) -> str:
        """
        The server, for people.
        """

    @property
    def backend(self) -> int:
        """
        The process that serves the connection, as the server has introduced it.
        """

    def execute(
        self, statement: str, values: Sequence[Any] = ()
    ) -> Deferred[list[Row]]:
        """
        Execute a statement.
        """


@define
class _Facts:
    role: str
    schema: str | None
    isStandby: bool
    isReadOnly: bool
    encoding: str
    standbys: str | None
    isSafe: bool
    backend: int
    mayCreate: bool


def check(
    connection: ISession,
    now: Callable[[], float] = time.time,
    rights: Rights = RIGHTS,
    loss: str = LOSS,
) -> Deferred[list[str]]:
    """
    Check the server and its tables, and make or upgrade these.

    @param now: The time, in UNIX seconds.
    @param rights: What the role has to be allowed.
    @param loss: What a failover without synchronous replication loses.
    @return: Fires with sentences of which the operator should be warned. Fails with
        L{LedgerProblem} if a node can't book there.
    """
    return Deferred.fromCoroutine(_check(connection, now, rights, loss))


async def _check(
    connection: ISession, now: Callable[[], float], rights: Rights, loss: str
) -> list[str]:
    place = connection.place
    try:
        [row] = await connection.execute(_FACTS)
        facts = _Facts(*row)
        for problem in _problems(facts, place):
            raise LedgerProblem(problem)
        await _makeTables(connection, facts, now, rights)
        await _checkRights(connection, rights)
        await _checkMethods(connection)
    except psycopg.Error as e:
        cause = " ".join(str(e).split())
        raise LedgerProblem(f"PostgreSQL can't be used at {place}: {cause}") from e
    except ConnectionLost as e:
        raise LedgerProblem(
            f"the connection to {place} was lost: {' '.join(str(e).split())}"
        ) from e
    return list(_warnings(facts, connection, loss))


def _problems(facts: _Facts, place: str) -> Iterator[str]:
    """
    What keeps any node from booking there.
    """
    if facts.isStandby:
        yield isStandby(place)
    if facts.isReadOnly:
        yield (
            f"{place} is read-only for the role {facts.role}: set"
            " default_transaction_read_only to off for it"
        )
    if facts.encoding != "UTF8":
        yield (
            f"{place} has the encoding {facts.encoding}, in which not every comment can"
            " be stored: create a database with ENCODING 'UTF8'"
        )
    if facts.schema is None:
        yield (
            f"the search_path of the role {facts.role} names no schema that it may use"
            f" at {place}: create one, or set the search_path"
        )


def _warnings(facts: _Facts, connection: ISession, loss: str) -> Iterator[str]:
    """
    What a node can work with, and its operator should know.
    """
    place = connection.place
    if facts.backend != connection.backend:
        yield (
            f"A connection pooler answers at {place}: it may swallow notifications, so"
            " that events of other nodes are found by polling only, and it passes"
            " settings on to other programs. Let --ledger name the server itself."
        )
    if not facts.standbys:
        yield (
            f"{place} has no synchronous replication: if its machine is lost, so is"
            f" {loss}. Set synchronous_standby_names unless the storage itself is"
            " replicated."
        )
    if not facts.isSafe:
        yield (
            f"{place} has fsync turned off: a crash of its machine may lose what was"
            " acknowledged, and damage the rest. Turn it on."
        )


async def _makeTables(
    connection: ISession, facts: _Facts, now: Callable[[], float], rights: Rights
) -> None:
    """
    Make the tables, or bring them up to date.
    """
    place, error = connection.place, None
    for _ in range(_TRIES):
        version = await _version(connection, rights)
        if version == len(SCRIPTS):
            return
        if not facts.mayCreate:
            raise LedgerProblem(
                f"{place} has {'old' if version else 'no'} tables, and the role"
                f" {facts.role} may not make new ones: run creditsync init as one that"
                f' may, or GRANT CREATE ON SCHEMA "{facts.schema}" TO "{facts.role}"'
            )
        try:
            await _upgrade(connection, version, now)
        except psycopg.Error as e:
            if e.sqlstate not in _ALREADY:
                raise
            error = e
    raise LedgerProblem(
        f"the tables can't be made at {place}, as another program has some of these"
        f" names ({' '.join(str(error).split())}): give creditsync a database or a"
        " schema of its own"
    )


async def _version(connection: ISession, rights: Rights) -> int:
    """
    The version of the tables; 0 if there are none.

    @param rights: What is said to be lacking if this can't be read.
    """
    [(isMade,)] = await connection.execute(IS_MADE)
    if not isMade:
        return 0
    try:
        [(version,)] = await connection.execute(VERSION)
    except psycopg.Error as e:
        if e.sqlstate == "42501":
            await _checkRights(connection, rights)
        raise LedgerProblem(
            f'another program has a table "version" at {connection.place}: give'
            " creditsync a database or a schema of its own"
        ) from e
    missing = [name for (name,) in await connection.execute(MISSING)]
    if version and missing:
        listed = ", ".join(missing)
        raise LedgerProblem(
            f'{connection.place} has a table "version", but not {listed}: if it is'
            " another program's, give creditsync a database or a schema of its own;"
            " otherwise restore a backup"
        )
    if version > len(SCRIPTS):
        raise LedgerProblem(
            f"the tables at {connection.place} have version {version}, but this"
            f" creditsync supports versions up to {len(SCRIPTS)}: run the newer"
            " creditsync that made them"
        )
    return int(version)


def checkReadable(connection: ISession) -> Deferred[None]:
    """
    Check that there is a ledger that this build can read, on a standby too.

    @return: Fails with L{LedgerProblem} if not.
    """
    return Deferred.fromCoroutine(_checkReadable(connection))


async def _checkReadable(connection: ISession) -> None:
    version = await _version(connection, TO_READ)
    if version < len(SCRIPTS):
        raise LedgerProblem(
            f"{connection.place} has {'old' if version else 'no'} tables: run"
            " creditsync init as their owner, or start a node"
        )


async def _upgrade(
    connection: ISession, version: int, now: Callable[[], float]
) -> None:
    """
    Make what a version lacks, and begin the journal: all of it, or nothing.
    """
    statements = [upgrade(version)]
    for statement, values in (newStream(newEpoch(), int(now())), newMethods()):
        literals = [psycopg.sql.Literal(value).as_string() for value in values]
        statements.append(statement.replace("%s", "{}").format(*literals))
    await connection.execute(";\n".join(statements))


def checkRights(connection: ISession, rights: Rights) -> Deferred[None]:
    """
    Check that the role may do what it has to.

    @return: Fails with L{LedgerProblem}, which has all the statements that help.
    """
    return Deferred.fromCoroutine(_checkRights(connection, rights))


async def _checkRights(connection: ISession, rights: Rights) -> None:
    needed = [(name, each) for name, of in rights.items() for each in of]
    names, privileges = map(list, zip(*needed, strict=True))
    lacking = await connection.execute(_LACKING, [names, privileges])
    if lacking:
        grants = "; ".join(grant for (grant,) in lacking)
        raise LedgerProblem(
            f"the role lacks rights at {connection.place}; as the owner of the tables:"
            f" {grants}"
        )


async def _checkMethods(connection: ISession) -> None:
    """
    Check that this build and the tables count alike; add methods that are new.
    """
    known = {row[0]: row for row in await connection.execute(METHODS)}
    ours: dict[object, Any] = {each.cmd: wanted(each) for each in BOOKING_METHODS}
    for cmd, row in sorted(known.items()):
        if cmd not in ours or ours[cmd][:-1] != row[:-1]:
            raise LedgerProblem(
                f"the tables at {connection.place} have transactions of cmd {cmd},"
                " which this creditsync does not know or would count differently: run"
                " the creditsync that booked them"
            )
    if set(ours) - set(known):
        await connection.execute(*newMethods())
