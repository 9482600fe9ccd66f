"""
Sessions that send a request, wait for its reply, and then wait a little
longer.
"""

import time
from functools import partial
from typing import Final

from attrs import Factory, define

from tests.load.record import Record, decode, token, unsubscribe
from tests.load.talks import PATIENCE, Conversation, Talks

# Seconds between an answer and the next request.
PAUSE: Final = 0.02


@define(eq=False)
class Polite:
    """
    Some polite sessions, and the record of their replies.
    """

    _port: int
    record: Record = Factory(lambda: Record("polite"))
    _talks: Talks = Factory(Talks)
    _ready: dict[Conversation, float] = Factory(dict)

    def join(self, sessions: int) -> None:
        """
        Open them.
        """
        for _ in range(sessions):
            conversation = Conversation(self._port)
            conversation.send(unsubscribe(token()))
            self._talks.add(conversation, partial(self._hear, conversation))

    def _hear(self, conversation: Conversation, lines: list[bytes]) -> None:
        for line in lines:
            reply = decode(line)
            if reply.extID != "quiet":
                self.record.answered(reply)
            self._ready[conversation] = time.monotonic() + PAUSE
        if conversation.ending:
            self.record.wrong(f"a polite session was {conversation.ending}")
            self._ready.pop(conversation, None)

    def turn(self) -> None:
        """
        Carry on for some milliseconds.
        """
        now = time.monotonic()
        for conversation in [c for c, at in self._ready.items() if at <= now]:
            del self._ready[conversation]
            conversation.send(self.record.ask())
        self._talks.turn(0.005)

    def finish(self) -> None:
        """
        Receive the last replies.
        """
        deadline = time.monotonic() + PATIENCE
        while self.record.inFlight and time.monotonic() < deadline:
            self._talks.turn(0.01)
        if self.record.inFlight:
            self.record.wrong("a polite session has no answer")
        self._talks.close()
