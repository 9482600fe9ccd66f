"""
How this site responds: the headers of every response, and JSON.
"""

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import InvalidData, Refusal

# Scripts, styles and connections only from this site and none inside the page, so
# that text written by a client of the server, such as a comment, can never run.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    b" img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none';"
    b" require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS: Final[Mapping[bytes, bytes]] = {
    b"Content-Security-Policy": _POLICY,
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"DENY",
    # Not no-referrer: with that, browsers send "Origin: null" with a form.
    b"Referrer-Policy": b"same-origin",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    b"Cache-Control": b"no-store",
    b"Server": b"creditsync",
}


class SiteResource(Resource):
    """
    A resource with the headers of every response of this site.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def render(self, request: Request) -> Any:
        """
        See L{twisted.web.resource.IResource.render}.
        """
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        try:
            return super().render(request)  # type: ignore[no-untyped-call]
        except UnsupportedMethod as e:
            request.setHeader(b"Allow", b", ".join(sorted(e.allowedMethods)))
            return respondError(request, 405, "FORBIDDEN", "that can't be done here")

    def render_HEAD(self, request: Request) -> Any:
        """
        What GET responds, without its body.
        """
        body = self.render_GET(request)
        if isinstance(body, bytes):
            request.setHeader(b"Content-Length", b"%d" % len(body))
            return b""
        return body

    def render_GET(self, request: Request) -> Any:
        """
        404, unless overridden.
        """
        return respondError(request, 404, "NOT_FOUND", "there is no such page")

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        A resource for a path that does not exist.
        """
        return SiteResource()


def encode(value: object) -> bytes:
    """
    Encode JSON in one line. Values that JSON does not have, as an event of another
    source may contain, are encoded as text.
    """
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def respond(request: Request, status: int, value: object) -> bytes:
    """
    Respond with JSON.
    """
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    return encode(value) + b"\n"


def respondError(request: Request, status: int, error: str, message: str) -> bytes:
    """
    Respond with an error.
    """
    return respond(request, status, {"error": error, "message": message})


def respondRefusal(request: Request, refusal: Refusal) -> bytes:
    """
    Respond with what the server refuses.
    """
    return respondError(request, refusal.status, refusal.error, refusal.message)


def respondLater(
    request: Request,
    work: Coroutine[Any, Any, bytes],
    failed: Callable[[Request, Failure], bytes],
) -> int:
    """
    Respond with what work returns when it has ended, or with its refusal, unless the
    client has gone.

    @param failed: Returns the response if it fails otherwise.
    """
    gone: list[object] = []
    request.notifyFinish().addErrback(gone.append)
    done = Deferred.fromCoroutine(work)
    done.addErrback(_refused, request)
    done.addErrback(lambda why: failed(request, why))
    done.addCallback(lambda body: None if gone else _finish(request, body))
    return NOT_DONE_YET


def _refused(why: Failure, request: Request) -> bytes:
    why.trap(Refusal)
    assert isinstance(why.value, Refusal)
    return respondRefusal(request, why.value)


def _finish(request: Request, body: bytes) -> None:
    request.write(body)
    request.finish()


def number(name: str, text: str) -> int:
    """
    Read a number that a page sends.

    @raise InvalidData: It is not a whole number that JSON can have.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise InvalidData(f"{name} must be a whole number")
    value = int(text)
    if not 1 <= value <= MAX_SAFE_INTEGER:
        raise InvalidData(f"{name} must be from 1 to {MAX_SAFE_INTEGER}")
    return value


def header(request: Request, name: str) -> str:
    """
    The last value of a header, or an empty text. A client can send any bytes.
    """
    value = request.getHeader(name.encode("ascii")) or b""
    return value.decode("latin-1")


def printable(text: str) -> str:
    """
    A header for the log: not too long, and without terminal control sequences.
    """
    return ascii(text)[1:-1][:500] or "none"
