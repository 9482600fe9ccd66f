"""
Clients with many requests in flight, as a server has them when it is stopped.
"""

import time
from typing import Final

from attrs import define

from tests.load.record import Message, Record, decode
from tests.load.talks import Conversation

# Requests that a client has in flight.
WINDOW: Final = 32
# Seconds between the lines of a stubborn one.
PACE: Final = 0.002


@define(eq=False)
class Client:
    """
    One connection with many requests in flight, until it is told that the
    server is stopping.
    """

    conversation: Conversation
    record: Record
    isLingering: bool
    _isAsking: bool = True

    def ask(self) -> None:
        """
        Fill the window.
        """
        isAsking = self._isAsking and not self.conversation.ending
        while isAsking and self.record.inFlight < WINDOW:
            self.conversation.send(self.record.ask())

    def hear(self, lines: list[bytes]) -> None:
        """
        Take lines, and ask as many again.
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
        Ask no more, and say so.
        """
        self._isAsking = False
        if not self.conversation.isFull:
            self.conversation.endInput()

    def missing(self, signalled: float) -> list[int]:
        """
        The requests that had to be answered, and were not.
        """
        return self.record.unanswered()


@define(eq=False)
class Stubborn(Client):
    """
    One that sends on until its connection ends. What it sends after the last
    call may be dropped, and then has not happened.
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
        As of every client, of what was sent before the signal.
        """
        record = self.record
        return [each for each in record.unanswered() if record.sent[each] < signalled]
