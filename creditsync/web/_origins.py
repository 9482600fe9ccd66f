"""
Where browsers find this site, and who asks: directly, or through a proxy.

A browser says from which origin a page posts (C{Origin}), and no page can forge
it. What is posted from this site's own origin counts; that is C{Host} as it came,
and where a proxy replaces that, an origin of C{--web-origin}.

Behind a proxy every connection comes from the proxy. Once an origin is configured,
one on this machine is believed when it says who asks (C{X-Forwarded-For}) and how
(C{X-Forwarded-Proto}). From others these headers count for nothing: any client can
send them.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from attrs import define
from twisted.web.http import Request

from creditsync.web._answers import header

_ORIGIN: Final = re.compile(
    r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def normalized(text: str) -> str:
    """
    An origin as browsers send it: in lower case, and without the port that its
    scheme has anyway (RFC 6454, section 6.2).

    @raise ValueError: It is not one.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None or not 0 < int(found[3] or 1) < 65536:
        raise ValueError(
            f"{text} is not an origin such as https://console.example.com:"
            " a scheme, a host and perhaps a port, without a path"
        )
    scheme, host, port = found.groups()
    if port is None or int(port) == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


@define
class Origins:
    """
    The origins of one site.

    @ivar public: Those under which a proxy serves it, L{normalized}.
    """

    public: frozenset[str] = frozenset()

    def hasSent(self, request: Request) -> bool:
        """
        Whether a page of this site sent a request.
        """
        origin = header(request, "Origin")
        try:
            origin = normalized(origin)
            scheme = origin.partition(":")[0]
            # The scheme is the browser's: a proxy may have taken TLS off.
            return origin in self.public or origin == _direct(request, scheme)
        except ValueError:
            return False

    def expected(self, request: Request) -> str:
        """
        The origins from which L{hasSent} would have taken a request, for people
        to read.
        """
        scheme = "https" if request.isSecure() else "http"
        host = header(request, "Host")
        return " or ".join([f"{scheme}://{host}", *sorted(self.public)])

    def isSecure(self, request: Request) -> bool:
        """
        Whether the browser is known to speak TLS, be it to a proxy.
        """
        return (
            request.isSecure()
            or header(request, "Origin").lower().startswith("https:")
            or (self._isFromProxy(request) and _forwarded(request, "Proto") == "https")
        )

    def client(self, request: Request) -> str:
        """
        The address of whoever asks, or C{here} on a UNIX socket.
        """
        forwarded = _forwarded(request, "For")
        if self._isFromProxy(request) and _address(forwarded):
            return forwarded
        return _peer(request) or "here"

    def isRebound(self, request: Request) -> bool:
        """
        Whether a request to a loopback address came under a name of the DNS that
        is not this site's. That may be a foreign page, whose own name was made to
        resolve to this machine so that it can read the answer (DNS rebinding).
        """
        ours = _address(getattr(request.getHost(), "host", None))
        if ours is None or not ours.is_loopback or not header(request, "Host"):
            return False
        try:
            name = _name(_direct(request, "http"))
        except ValueError:
            return True
        # The DNS of the Internet has no addresses for names without a dot.
        isLocal = "." not in name or name.endswith(".localhost") or _address(name)
        return not isLocal and name not in map(_name, self.public)

    def _isFromProxy(self, request: Request) -> bool:
        """
        Whether the other side is a proxy that may speak for others.
        """
        peer = _peer(request)
        address = _address(peer)
        isHere = peer is None or (address is not None and address.is_loopback)
        return bool(self.public) and isHere


def _direct(request: Request, scheme: str) -> str:
    """
    The origin of this site by the C{Host} of a request.

    @raise ValueError: There is none, or it is malformed.
    """
    return normalized(f"{scheme}://{header(request, 'Host')}")


def _name(origin: str) -> str:
    """
    The host of an origin that is L{normalized}.
    """
    found = _ORIGIN.fullmatch(origin)
    assert found is not None
    return found[2].strip("[]").rstrip(".")


def _peer(request: Request) -> str | None:
    """
    The address of the other side, or L{None} on a UNIX socket.
    """
    return getattr(request.getClientAddress(), "host", None)


def _forwarded(request: Request, what: str) -> str:
    """
    The last value of an C{X-Forwarded-} header. A proxy appends what it knows;
    what stands before may be anybody's.
    """
    return header(request, f"X-Forwarded-{what}").rpartition(",")[2].strip()


def _address(text: str | None) -> IPv4Address | IPv6Address | None:
    """
    The IP address that a text is, if it is one.
    """
    try:
        return ip_address(text or "")
    except ValueError:
        return None
