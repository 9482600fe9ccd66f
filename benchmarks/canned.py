"""
The lines of a server that does nothing else: creditsync's own event, and its
own reply to the request with the C{extID} L{benchmarks.traffic.FIRST}, split
at the C{extID}.
"""

from typing import Final

from benchmarks import traffic
from creditsync import _wire as wire
from creditsync.codes import (
    EV_RECORD_ADD,
    OP_CREDIT_IN,
    TS_CLOSED_NORMAL,
    UNITS_PER_ONE,
)
from creditsync.records import Trade

TRADE: Final = Trade(
    order=12345,
    login=1000,
    cmd=OP_CREDIT_IN,
    state=TS_CLOSED_NORMAL,
    profit=200 * UNITS_PER_ONE + UNITS_PER_ONE // 4,
    comment="Promotion credit",
    openTime=1_700_000_000,
    closeTime=1_700_000_000,
    timestamp=1_700_000_000,
)
_DATA: Final = wire.encodeData(TRADE, f"9f3c1a7e-{TRADE.order}")
_LINE: Final = wire.reply(traffic.FIRST, _DATA)

EVENT: Final = wire.event(EV_RECORD_ADD, _DATA)
HEAD: Final = _LINE[: traffic.EXT_ID.start]
TAIL: Final = _LINE[traffic.EXT_ID.stop :]
