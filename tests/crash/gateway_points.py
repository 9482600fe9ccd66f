"""
Named points of the gateway at which it kills itself.

    python -m tests.crash.gateway_points NAME N [command line of creditsync]

See L{tests.crash.points}. What each group proves:

 - on the way out (requested, durable, sent): what was never sent is not booked, and
   what may have been sent is in the log;
 - on the way in (reply, event, order known, settled, durable, published): what the
   platform has booked is found by the next process, under the same key and once;
 - at a start: opening the log and catching up may be cut off anywhere.
"""

import sys
from typing import Final

from creditsync.__main__ import main
from tests.crash.points import AFTER, BEFORE, Point, arm

GATEWAY: Final = "in a gateway"
# Only with the way of two phases.
TWO_PHASE: Final = "in two phases"
# Only with the log on PostgreSQL.
POSTGRES: Final = "on PostgreSQL"
START: Final = "at a start of a gateway"


def _both(during: str, where: str, last: int = 1) -> list[Point]:
    name = f"creditsync.gateway.{where}"
    return [Point(during, moment, name, 1, last) for moment in (BEFORE, AFTER)]


POINTS: Final = [
    *_both(START, "_runtime:GatewayRuntime._opened"),
    *_both(START, "_runtime:GatewayRuntime.connected"),
    *_both(START, "_upstream:Upstream._introduced"),
    *_both(START, "_catchup:CatchUp._read"),
    *_both(GATEWAY, "_runtime:GatewayRuntime.submit", 20),
    *_both(GATEWAY, "_operations:Operations._prepare", 20),
    *_both(GATEWAY, "_journal:Journal.keep", 40),
    *_both(GATEWAY, "_journal:Journal.book", 20),
    *_both(GATEWAY, "_sqlitelog:SQLiteIntentLog.write", 20),
    *_both(GATEWAY, "_upstream:Upstream._send", 30),
    *_both(GATEWAY, "_upstream:Upstream._replyReceived", 30),
    *_both(GATEWAY, "_upstream:Upstream._eventReceived", 20),
    *_both(GATEWAY, "_seeing:Seeing.accept", 20),
    *_both(GATEWAY, "_settling:Settling.reveal", 20),
    *_both(GATEWAY, "_settling:Settling.settle", 20),
    *_both(GATEWAY, "_settling:Settling._booked", 20),
    *_both(POSTGRES, "_postgreslog:PostgresIntentLog._copy"),
    *_both(POSTGRES, "_postgreslog:makeGateway"),
    *_both(POSTGRES, "_postgreslog:chained", 10),
    *_both(POSTGRES, "_postgreslog:_named", 20),
    *_both(TWO_PHASE, "_twophase:TwoPhases._create", 20),
    *_both(TWO_PHASE, "_twophase:TwoPhases._choose", 20),
    *_both(TWO_PHASE, "_twophase:TwoPhases._approve", 20),
]


if __name__ == "__main__":
    [chosen] = (each for each in POINTS if each.name == sys.argv[1])
    arm(chosen, int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
