"""
The requests of a measurement, and the form of their replies.

Request and reply have the same length for every serial number, so a run of
lines can be made beforehand and a part of it sent by slicing.
"""

import re
from typing import Final

# The first extID; all have eight digits.
FIRST: Final = 10_000_000

# "extID" comes first, so that it is at the same place in every line.
_REQUEST: Final = (
    b'{"extID":%d,"command":"CreditInSync","__token":"%b","data":'
    b'{"login":%d,"amount":%d.25,"comment":"Promotion credit"}}\r\n'
)
_SUBSCRIPTION: Final = (
    b'{"extID":%d,"command":"%b","__token":"%b","data":{"chanels":["trade:event"]}}\r\n'
)
_OUTCOME: Final = (
    b'"login":%d,"cmd":7,"state":3,"profit":%d.25,"comment":"Promotion credit"'
)
_POST: Final = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)

# Where the extID stands in a request and in a reply.
EXT_ID: Final = slice(9, 17)

# A reply with status 200: its extID, its order and its outcome.
REPLY: Final = re.compile(
    rb'^\{"extID":(\d{8}),"status":200,"data":\{"order":(\d+),'
    rb'("login":\d+,"cmd":7,"state":3,"profit":[\d.]+,"comment":"[^"]*"),[^}]*\}\}\r$',
    re.MULTILINE,
)
# An event, and its order.
EVENT: Final = re.compile(
    rb'^\{"event":"trade:event","type":0,"data":\{"order":(\d+),[^}]*\}\}\r$',
    re.MULTILINE,
)
# A line of an HTTP response with status 200, but for its content.
HTTP: Final = re.compile(rb"^(?!HTTP/1\.1 (?!200 ))(?!\{)[^\n]*\r$", re.MULTILINE)


def request(extID: int, token: bytes) -> bytes:
    """
    The line that requests a credit.
    """
    return _REQUEST % (extID, token, _login(extID), _amount(extID))


def post(line: bytes) -> bytes:
    """
    The same request for HTTP.
    """
    return _POST % (len(line), line)


def subscription(extID: int, token: bytes, wanted: bool) -> bytes:
    """
    The line that subscribes its connection to the event stream or unsubscribes
    it.
    """
    return _SUBSCRIPTION % (extID, b"Subscribe" if wanted else b"Unsubscribe", token)


def outcome(extID: int) -> bytes:
    """
    The part of the reply to L{request} that describes the trade, from its
    login to its comment.
    """
    return _OUTCOME % (_login(extID), _amount(extID))


def ringLength(outstanding: int) -> int:
    """
    How many extIDs a connection cycles through: enough that none is reused
    while it is outstanding, unless a reply is long overdue.
    """
    return 16 * outstanding


def _login(extID: int) -> int:
    """
    One of a thousand accounts.
    """
    return 1000 + extID % 1000


def _amount(extID: int) -> int:
    """
    The whole part of an amount, three digits.
    """
    return 100 + extID % 900
