"""
Who looks at the console: sign-ins by the tokens of the wire contract.

A token is judged once, by the server's own authenticator. From then on the
browser has a cookie with a random name for that sign-in, which says nothing by
itself and which no script can read. A sign-in ends with its token, when that
expires or is revoked, or when it is asked to.
"""

import secrets
from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request

from creditsync.codes import FINANCE_SESSIONS
from creditsync.errors import Forbidden, Refusal, TooManyRequests
from creditsync.interfaces import IAuthenticator
from creditsync.metrics import ROLES
from creditsync.records import Principal
from creditsync.web.answers import Answer, answer, problem

_COOKIE: Final = b"creditsync_session"
# Sign-ins at once; the oldest goes first.
_MOST: Final = 1000
# To look at a bad signature may take half a millisecond: so many attempts at
# once, and then one for each of so many seconds.
_ATTEMPTS: Final = 20
_RECOVERY: Final = 1.0


@define(eq=False)
class SignIns:
    """
    Those who are signed in.
    """

    _clock: IReactorTime
    _authenticator: IAuthenticator
    _principals: OrderedDict[str, Principal] = Factory(OrderedDict)
    _spent: float = 0.0
    _lastAttempt: float = 0.0

    def begin(self, token: str) -> str:
        """
        Sign the bearer of a token in.

        @return: The name of the sign-in.
        @raise Refusal: The token is not good, or its role may not look, or
            there were too many attempts.
        """
        self._attempt()
        principal = self._authenticator.authenticate(token)
        if principal.role not in FINANCE_SESSIONS:
            raise Forbidden("this token's role may not use the console")
        while len(self._principals) >= _MOST:
            self._principals.popitem(last=False)
        name = secrets.token_urlsafe(32)
        self._principals[name] = principal
        return name

    def _attempt(self) -> None:
        now = self._clock.seconds()
        recovered = (now - self._lastAttempt) / _RECOVERY
        self._lastAttempt = now
        self._spent = max(0.0, self._spent - recovered)
        if self._spent > _ATTEMPTS - 1:
            raise TooManyRequests("too many sign-ins, try again in a few seconds")
        self._spent += 1

    def principal(self, name: str) -> Principal | None:
        """
        Who has signed in under this name, and still may look.
        """
        principal = self._principals.get(name)
        if principal is None or self._authenticator.isCurrent(principal):
            return principal
        del self._principals[name]
        return None

    def end(self, name: str) -> None:
        """
        Sign out.
        """
        self._principals.pop(name, None)

    def nameOf(self, request: Request) -> str:
        """
        The name that a request's cookie has, or an empty one.
        """
        return (request.getCookie(_COOKIE) or b"").decode("ascii", "replace")

    def of(self, request: Request) -> Principal | None:
        """
        Who makes a request, if they are signed in.
        """
        return self.principal(self.nameOf(request))


class SignedIn(Answer):
    """
    A resource for those who are signed in.
    """

    def __init__(self, signIns: SignIns) -> None:
        super().__init__()
        self.signIns = signIns

    def render(self, request: Request) -> object:
        """
        See L{twisted.web.resource.IResource.render}.
        """
        if self.signIns.of(request) is None:
            return Stranger().render(request)
        return super().render(request)


class Stranger(Answer):
    """
    What those get who are not signed in.
    """

    def render_GET(self, request: Request) -> bytes:
        """
        Say so.
        """
        return problem(request, 401, "UNAUTHORIZED", "sign in first")


class SessionPage(Answer):
    """
    C{session}: who is signed in, and the way in.
    """

    _log = Logger()

    def __init__(self, signIns: SignIns) -> None:
        super().__init__()
        self._signIns = signIns
        self.putChild(b"end", EndPage(signIns))

    def render_GET(self, request: Request) -> bytes:
        """
        Who is signed in: 200 with C{principal} and C{role}, or 401.
        """
        principal = self._signIns.of(request)
        if principal is None:
            return Stranger().render_GET(request)
        return _welcome(request, principal)

    def render_POST(self, request: Request) -> bytes:
        """
        Sign in with the C{token} of a form: 200 as for GET, or a refusal as of
        the wire contract. A browser that wants a page is sent to the console.
        """
        if not isFromHere(request):
            return foreign(request)
        token = (request.args or {}).get(b"token", [b""])[0]
        try:
            name = self._signIns.begin(token.decode("ascii", "replace").strip())
        except Refusal as refusal:
            self._log.info(
                "a sign-in from {peer} is refused: {why}",
                peer=_host(request),
                why=refusal.message,
            )
            return problem(request, refusal.status, refusal.error, refusal.message)
        principal = self._signIns.principal(name)
        assert principal is not None
        self._log.info(
            "{id} has signed in from {peer}",
            id=principal.id,
            peer=_host(request),
        )
        _setCookie(request, name.encode("ascii"))
        if b"text/html" in (request.getHeader(b"Accept") or b""):
            request.setResponseCode(303)
            request.setHeader(b"Location", b".")
            return b""
        return _welcome(request, principal)


class EndPage(Answer):
    """
    C{POST session/end}: sign out.
    """

    def __init__(self, signIns: SignIns) -> None:
        super().__init__()
        self._signIns = signIns

    def render_POST(self, request: Request) -> bytes:
        """
        204, whether there was a sign-in or not.
        """
        if not isFromHere(request):
            return foreign(request)
        self._signIns.end(self._signIns.nameOf(request))
        _setCookie(request, b"", maxAge=b"0")
        request.setResponseCode(204)
        return b""


def isFromHere(request: Request) -> bool:
    """
    Whether a page of this site sent a request: every browser says from where
    it posts, and a proxy in between may have taken TLS off.
    """
    origin = urlsplit(request.getHeader("Origin") or "").netloc
    return bool(origin) and origin == request.getHeader("Host")


def foreign(request: Request) -> bytes:
    """
    Refuse a request of a page of another site.
    """
    return problem(request, 403, "FORBIDDEN", "Origin is not this site")


def _setCookie(request: Request, value: bytes, maxAge: bytes | None = None) -> None:
    isSecure = request.isSecure() or (request.getHeader("Origin") or "").startswith(
        "https:"
    )
    request.addCookie(
        _COOKIE,
        value,
        path=b"/",
        max_age=maxAge,
        secure=isSecure,
        httpOnly=True,
        sameSite=b"strict",
    )


def _host(request: Request) -> str:
    return str(getattr(request.getClientAddress(), "host", "here"))


def _welcome(request: Request, principal: Principal) -> bytes:
    shown = {"principal": principal.id, "role": ROLES[principal.role]}
    return answer(request, 200, shown)
