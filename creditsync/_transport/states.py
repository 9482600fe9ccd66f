"""
The states of a connection, from its first byte to its end.

A connection ends in order. First its input ends; then the requests that have
come in get their replies; then the server closes its side, and drops what it
still receives until the client closes its own or the time for that is over.
Closing a socket that has unread input would make the kernel throw away replies
that are still on their way.
"""

from enum import Enum


class State(Enum):
    """
    Where a connection is in its life.

    What the state decides, and how it is reached::

        state        input is taken  output is sent  the transport was told
        NEW          yes             yes             -
        OPEN         yes             yes             -
        FINISHING    no              yes             -
        HALF_CLOSED  no              yes             -
        GOODBYE      no              no              loseWriteConnection
        CLOSING      no              no              loseConnection
        CUT_OFF      no              no              abortConnection
        LOST         no              no              -

    Lines that were complete when the input ended are still handled. What comes
    in C{GOODBYE} is read and dropped.

    The transitions, where C{-} changes nothing::

        state        data  finish     client closes  all answered  cut off  lost
        NEW          OPEN  FINISHING  HALF_CLOSED    -             CUT_OFF  LOST
        OPEN         -     FINISHING  HALF_CLOSED    -             CUT_OFF  LOST
        FINISHING    -     -          HALF_CLOSED    GOODBYE       CUT_OFF  LOST
        HALF_CLOSED  -     -          -              CLOSING       CUT_OFF  LOST
        GOODBYE      -     -          CLOSING        -             CUT_OFF  LOST
        CLOSING      -     -          -              -             CUT_OFF  LOST
        CUT_OFF      -     -          -              -             -        LOST
        LOST         -     -          -              -             -        -

    A transport that can't close one direction by itself goes from C{FINISHING}
    to C{CLOSING}.

    @ivar takesInput: Whether new input is taken.
    @ivar takesOutput: Whether what the session sends is sent.
    @ivar isPausable: Whether the transport may be told to stop reading and to
        read on. An input that has ended must not be read again, since a reactor
        would find it ready for ever; and after the server has closed its side,
        it reads on whatever comes.
    """

    NEW = "new", True, True, True
    OPEN = "open", True, True, True
    FINISHING = "finishing", False, True, True
    HALF_CLOSED = "half closed", False, True, False
    GOODBYE = "goodbye", False, False, False
    CLOSING = "closing", False, False, False
    CUT_OFF = "cut off", False, False, False
    LOST = "lost", False, False, False

    # The text makes them differ: members with equal values would be one.
    def __init__(
        self, _: str, takesInput: bool, takesOutput: bool, isPausable: bool
    ) -> None:
        self.takesInput = takesInput
        self.takesOutput = takesOutput
        self.isPausable = isPausable
