"""
The rules of replies: one to each request, in time, and each true.

What a status means is in C{docs/protocol.rst}, "Errors". The one question behind
all of them is: did anything happen?
"""

from attrs import define

from tests.simulation.answers import Answers
from tests.simulation.audience import spoilt
from tests.simulation.blaming import blame
from tests.simulation.causes import Causes
from tests.simulation.history import Attempt, History, Talk
from tests.simulation.permits import Permits
from tests.simulation.setting import Setting
from tests.simulation.world import Violation, World

_TIMEOUT = 5.0
# A reply this much late is still in time: computing takes no time here.
_GRACE = 0.001
# Seconds for which a reply may be on its way; after that its client has it.
_UNDER_WAY = 5.0
# Seconds for which a stopping server still replies.
_LAST_CALL = 0.2
_NEVER = float("inf")
# The data of a refusal, by its status; only a 504 may have none.
_MEMBERS = {410: "head", 422: "order", 503: "retry_after_ms", 504: "order"}


@define(eq=False)
class Replies:
    """
    The checks of each request's reply.
    """

    _world: World
    _history: History
    _setting: Setting
    _causes: Causes
    _answers: Answers
    _permits: Permits

    def check(self) -> None:
        """
        Check all replies.
        """
        for talk in self._history.talks:
            self._checkTalk(talk)

    def _checkTalk(self, talk: Talk) -> None:
        self._checkCutOff(talk)
        isOver = False
        for attempt in talk.attempts:
            isTooLong = "LINE_TOO_LONG" in attempt.intent.allowed
            isOver = isOver or isTooLong or self._isTooSlow(attempt)
            if attempt.reply is not None:
                self._checkLine(attempt)
                self._checkTime(attempt)
                self._checkStatus(attempt)
            elif not isOver:
                self._checkSilence(attempt)

    def _isTooSlow(self, attempt: Attempt) -> bool:
        """
        Whether its line took so long that the server had stopped reading.
        """
        if attempt.begun is None:
            return False
        arrived = _NEVER if attempt.delivered is None else attempt.delivered[0]
        return arrived - attempt.begun >= self._setting.limits.lineTimeout - _GRACE

    def _checkCutOff(self, talk: Talk) -> None:
        """
        No client that reads is cut off, unless a limit is reached, or the end
        of the connection takes too long.
        """
        time = talk.abortedAt
        if time == _NEVER or talk.wasHeldUp(time, time):
            return
        generation = self._history.generations[talk.generation]
        isRefused = time == talk.opened
        isSlow = talk.isEnding and time >= talk.opened + _TIMEOUT
        # A stopping server ends its output first.
        isStopping = time >= generation.stopping and time >= talk.goodbye[0]
        if not (isRefused or isSlow or isStopping):
            raise Violation("cut-off", f"{talk.name} was cut off", (talk.name,))

    def _checkSilence(self, attempt: Attempt) -> None:
        """
        A missing reply is right only if none could have been received.
        """
        talk, delivered = attempt.talk, attempt.delivered
        if delivered is None:
            return
        generation = self._history.generations[talk.generation]
        # What comes before the server is ready waits until then.
        taken = max(delivered[0], generation.ready)
        answered = taken + _TIMEOUT + _UNDER_WAY
        isHeldUp = talk.wasHeldUp(delivered[0], talk.lostAt)
        if talk.lostAt < _NEVER and (answered > talk.lostAt or isHeldUp):
            return
        end = min(generation.stopping + _LAST_CALL, talk.goodbye[0])
        if delivered[0] < end - _GRACE:
            raise blame("one-reply", "there is no answer", attempt)

    def _checkLine(self, attempt: Attempt) -> None:
        reply = attempt.reply
        assert reply is not None
        members = set(reply.value)
        if attempt.extID:
            members.discard("extID")
        wanted = {"status", "error", "message"}
        if reply.status == 200:
            wanted = {"status", "data"}
        members -= {"data"} if reply.status in _MEMBERS else set()
        members -= {"replayed"} if reply.status == 200 else set()
        if spoilt(reply.raw) or members - {"data"} != wanted - {"data"}:
            raise blame("wire", "no reply as the contract has it", attempt)
        member = _MEMBERS.get(reply.status)
        data = reply.value.get("data", {})
        isMissing = member is not None and reply.status != 504 and not data
        kind = str if member == "head" else int
        isWrong = set(data) - {member} or not all(
            type(v) is kind for v in data.values()
        )
        if reply.status != 200 and (isMissing or isWrong):
            raise blame("wire", "its data is not what the contract has", attempt)

    def _begun(self, attempt: Attempt) -> float:
        """
        When a request was taken: what comes before the server is ready waits until
        then.
        """
        reply, delivered = attempt.reply, attempt.delivered
        assert reply is not None and delivered is not None
        generation = self._history.generations[attempt.talk.generation]
        return max(delivered[0], min(generation.ready, reply.written[0]))

    def _checkTime(self, attempt: Attempt) -> None:
        """
        Every reply comes in time, and a 504 not before its time.
        """
        reply, delivered, talk = attempt.reply, attempt.delivered, attempt.talk
        assert reply is not None and delivered is not None
        generation = self._history.generations[talk.generation]
        took = reply.written[0] - self._begun(attempt)
        isEnding = reply.written[0] >= generation.stopping
        isFault = self._world.counts["reservation-fails"] > 0 and (
            "the trading runtime failed" in reply.value.get("message", "")
        )
        isEarly = reply.status == 504 and took < _TIMEOUT - _GRACE
        if isEarly and not (isEnding or isFault):
            raise blame("timeout", f"504 after {took:.3f} s", attempt)
        if talk.wasHeldUp(delivered[0], reply.written[0]):
            return
        intent = attempt.intent
        isWaiting = intent.isFinance or intent.isMove or intent.waitsForTurn
        if took > (_TIMEOUT if isWaiting else 0.0) + _GRACE:
            raise blame("timeout", f"an answer after {took:.3f} s", attempt)

    def _checkStatus(self, attempt: Attempt) -> None:
        reply, intent = attempt.reply, attempt.intent
        assert reply is not None
        self._checkRights(attempt)
        if reply.status == 200:
            if not intent.isGood:
                raise blame("status", "this is wrong", attempt)
            self._answers.checkAnswer(attempt)
        elif not self._causes.isAllowed(attempt, reply.error):
            raise blame("status", "there is no cause for this", attempt)

    def _checkRights(self, attempt: Attempt) -> None:
        """
        An invalid token is 401, a role without the right 403, and a token is for its
        own accounts only.
        """
        reply, delivered, intent = attempt.reply, attempt.delivered, attempt.intent
        assert reply is not None and delivered is not None
        error = reply.error
        if error in ("SHUTDOWN", "UNAUTHORIZED") or not intent.isGood:
            return
        isHeldUp = attempt.talk.wasHeldUp(delivered[0], reply.written[0])
        begun = self._begun(attempt)
        if self._causes.wasBad(attempt, begun, begun) and not isHeldUp:
            raise blame("token", "the token was not good", attempt)
        self._permits.check(attempt)
