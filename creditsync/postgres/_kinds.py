"""
The two kinds of ledgers: one in which servers book themselves, and one of a gateway,
which has another platform book. A ledger is of one kind for ever, as each would give
order numbers that the other has given.
"""

from typing import Final

import psycopg

from creditsync.errors import LedgerProblem
from creditsync.postgres._schema import GATEWAY, IS_GATEWAYS
from creditsync.postgres._starting import ISession, checkRights

# What a gateway does with the tables that only it has.
_RIGHTS: Final = {
    "intent": ("SELECT", "INSERT", "UPDATE"),
    "caught_up": ("SELECT", "UPDATE"),
    "alarm": ("SELECT", "INSERT"),
}

# The SQLSTATE of a ledger in which servers have booked.
_USED: Final = "CS003"


async def checkOwn(connection: ISession) -> None:
    """
    Check that a server may book there itself.

    @raise LedgerProblem: The ledger is a gateway's.
    """
    [(isGateways,)] = await connection.execute(IS_GATEWAYS)
    if isGateways:
        raise LedgerProblem(
            f"the ledger at {connection.place} is a gateway's: start with --upstream,"
            " or name another ledger"
        )


async def makeGateway(connection: ISession) -> None:
    """
    Make the tables that only a gateway has, where there are none.

    @raise LedgerProblem: Servers have booked there, or the role may not make tables, or
        not use them.
    """
    [(isMade,)] = await connection.execute(IS_GATEWAYS)
    if not isMade:
        await _make(connection)
    await checkRights(connection, _RIGHTS)


async def _make(connection: ISession) -> None:
    place = connection.place
    try:
        await connection.execute(GATEWAY)
    except psycopg.errors.InsufficientPrivilege as e:
        raise LedgerProblem(
            f"{place} has no tables of a gateway, and this role may not make them: run"
            " creditsync init --gateway as the owner of the tables"
        ) from e
    except (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation):
        # Another gateway has made them just now.
        pass
    except psycopg.Error as e:
        if e.sqlstate != _USED:
            raise
        raise LedgerProblem(
            f"the ledger at {place} has bookings of servers of its own: a gateway needs"
            " another database"
        ) from e
