"""
Who receives trade events.

A session does from the moment at which one of its tokens is accepted, unless it
has unsubscribed, and for as long as that token is valid (docs/protocol.rst,
"Trade events"). An event is encoded once: the sessions get it as a line, and the
requests that were waiting for it get its data as their replies.
"""

from collections.abc import Sequence

from attrs import Factory, define
from twisted.logger import Logger

from creditsync import _wire as wire
from creditsync._conversation.waiters import Waiters
from creditsync.counters import Counters
from creditsync.interfaces import IAuthenticator, ISession
from creditsync.records import Principal, TradeEvent


@define(eq=False, repr=False)
class Broadcast:
    """
    The sessions that receive trade events, each with the principal whose token
    allows it.
    """

    _authenticator: IAuthenticator
    _waiters: Waiters
    _counters: Counters | None = None
    _receivers: dict[ISession, Principal] = Factory(dict)

    _log = Logger()

    def add(self, session: ISession, principal: Principal) -> None:
        """
        Send events to a session for as long as this principal is current.
        """
        self._receivers[session] = principal

    def remove(self, session: ISession) -> None:
        """
        Send no more events to a session.
        """
        self._receivers.pop(session, None)

    def tradeEvents(self, events: Sequence[TradeEvent]) -> None:
        """
        Send events to all sessions that receive them, then answer the requests
        that were waiting for them: an event's line comes before its reply's.
        """
        if self._counters is not None:
            self._counters.publishing(events)
        encoded = self._encoded(events)
        receivers = self._currentReceivers()
        if receivers:
            lines = b"".join(wire.event(event.type, data) for event, data in encoded)
            for session in receivers:
                session.send(lines)
        for event, data in encoded:
            self._waiters.match(event, data)

    def _encoded(self, events: Sequence[TradeEvent]) -> list[tuple[TradeEvent, bytes]]:
        """
        Encode the data of each event, once. One that can't be encoded does not
        stop the others.
        """
        encoded = []
        for event in events:
            try:
                encoded.append((event, wire.encodeData(event.data)))
            except Exception:
                self._log.failure("a trade event can't be encoded")
        return encoded

    def _currentReceivers(self) -> list[ISession]:
        """
        The sessions whose token is still valid; the others are removed, until
        they send a valid one.
        """
        receivers = self._receivers
        isCurrent = self._authenticator.isCurrent
        for session in [s for s in receivers if not isCurrent(receivers[s])]:
            session.principal = None
            del receivers[session]
        return list(receivers)
