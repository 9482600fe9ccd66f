"""
How this site answers: the headers that each answer has, and JSON.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from twisted.web.error import UnsupportedMethod
from twisted.web.http import Request
from twisted.web.resource import Resource

# Scripts, styles and connections only from here and none in the page itself,
# so that nothing which a client of the server wrote, a comment for instance,
# can ever run.
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


class Answer(Resource):
    """
    A resource with the headers that every answer of this site has.
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
            return problem(request, 405, "FORBIDDEN", "that can't be done here")

    def render_HEAD(self, request: Request) -> Any:
        """
        What GET gives, without its body.
        """
        body = self.render_GET(request)
        if isinstance(body, bytes):
            request.setHeader(b"Content-Length", b"%d" % len(body))
            return b""
        return body

    def render_GET(self, request: Request) -> Any:
        """
        Where nothing else is said, there is nothing to get.
        """
        return problem(request, 404, "NOT_FOUND", "there is no such page")

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What isn't there.
        """
        return Answer()


def encode(value: object) -> bytes:
    """
    Write JSON in one line. What a foreign event has and JSON does not know is
    written as text.
    """
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def answer(request: Request, status: int, value: object) -> bytes:
    """
    Answer with JSON.
    """
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    return encode(value) + b"\n"


def problem(request: Request, status: int, error: str, message: str) -> bytes:
    """
    Answer that it can't be, and why.
    """
    return answer(request, status, {"error": error, "message": message})


def header(request: Request, name: str) -> str:
    """
    The last value of a header, or an empty text. Any client can send any bytes.
    """
    value = request.getHeader(name.encode("ascii")) or b""
    return value.decode("latin-1")


def printable(text: str) -> str:
    """
    A header as it may stand in a log: not too long, and without anything that a
    terminal would obey.
    """
    return ascii(text)[1:-1][:500] or "none"
