"""
What has to be done on a PostgreSQL that was restored from a backup, or that has lost
what was committed in a failover.

Clients know places and order numbers that it lacks, and it would give both out again,
for something else. So the journal begins a life with another epoch, which makes the
cursors of before recognizable, and order numbers go on far behind those that anybody
can know.
"""

from collections.abc import Callable

from attrs import define

from creditsync._cursor import newEpoch
from creditsync.ledger._copying import movedOn
from creditsync.postgres._blocking import CommandSession
from creditsync.postgres._numbers import SLOTS
from creditsync.postgres._schema import STREAM

_LIFE = """
    INSERT INTO life (stream, number, epoch, head, cause, timestamp)
    SELECT stream, max(number) + 1, %s,
           (SELECT coalesce(max(hi), 0) FROM link WHERE stream = life.stream),
           'copied', %s
    FROM life WHERE stream = %s GROUP BY stream
    RETURNING head
"""


def blockAfter(mark: int) -> int:
    """
    The first block of order numbers that has none below this one.
    """
    return max(-(-mark // SLOTS), 1) * SLOTS


@define
class Life:
    """
    A life that has begun.

    @ivar epoch: Its epoch.
    @ivar head: The last place before it.
    @ivar isDoubtful: Whether a standby may lack it yet.
    """

    epoch: str
    head: int
    isDoubtful: bool


def beginLife(session: CommandSession, now: Callable[[], float]) -> Life:
    """
    Begin a life, and shut out the nodes that still run: each finds that out when it
    books next, and ends.

    @param now: The time, in UNIX seconds.
    """
    with session.transaction() as commit:
        # In the order of all locks: the nodes first, the journal last.
        session.rows("UPDATE node SET incarnation = incarnation + 1, owner = ''")
        session.rows("SELECT id FROM stream FOR UPDATE")
        epoch = newEpoch()
        [(head,)] = session.rows(_LIFE, [epoch, int(now()), STREAM])
        session.rows("UPDATE stream SET epoch = %s WHERE id = %s", [epoch, STREAM])
        [(mark,)] = session.rows("SELECT next FROM block FOR UPDATE")
        moved = blockAfter(movedOn(mark))
        session.rows("UPDATE block SET next = %s", [moved])
    return Life(epoch, head, commit.isDoubtful)
