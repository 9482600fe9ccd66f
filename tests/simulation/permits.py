"""
The rules of what a token may do and look up (C{docs/protocol.rst}, "Tokens and roles"
and "Rights").

What a token may not see is not there: a booking on another account is 403, and
whatever names an order of one is answered as if there were none.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from tests.family import ROLES, WAITS
from tests.simulation.blaming import blame
from tests.simulation.history import Attempt, Booking, History, Intent, Moment
from tests.simulation.rights import ADMIN, USER, Rights

# Errors of the checks between that of the role and that of the account.
_BEFORE_ACCOUNT = ("DUPLICATE_EXTID", "TOO_MANY_REQUESTS", "BUSY")
# The commands that name orders, with the error if there is none.
_MISSING = {
    "GetOperation": "NOT_FOUND",
    "GetTradeByOrder": "TRADE_NOT_FOUND",
    "GetTradeByOrders": "TRADE_NOT_FOUND",
}
# The look-ups that users may use too, and the others.
_OF_USERS = ("GetTradeByOrder", "GetTradeByOrders", "GetAccountByLogin")
_OF_BOOKERS = ("GetOperation", "MngGetTradesByFilter", "GetGroups")


@define(eq=False)
class Permits:
    """
    The judge of what tokens may do.
    """

    _history: History
    _rights: Rights
    # Of each order.
    _bookings: dict[int, list[Booking]] = field(
        init=False, factory=lambda: defaultdict(list)
    )
    # Of each key of a principal.
    _byKey: dict[tuple[int, str], list[Booking]] = field(
        init=False, factory=lambda: defaultdict(list)
    )

    def __attrs_post_init__(self) -> None:
        for each in self._history.bookings:
            self._bookings[each.trade.order].append(each)
            if each.key is not None:
                self._byKey[each.principal, each.key].append(each)

    def check(self, attempt: Attempt) -> None:
        """
        Check that a reply says no more than its token may know, and that nothing was
        done that it may not do.
        """
        intent, reply = attempt.intent, attempt.reply
        assert reply is not None
        isForbidden = reply.error == "FORBIDDEN"
        if not self.hasRole(intent):
            if not isForbidden:
                raise blame("role", "this role has other rights", attempt)
            return
        if isForbidden:
            if not self._isForbidden(attempt):
                raise blame("role", "this token has other rights", attempt)
            return
        isCutShort = intent.waitsForTurn and reply.status in (500, 504)
        if reply.error in _BEFORE_ACCOUNT or isCutShort:
            return
        if intent.cmd:
            if True not in self._sees(attempt, intent.data["login"]):
                raise blame("account", "the account is not this token's", attempt)
        elif intent.command == "GetAccountByLogin":
            isThere = True in self._sees(attempt, intent.data["login"])
            if not isThere and reply.error != "USER_NOT_FOUND":
                raise blame("account", "the account is not this token's", attempt)
        elif intent.isOfOrder or intent.command in _MISSING:
            self._checkOrder(attempt)

    def _isForbidden(self, attempt: Attempt) -> bool:
        """
        Whether a token of the right role may not do this: because of the account, or
        because its principal has made the finance request that it would approve.
        """
        intent = attempt.intent
        if intent.cmd:
            return False in self._sees(attempt, intent.data["login"])
        return intent.approves is True and any(
            each.trade.state == WAITS
            and each.principal == intent.token.principal
            and True in self._sees(attempt, each.trade.login)
            for each in self._meant(intent)
        )

    def _checkOrder(self, attempt: Attempt) -> None:
        """
        Check that an order of another account is answered like one that is not there.
        """
        intent, reply = attempt.intent, attempt.reply
        assert reply is not None
        missing = _MISSING.get(intent.command, "NOT_FOUND")
        if reply.error == missing or (intent.isOfOrder and self._isRepeated(attempt)):
            return
        logins = {each.trade.login for each in self._meant(intent)}
        if reply.status == 200:
            logins |= _loginsIn(reply.value["data"])
        if any(True not in self._sees(attempt, login) for login in logins):
            raise blame("account", "the order is not for this token", attempt)

    def _isRepeated(self, attempt: Attempt) -> bool:
        """
        Whether a deletion or a decision may have been carried out before under this
        key: then it is answered like then.
        """
        intent = attempt.intent
        key = intent.token.principal, intent.key
        return intent.key is not None and any(
            each is not attempt
            and each.delivered is not None
            and attempt.reply is not None
            and each.delivered <= attempt.reply.written
            for other in self._history.intents
            if (other.token.principal, other.key) == key
            for each in other.attempts
        )

    def hasRole(self, intent: Intent) -> bool:
        """
        Whether the role of a request's token may use its command.
        """
        role = intent.token.role
        if intent.isMove:
            return role == ADMIN
        if intent.command in _OF_USERS:
            return role in (*ROLES, USER)
        isOpen = not intent.isFinance and intent.command not in _OF_BOOKERS
        return role in ROLES or isOpen

    def mayBeHidden(self, attempt: Attempt) -> bool:
        """
        Whether what a request names may not have been this token's to see: all of it
        that was there when the request came. Of several orders it is the one that the
        reply names.
        """
        intent, delivered, reply = attempt.intent, attempt.delivered, attempt.reply
        assert delivered is not None and reply is not None
        bookings = self._meant(intent)
        if "orders" in intent.data:
            named = [
                order
                for order in intent.data["orders"]
                if reply.value["message"] == f"there is no order {order}"
            ]
            if not named:
                return False
            bookings = self._bookings.get(named[0], ())
        logins = {
            each.trade.login
            for each in bookings
            if each.applied is not None and each.applied < delivered
        }
        return all(False in self._sees(attempt, login) for login in logins)

    def _meant(self, intent: Intent) -> Iterable[Booking]:
        """
        The bookings of the orders that a request names.
        """
        if "orders" in intent.data:
            orders = intent.data["orders"]
            return (each for order in orders for each in self._bookings.get(order, ()))
        if "idempotencyKey" in intent.data:
            key = intent.token.principal, intent.data["idempotencyKey"]
            return self._byKey.get(key, ())
        return self._bookings.get(intent.data["order"], ())

    def _sees(self, attempt: Attempt, login: int) -> set[bool]:
        """
        Whether a request's token was for an account while it was carried out.
        """
        assert attempt.delivered is not None and attempt.reply is not None
        return self._rights.sees(
            attempt.token, login, attempt.delivered, attempt.reply.written
        )

    def isMoved(self, attempt: Attempt) -> bool:
        """
        Whether the move that a request asks for was carried out before its reply.
        """
        first, last = _span(attempt)
        data = attempt.intent.data
        return any(
            first <= each.begun and each.ended <= last
            for each in self._history.moves
            if (each.login, each.group) == (data["login"], data["group"])
        )

    def isKnown(self, attempt: Attempt) -> bool:
        """
        Whether the account in a request was there when it came, and certainly this
        token's to see.
        """
        login, (first, _) = attempt.intent.data["login"], _span(attempt)
        moments = [
            each.ended
            for each in self._history.moves
            if each.login == login and each.isThere
        ]
        moments += [
            each.applied
            for each in self._history.bookings
            if each.applied is not None and each.trade.login == login
        ]
        return min(moments, default=_span(attempt)[1]) < first and (
            self._sees(attempt, login) == {True}
        )


def _span(attempt: Attempt) -> tuple[Moment, Moment]:
    assert attempt.delivered is not None and attempt.reply is not None
    return attempt.delivered, attempt.reply.written


def _loginsIn(data: Mapping[str, Any]) -> set[int]:
    """
    The accounts of the trades in a reply.
    """
    if "rows" in data:
        at = data["structure"].index("login")
        return {row[at] for row in data["rows"]}
    return {data["login"]}
