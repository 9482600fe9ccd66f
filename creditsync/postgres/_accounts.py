"""
Accounts that a command adds, beside nodes that book.
"""

from collections.abc import Sequence
from typing import Final

from creditsync.postgres._blocking import connected
from creditsync.postgres._reading import checkVersion
from creditsync.postgres._schema import STREAM

_ADD: Final = """
    INSERT INTO account (login) SELECT unnest(%s::bigint[])
    ON CONFLICT DO NOTHING RETURNING login
"""
_MOVE: Final = (
    "SELECT move_1(%s, login, %s::text, true) FROM unnest(%s::bigint[]) login"
)


def addAccounts(
    address: str, command: str, logins: Sequence[int], group: str
) -> list[int]:
    """
    Open accounts with empty totals in a group, in one transaction.

    @param command: Who does it, for the server's administrator.
    @return: Those that did not exist before.
    @raise LedgerProblem: Nothing was added, and why.
    """
    with connected(address, command) as session:
        checkVersion(session)
        with session.session.transaction():
            # In the order of all locks: the accounts, sorted, and then the journal's,
            # which nodes wait for to learn the groups in their order.
            rows = session.rows(_ADD, [sorted(set(logins))])
            added = [login for (login,) in rows]
            if group and added:
                session.rows(_MOVE, [STREAM, group, added])
        return added
