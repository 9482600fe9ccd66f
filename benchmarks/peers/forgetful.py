"""
C{creditsync serve} with a trading runtime that forgets the operations of some
logins: it reserves their orders and never books them, so their requests stay
pending.

C{python -m benchmarks.peers.forgetful [options of creditsync serve]}
"""

import sys
from collections.abc import Callable
from itertools import count
from typing import Final

from creditsync._cli import serve
from creditsync.codes import EV_RECORD_ADD, TS_CLOSED_NORMAL
from creditsync.records import Deletion, Operation, Reservation, Trade
from creditsync.runtime import TradingRuntime

# Operations for logins from this one on are forgotten.
FORGOTTEN: Final = 9_000_000_000

_orders = count(1 << 50)
Submit = Callable[[TradingRuntime, Operation | Deletion], Reservation]


def forgetting(submit: Submit) -> Submit:
    """
    Wrap a runtime's C{submit} so that it forgets those operations.
    """

    def take(runtime: TradingRuntime, operation: Operation | Deletion) -> Reservation:
        if isinstance(operation, Deletion) or operation.login < FORGOTTEN:
            return submit(runtime, operation)
        trade = Trade(
            order=next(_orders),
            login=operation.login,
            cmd=operation.cmd,
            state=TS_CLOSED_NORMAL,
            profit=operation.amount,
            comment=operation.comment,
            openTime=0,
            closeTime=0,
            timestamp=0,
        )
        return Reservation(EV_RECORD_ADD, trade, operation)

    return take


if __name__ == "__main__":
    TradingRuntime.submit = forgetting(  # type: ignore[method-assign,assignment]
        TradingRuntime.submit
    )
    serve.run(sys.argv[1:])
