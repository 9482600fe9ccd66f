"""
Commands of the platform behind a gateway, which the gateway passes on.

Here they are judged like any command: by the token, its role, and the limits. Their
data is not understood; it goes to the platform as it was written, and so does that of
the reply come back. What becomes of each is recorded, whether or not its client is
still there to learn of it.
"""

from collections import Counter
from collections.abc import Iterator

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._conversation.rights import Rights
from creditsync.audit import AuditTrail
from creditsync.errors import Busy, Forbidden, InvalidData, OutcomeUnknown, Refusal
from creditsync.interfaces import ICommand, IPassThrough, ISession
from creditsync.limits import Limits
from creditsync.methods import PassedCommand
from creditsync.records import Principal, Request, Response

_log = Logger()


@define(eq=False)
class _Shared:
    """
    What all commands that are passed on have in common.

    @ivar inFlight: How many of them are with the platform, by the C{id} of their
        tokens.
    """

    runtime: IPassThrough
    rights: Rights
    limits: Limits
    audit: AuditTrail | None
    inFlight: "Counter[int]" = Factory(Counter)


@implementer(ICommand)
@define(eq=False)
class Passed:
    """
    A command that is passed on.
    """

    _command: PassedCommand
    _shared: _Shared
    name: str = field(init=False)
    roles: frozenset[int] = field(init=False)
    schema = "passed"
    needsExtID = False
    isReadOnly = False

    def __attrs_post_init__(self) -> None:
        self.name, self.roles = self._command.name, self._command.roles

    def execute(self, session: ISession, request: Request) -> "Deferred[Response]":
        """
        See L{ICommand.execute}.

        @return: Fires with what the platform replies.
        """
        principal, shared = session.principal, self._shared
        assert principal is not None
        if request.key is not None:
            raise InvalidData(
                f"idempotencyKey can't be used with {self.name}: it is passed on to the"
                " platform, and a repetition is carried out again"
            )
        isRestricted = shared.rights.accounts(principal) is not None
        if isRestricted and not self._command.isClients:
            # With the rights of the gateway the platform would show all accounts.
            raise Forbidden(
                f"{self.name} needs a token that is not restricted to some accounts"
            )
        if shared.inFlight[principal.id] >= shared.limits.maxLookups:
            raise Busy(
                "you have too many commands with the platform already", "max-lookups"
            )
        shared.inFlight[principal.id] += 1
        data = wire.dataOf(request.line)
        passed = shared.runtime.passOn(self._command, data, request.token)
        passed.addErrback(self._failed)
        return passed.addBoth(self._ended, session, request, principal)

    def _failed(self, why: Failure) -> Failure:
        """
        What is no refusal says nothing of what the platform has done.
        """
        if why.check(Refusal):
            return why
        _log.failure("a command could not be passed on", why)
        return Failure(OutcomeUnknown(f"{self.name} could not be passed on"))

    def _ended(
        self,
        result: Response | Failure,
        session: ISession,
        request: Request,
        principal: Principal,
    ) -> Response | Failure:
        inFlight = self._shared.inFlight
        inFlight[principal.id] -= 1
        if not inFlight[principal.id]:
            del inFlight[principal.id]
        if self._shared.audit is not None:
            refusal = result.value if isinstance(result, Failure) else None
            assert refusal is None or isinstance(refusal, Refusal)
            self._shared.audit.passed(session, request, principal, refusal)
        return result


def passedCommands(
    runtime: IPassThrough, rights: Rights, limits: Limits, audit: AuditTrail | None
) -> Iterator[ICommand]:
    """
    The commands that a gateway passes on.
    """
    shared = _Shared(runtime, rights, limits, audit)
    for command in runtime.passed:
        yield Passed(command, shared)
