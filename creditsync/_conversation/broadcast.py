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
        events, encoded = self._encoded(events)
        receivers = self._currentReceivers()
        if receivers and encoded:
            lines = wire.events([event.type for event in events], encoded)
            for session in receivers:
                session.send(lines)
        self._waiters.match(events, encoded)

    def _encoded(
        self, events: Sequence[TradeEvent]
    ) -> tuple[Sequence[TradeEvent], list[bytes]]:
        """
        Encode the data of each event, once: nearly always of all of them in one
        call. One that can't be encoded does not stop the others.

        @return: The events that could be encoded, and their data.
        """
        try:
            return events, wire.encodeTrades([event.data for event in events])
        except Exception:
            # Some are not trades, or can't be encoded.
            each = [(event, self._encodedAlone(event)) for event in events]
        could = [(event, data) for event, data in each if data is not None]
        return [event for event, _ in could], [data for _, data in could]

    def _encodedAlone(self, event: TradeEvent) -> bytes | None:
        try:
            return wire.encodeData(event.data)
        except Exception:
            self._log.failure("a trade event can't be encoded")
            return None

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
