"""
Where browsers find this site, and where requests come from, directly or through a
proxy.

A browser sends the origin of the page that posts (C{Origin}), and no page can forge
it. Only posts from this site's own origin are accepted: from C{Host} as it was
received or, where a proxy replaces that, from an origin of C{--web-origin}.

Behind a proxy every connection comes from the proxy. Once an origin is configured,
a proxy on this machine is trusted to report the client's address
(C{X-Forwarded-For}) and whether it uses TLS (C{X-Forwarded-Proto}). From others these
headers are ignored: any client can send them.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from attrs import define
from twisted.web.http import Request

from creditsync.web._responses import header

_ORIGIN: Final = re.compile(
    r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def normalized(text: str) -> str:
    """
    An origin as browsers send it: in lower case, and without its scheme's default
    port (RFC 6454, section 6.2).

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
            # The scheme is the browser's: a proxy may have terminated TLS.
            return origin in self.public or origin == _direct(request, scheme)
        except ValueError:
            return False

    def expected(self, request: Request) -> str:
        """
        The origins from which L{hasSent} would have accepted a request, as text.
        """
        scheme = "https" if request.isSecure() else "http"
        host = header(request, "Host")
        return " or ".join([f"{scheme}://{host}", *sorted(self.public)])

    def isSecure(self, request: Request) -> bool:
        """
        Whether the browser is known to use TLS, if only to a proxy.
        """
        return (
            request.isSecure()
            or header(request, "Origin").lower().startswith("https:")
            or (self._isFromProxy(request) and _forwarded(request, "Proto") == "https")
        )

    def client(self, request: Request) -> str:
        """
        The client's address, or C{here} on a UNIX socket.
        """
        forwarded = _forwarded(request, "For")
        if self._isFromProxy(request) and _address(forwarded):
            return forwarded
        return _peer(request) or "here"

    def isRebound(self, request: Request) -> bool:
        """
        Whether a request to a loopback address has a host name that is not this
        site's. It may come from a page of another site whose name was made to
        resolve to this machine, so that the page can read the response (DNS
        rebinding).
        """
        ours = _address(getattr(request.getHost(), "host", None))
        if ours is None or not ours.is_loopback or not header(request, "Host"):
            return False
        try:
            name = _name(_direct(request, "http"))
        except ValueError:
            return True
        # The public DNS has no addresses for names without a dot.
        isLocal = "." not in name or name.endswith(".localhost") or _address(name)
        return not isLocal and name not in map(_name, self.public)

    def _isFromProxy(self, request: Request) -> bool:
        """
        Whether the other side is a proxy whose headers are trusted.
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
    The last value of an C{X-Forwarded-} header. A proxy appends its own; those
    before may have been sent by any client.
    """
    return header(request, f"X-Forwarded-{what}").rpartition(",")[2].strip()


def _address(text: str | None) -> IPv4Address | IPv6Address | None:
    """
    An IP address, if the text is one.
    """
    try:
        return ip_address(text or "")
    except ValueError:
        return None
