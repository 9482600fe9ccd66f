"""
Where to listen: from a description to an endpoint.

Descriptions are Twisted's, with a few differences. Without C{backlog=} more
connections may wait to be accepted. C{unix:} needs no lock file, and refuses a
folder that isn't there at once (L{creditsync._transport.unixsockets}). C{systemd:}
leaves the socket's file alone. The same holds behind C{haproxy:}. And C{ssl:} is
ours: it takes what Twisted's takes, can read its certificate again (L{reload}),
can require certificates of clients, and adds TLS to an endpoint of any kind::

    ssl:8443:privateKey=key.pem:certKey=certificate.pem:clientCA=clients.pem
    ssl:systemd:domain=INET:index=0:privateKey=key.pem:certKey=certificate.pem
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.protocols.haproxy import proxyEndpoint

from creditsync._transport.tls import Files, TLSEndpoint
from creditsync._transport.unixsockets import Inherited, UNIXReactor

# Connections that the kernel may hold before they are accepted. Twisted's 50
# are few when all clients reconnect at once. Linux caps it at its somaxconn.
BACKLOG: Final = 1024

# The kinds of endpoint that have one, and its position if it is not named.
_BACKLOG_AT: Final = {"tcp": 3, "tcp6": 2, "unix": 3, "tls": 3}

# The parameters of ssl: itself; all others are those of the endpoint below it.
_FILES: Final = {
    "privateKey": "key",
    "certKey": "certificate",
    "extraCertChain": "chain",
    "clientCA": "clientCA",
    "dhParameters": "dhParameters",
}

_PART: Final = re.compile(r"(?:^|:)((?:[^:\\]|\\.)*)", re.DOTALL)


def endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    Make the endpoint that a description describes.

    @raise Exception: It is not valid: a C{ValueError} whose text says why, or
        what Twisted or a plugin raises.
    """
    parts = _PART.findall(description)
    if parts[0] == "ssl":
        return _tls(reactor, parts[1:])
    if parts[0] == "haproxy":
        return _proxied(reactor, parts[1:])
    if parts[0] == "unix" and len(parts) > 1:
        _checkFolder(_unquoted(parts[1].removeprefix("address=")))
        reactor = UNIXReactor(reactor)
    if parts[0] in _BACKLOG_AT and not _hasBacklog(parts):
        description += f":backlog={BACKLOG}"
    made: IStreamServerEndpoint = serverFromString(reactor, description)
    return Inherited(made) if parts[0] == "systemd" else made


def _proxied(reactor: Any, parts: list[str]) -> IStreamServerEndpoint:
    """
    The endpoint of C{haproxy:}.

    @param parts: What comes after it.
    """
    if parts[:1] == ["ssl"]:
        raise ValueError("a PROXY header comes before TLS: write ssl:haproxy:...")
    made: IStreamServerEndpoint = proxyEndpoint(endpoint(reactor, ":".join(parts)))
    return made


def _hasBacklog(parts: list[str]) -> bool:
    unnamed = [part for part in parts if "=" not in part]
    named = any(part.startswith("backlog=") for part in parts)
    return named or len(unnamed) > _BACKLOG_AT[parts[0]]


def _tls(reactor: Any, parts: list[str]) -> TLSEndpoint:
    """
    The endpoint of C{ssl:}.

    @param parts: What comes after it.
    """
    files, others = {}, []
    for part in parts:
        name, _, value = part.partition("=")
        if name == "sslmethod":
            raise ValueError("sslmethod can't be chosen: TLS 1.2 and 1.3 are spoken")
        if name in _FILES:
            # They can be read again after the process has changed its folder.
            files[_FILES[name]] = Path(_unquoted(value)).absolute()
        else:
            others.append(part)
    if "key" not in files:
        raise ValueError("privateKey=FILE is missing")
    files.setdefault("certificate", files["key"])
    if others and (others[0].isdecimal() or "=" in others[0]):
        others.insert(0, "tcp")
    return TLSEndpoint(reactor, endpoint(reactor, ":".join(others)), Files(**files))


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _checkFolder(address: str) -> None:
    folder = os.path.dirname(address) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"the folder {folder} is not there")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {folder} can't be written to")


def expiries(endpoints: Iterable[IStreamServerEndpoint]) -> dict[str, int]:
    """
    When the certificate of each TLS endpoint expires: UNIX times, by the
    certificates' files.
    """
    return {
        str(each.files.certificate): each.expires
        for each in endpoints
        if isinstance(each, TLSEndpoint)
    }


def reload(endpoints: Iterable[IStreamServerEndpoint]) -> None:
    """
    Have each TLS endpoint read its certificate again.
    """
    for each in endpoints:
        if isinstance(each, TLSEndpoint):
            each.reload()
