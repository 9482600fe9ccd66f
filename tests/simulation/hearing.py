"""
When a connection must receive an event: while it is subscribed, and if the last token
that was accepted on it is valid and for the account.

From outside it is known of a request when it had arrived, and when its reply left. In
between its token was accepted, so an event of that time may be judged by the token
before it or by this one.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from tests.simulation.history import NEVER, Attempt, Moment, Publication, Talk
from tests.simulation.rights import Rights
from tests.simulation.world import World

# Whether a session must receive an event that is published now.
NOT, MAY, MUST = "not", "maybe", "yes"
# Seconds for which a revoked token may still receive events.
_RECHECK = 1.0
# Errors of requests whose token was not accepted, and of those of which it is unknown.
_BEFORE_TOKEN = ("UNAUTHORIZED", "SHUTDOWN", "INVALID_JSON", "LINE_TOO_LONG")
_UNKNOWN = ("INVALID_DATA",)


class InForce:
    """
    The tokens that count on a connection, and what they are for.
    """

    def __init__(
        self,
        world: World,
        rights: Rights,
        talk: Talk,
        begun: Attempt | None = None,
    ) -> None:
        """
        @param begun: A request whose token was accepted: look only at what comes after
            that.
        """
        self._world = world
        self._rights = rights
        self._isBegun = begun is not None
        first = 0 if begun is None else talk.attempts.index(begun)
        # Those whose token may have been accepted.
        self._attempts = [
            each
            for each in talk.attempts[first:]
            if each.delivered is not None
            and (each.reply is None or each.reply.error not in _BEFORE_TOKEN)
        ]
        accepted = sorted(
            (each.reply.written, number)
            for number, each in enumerate(self._attempts)
            if each.reply is not None and each.reply.error not in _UNKNOWN
        )
        self._moments = [moment for moment, _ in accepted]
        # Lines are read in their order, so no token before the last one that is known
        # to have been accepted can count.
        self._numbers = [*accumulate((number for _, number in accepted), max)]
        self._isPlain = all(
            rights.hasAll(each.token) and not each.token.isLimited
            for each in self._attempts
        )

    def between(self, first: Moment, last: Moment) -> Iterator[Attempt | None]:
        """
        The requests whose tokens may have counted between two moments; with L{None} if
        it may be that none did.
        """
        known = bisect_left(self._moments, first)
        number = self._numbers[known - 1] if known else 0
        if not known and not self._isBegun:
            yield None
        for each in self._attempts[number:]:
            assert each.delivered is not None
            if each.delivered > last:
                break
            yield each

    def mayGet(self, login: int, first: Moment, last: Moment) -> set[bool]:
        """
        Whether an account's events could be sent between two moments: both, if that is
        not known.
        """
        if self._isPlain:
            # Then it only matters whether any was accepted.
            return {each is not None for each in self.between(first, last)}
        found = set[bool]()
        for attempt in self.between(first, last):
            if attempt is None:
                found.add(False)
            else:
                found |= self._mayGet(attempt, login, first, last)
        return found

    def _mayGet(
        self, attempt: Attempt, login: int, first: Moment, last: Moment
    ) -> set[bool]:
        token = attempt.token
        sees = self._rights.sees(token, login, first, last)
        isValid = self._isValid(attempt, first, last)
        if True not in isValid:
            return {False}
        return sees | (isValid - {True})

    def _isValid(self, attempt: Attempt, first: Moment, last: Moment) -> set[bool]:
        """
        Whether a request's token has been valid since then.
        """
        token, delivered = attempt.token, attempt.delivered
        assert delivered is not None
        isValid = {True}
        if token.revoked is not None and last[0] >= token.revoked:
            if first[0] > token.revoked + _RECHECK:
                return {False}
            isValid.add(False)
        if token.expires is None:
            return isValid
        if self._world.wallBetween(first[0], last[0])[0] >= token.expires:
            return {False}
        # If it was invalid for a while, the session has to send it again.
        if self._world.wallBetween(delivered[0], last[0])[1] >= token.expires:
            isValid.add(False)
        return isValid

    def wasLimited(self, first: Moment, last: Moment) -> bool:
        """
        Whether a token that is, or may become, invalid may have counted.
        """
        return any(
            each is not None and each.token.isLimited
            for each in self.between(first, last)
        )


class Hearing:
    """
    The times at which a connection must receive events.
    """

    def __init__(self, talk: Talk, inForce: InForce) -> None:
        self._talk = talk
        self._inForce = inForce
        self._changes = sorted(self._changesOf(talk), key=lambda change: change[0])
        self._next = 0
        self._state = MUST

    def _changesOf(self, talk: Talk) -> Iterator[tuple[Moment, str]]:
        """
        A connection is subscribed until it unsubscribes. While such a command is on
        its way, either is allowed.
        """
        state = MUST
        for attempt in talk.attempts:
            if attempt.intent.command not in ("Subscribe", "Unsubscribe"):
                continue
            yield attempt.delivered or NEVER, MAY
            if attempt.reply is None:
                return
            if attempt.status == 200:
                isSubscribed = attempt.intent.command == "Subscribe"
                state = MUST if isSubscribed else NOT
            yield attempt.reply.written, state

    def at(self, published: Publication) -> str:
        """
        Whether the connection must receive this event.
        """
        moment, changes, talk = published.at, self._changes, self._talk
        while self._next < len(changes) and changes[self._next][0] < moment:
            self._state = changes[self._next][1]
            self._next += 1
        state = self._state
        if self._next < len(changes) and changes[self._next][0] == moment:
            state = MAY
        if moment >= min(talk.goodbye, talk.closed):
            return MAY
        if state == NOT:
            return NOT
        mayGet = self._inForce.mayGet(published.data.login, moment, moment)
        if True not in mayGet:
            return NOT
        return state if mayGet == {True} else MAY
