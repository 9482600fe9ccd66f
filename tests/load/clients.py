"""
Clients with many pending requests, for a server that is stopped.
"""

import time
from typing import Final

from attrs import define

from tests.load.record import Message, Record, decode
from tests.load.talks import Conversation

# Requests that a client has in flight.
WINDOW: Final = 32
# Seconds between the lines of a stubborn client.
PACE: Final = 0.002


@define(eq=False)
class Client:
    """
    One connection with many pending requests, until the server says that it is
    stopping.
    """

    conversation: Conversation
    record: Record
    isLingering: bool
    _isAsking: bool = True

    def ask(self) -> None:
        """
        Send requests until the window is full.
        """
        isAsking = self._isAsking and not self.conversation.ending
        while isAsking and self.record.inFlight < WINDOW:
            self.conversation.send(self.record.ask())

    def hear(self, lines: list[bytes]) -> None:
        """
        Receive lines, and send as many requests again.
        """
        for line in lines:
            message = decode(line)
            if message.event is None:
                self._answered(message)
        if not self.conversation.ending:
            self.ask()
        elif not self.isLingering:
            self.conversation.close()

    def _answered(self, reply: Message) -> None:
        self.record.answered(reply)
        if reply.status == 503:
            self._isAsking = False

    def endInput(self) -> None:
        """
        End the input, and send no more requests.
        """
        self._isAsking = False
        if not self.conversation.isFull:
            self.conversation.endInput()

    def missing(self, signalled: float) -> list[int]:
        """
        The requests that should have been answered, and were not.
        """
        return self.record.unanswered()


@define(eq=False)
class Stubborn(Client):
    """
    A client that keeps sending until its connection ends. A request after the
    last call may be dropped, and then was not booked.
    """

    _next: float = 0.0

    def ask(self) -> None:
        """
        Send a line, if it is time.
        """
        now = time.monotonic()
        if now >= self._next and not self.conversation.ending:
            self._next = now + PACE
            self.conversation.send(self.record.ask())

    def missing(self, signalled: float) -> list[int]:
        """
        Like every client's, for the requests sent before the signal.
        """
        record = self.record
        return [each for each in record.unanswered() if record.sent[each] < signalled]
