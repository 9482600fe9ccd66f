"""
Sign-ins at the console, with the tokens of C{docs/protocol.rst}.

A token is checked once, by the server's own authenticator. From then on the
browser has a cookie with a random name of that sign-in, which reveals nothing and
which no script can read. A sign-in ends when its token expires or is revoked, or
with a sign-out.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request

from creditsync._metrics.reading import roleOf
from creditsync.codes import FINANCE_SESSIONS
from creditsync.errors import Forbidden, Refusal, TooManyRequests
from creditsync.interfaces import IAuthenticator
from creditsync.records import Principal
from creditsync.web._origins import Origins
from creditsync.web._responses import (
    SiteResource,
    header,
    printable,
    respond,
    respondError,
    respondRefusal,
)

# Sign-ins at the same time; a further one ends the oldest.
_MAX_SIGN_INS: Final = 1000
# Verifying a signature may take half a millisecond, so attempts are limited: in a
# burst of one client, in a burst of all clients, and the seconds after which the
# same number is allowed again.
_MAX_ATTEMPTS: Final = 20
_MAX_ATTEMPTS_OF_ALL: Final = 200
_RECOVERY: Final = 20.0

_log = Logger()


@define(eq=False)
class Attempts:
    """
    Recent attempts to sign in, by client: one that tries too often locks out only
    itself.
    """

    _clock: IReactorTime
    # Attempts and the time of the last, by client; None stands for all clients.
    _spent: dict[str | None, tuple[float, float]] = Factory(dict)

    def add(self, client: str) -> None:
        """
        Count one more.

        @raise TooManyRequests: There were too many.
        """
        now = self._clock.seconds()
        self._forget(now)
        spent = {
            who: self._left(who, most, now) + 1
            for who, most in ((None, _MAX_ATTEMPTS_OF_ALL), (client, _MAX_ATTEMPTS))
        }
        # Refused attempts are not counted: they would lock out others.
        if spent[None] > _MAX_ATTEMPTS_OF_ALL or spent[client] > _MAX_ATTEMPTS:
            raise TooManyRequests("too many sign-ins, try again in a few seconds")
        for who, count in spent.items():
            self._spent[who] = count, now

    def _left(self, who: str | None, most: int, now: float) -> float:
        spent, then = self._spent.get(who, (0.0, now))
        return max(0.0, spent - (now - then) * most / _RECOVERY)

    def _forget(self, now: float) -> None:
        over = [who for who, (_, then) in self._spent.items() if now - then > _RECOVERY]
        for who in over:
            del self._spent[who]


@define(eq=False)
class SignIns:
    """
    All sign-ins.
    """

    _authenticator: IAuthenticator
    origins: Origins
    _instance: str
    _attempts: Attempts
    _isRestricted: Callable[[Principal], bool]
    _principals: OrderedDict[str, Principal] = Factory(OrderedDict)

    def begin(self, token: str, client: str) -> str:
        """
        Sign in with a token.

        @param client: The client's address.
        @return: The name of the sign-in.
        @raise Refusal: The token is invalid, or its role or its groups do not allow
            the console, or there were too many attempts.
        """
        self._attempts.add(client)
        principal = self._authenticator.authenticate(token)
        if principal.role not in FINANCE_SESSIONS:
            raise Forbidden("this token's role may not use the console")
        if self._isRestricted(principal):
            # Everything that it shows is about all accounts.
            raise Forbidden(
                "the console needs a token that is not restricted to some accounts"
            )
        # Forget those that have ended first.
        for each in list(self._principals):
            self.principal(each)
        while len(self._principals) >= _MAX_SIGN_INS:
            self._principals.popitem(last=False)
        name = secrets.token_urlsafe(32)
        self._principals[name] = principal
        return name

    def principal(self, name: str) -> Principal | None:
        """
        The principal of a sign-in, unless it has ended.
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
        The name in a request's cookie, or an empty one.
        """
        secure, plain = (self._cookie(request, each) for each in (True, False))
        cookie = request.getCookie(secure)
        if cookie is None and not self.origins.isSecure(request):
            # A proxy may have terminated TLS without saying so: then both count.
            cookie = request.getCookie(plain)
        return (cookie or b"").decode("ascii", "replace")

    def setCookie(
        self, request: Request, value: bytes, maxAge: bytes | None = None
    ) -> None:
        """
        Set a cookie, which the browser keeps until it is closed.
        """
        isSecure = self.origins.isSecure(request)
        request.addCookie(
            self._cookie(request, isSecure),
            value,
            path=b"/",
            max_age=maxAge,
            secure=isSecure,
            httpOnly=True,
            sameSite=b"strict",
        )

    def _cookie(self, request: Request, isSecure: bool) -> bytes:
        """
        The name of the cookie. Browsers send a host's cookies to all its ports
        and, with this path, to all its pages: with the same name, two consoles
        would sign each other out. Over TLS nobody else can set it (C{__Host-}).
        """
        host = header(request, "Host").lower()
        own = blake2b(f"{self._instance} {host}".encode(), digest_size=8).hexdigest()
        return f"{'__Host-' * isSecure}creditsync_session_{own}".encode("ascii")

    def of(self, request: Request) -> Principal | None:
        """
        The principal that made a request, if it is signed in.
        """
        return self.principal(self.nameOf(request))


class SignedIn(SiteResource):
    """
    A resource that requires a sign-in.
    """

    def __init__(self, signIns: SignIns) -> None:
        super().__init__()
        self.signIns = signIns

    def render(self, request: Request) -> object:
        """
        See L{twisted.web.resource.IResource.render}.
        """
        if self.signIns.of(request) is None:
            return SignInRequired().render(request)
        return super().render(request)


class SignInRequired(SiteResource):
    """
    What is served instead to those who are not signed in.
    """

    def render_GET(self, request: Request) -> bytes:
        """
        401.
        """
        return respondError(request, 401, "UNAUTHORIZED", "sign in first")

    def render_POST(self, request: Request) -> bytes:
        """
        401.
        """
        return self.render_GET(request)


class SessionPage(SiteResource):
    """
    C{session}: who is signed in, and the sign-in.
    """

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
            return SignInRequired().render_GET(request)
        return _welcome(request, principal)

    def render_POST(self, request: Request) -> bytes:
        """
        Sign in with the C{token} of a form: 200 as for GET, or a refusal as in
        C{docs/protocol.rst}. A browser that wants a page is redirected to the
        console.
        """
        if not self._signIns.origins.hasSent(request):
            return foreign(request, self._signIns.origins)
        token = (request.args or {}).get(b"token", [b""])[0]
        client = self._signIns.origins.client(request)
        try:
            name = self._signIns.begin(token.decode("ascii", "replace").strip(), client)
        except Refusal as refusal:
            _log.info(
                "a sign-in from {peer} is refused: {why}",
                peer=client,
                why=refusal.message,
            )
            return respondRefusal(request, refusal)
        principal = self._signIns.principal(name)
        assert principal is not None
        _log.info(
            "{id} has signed in from {peer}",
            id=principal.id,
            peer=client,
        )
        self._signIns.setCookie(request, name.encode("ascii"))
        if b"text/html" in (request.getHeader(b"Accept") or b""):
            request.setResponseCode(303)
            request.setHeader(b"Location", b".")
            return b""
        return _welcome(request, principal)


class EndPage(SiteResource):
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
        if not self._signIns.origins.hasSent(request):
            return foreign(request, self._signIns.origins)
        self._signIns.end(self._signIns.nameOf(request))
        self._signIns.setCookie(request, b"", maxAge=b"0")
        request.setResponseCode(204)
        return b""


def foreign(request: Request, origins: Origins) -> bytes:
    """
    Refuse a request that a page of another site sent, or that came through an
    unknown proxy.
    """
    origin = printable(header(request, "Origin"))
    _log.warn(
        "{page} from {peer} is refused: it came from the origin {origin}, expected"
        " {expected}. If the console is behind a proxy, start the server with"
        " --web-origin and the origin that browsers show.",
        page=request.path.decode("ascii", "replace"),
        peer=origins.client(request),
        origin=origin,
        expected=printable(origins.expected(request)),
    )
    return respondError(
        request,
        403,
        "FORBIDDEN",
        f"the origin {origin} is not this site's; behind a proxy the server needs"
        " --web-origin",
    )


def _welcome(request: Request, principal: Principal) -> bytes:
    shown = {"principal": principal.id, "role": roleOf(principal)}
    return respond(request, 200, shown)
