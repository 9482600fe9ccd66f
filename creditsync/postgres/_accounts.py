"""
Accounts that are opened before their first operation, while nodes run.
"""

from collections.abc import Collection, Sequence

from attrs import define

from creditsync.postgres._blocking import CommandSession
from creditsync.postgres._schema import STREAM
from creditsync.postgres._starting import TO_ADD

_ADD = """
    INSERT INTO opened (login) SELECT unnest(%s::bigint[]) ON CONFLICT DO NOTHING
    RETURNING login
"""
_MOVE = "SELECT move_1(%s, %s, %s, true)"


@define
class Added:
    """
    What was added.

    @ivar logins: Those that did not exist before.
    @ivar isDoubtful: Whether a standby may lack them yet.
    """

    logins: Collection[int]
    isDoubtful: bool


def addAccounts(session: CommandSession, logins: Sequence[int], group: str) -> Added:
    """
    Open accounts.

    @param group: Of those that are new.
    @raise LedgerProblem: There are no tables, or the role may not do this.
    """
    session.checkReadable()
    session.checkRights(TO_ADD)
    with session.transaction() as commit:
        # In the order of all locks: the accounts, sorted, and then the journal's, which
        # gives the moves their order.
        rows = session.rows(_ADD, [sorted(set(logins))])
        added = sorted(login for (login,) in rows)
        if group:
            for login in added:
                session.rows(_MOVE, [STREAM, login, group])
    return Added(added, commit.isDoubtful)
