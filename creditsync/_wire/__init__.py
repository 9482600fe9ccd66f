"""
Lines to values and values to lines: the only place that knows the wire's JSON.

L{decode} takes a line or says what is wrong with it, L{decodeTolerantly} takes what it
can of another program's. Of a line that is refused,
L{salvage} reads the C{extID} if it can. Lines go out in two steps, because one event
goes to many sessions, and its data into a reply as well: L{encodeData} and
L{encodeEvents} make a JSON text once, L{events} and L{reply} put lines around it.
L{bookings} makes the lines of the audit trail for a whole commit.

Private: nothing outside of creditsync imports it.
"""

from creditsync._wire.decoding import dataOf as dataOf
from creditsync._wire.decoding import decode as decode
from creditsync._wire.decoding import decodeTolerantly as decodeTolerantly
from creditsync._wire.encoding import amount as amount
from creditsync._wire.encoding import encodeData as encodeData
from creditsync._wire.encoding import encodeEvents as encodeEvents
from creditsync._wire.encoding import event as event
from creditsync._wire.encoding import events as events
from creditsync._wire.encoding import refusal as refusal
from creditsync._wire.encoding import replay as replay
from creditsync._wire.encoding import reply as reply
from creditsync._wire.encoding import rewritten as rewritten
from creditsync._wire.encoding import success as success
from creditsync._wire.rows import encodeFound as encodeFound
from creditsync._wire.rows import encodeGroupedRows as encodeGroupedRows
from creditsync._wire.rows import encodeRows as encodeRows
from creditsync._wire.rows import encodeTable as encodeTable
from creditsync._wire.salvaging import salvage as salvage
from creditsync._wire.trail import OMITTED as OMITTED
from creditsync._wire.trail import Booking as Booking
from creditsync._wire.trail import bookings as bookings
