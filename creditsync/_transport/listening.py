"""
Where to listen: from a description to an endpoint.

Descriptions are Twisted's, with a few differences. Where none is named, the
queue of those that wait to be accepted has room for more of them. C{unix:} in a
folder that isn't there is refused at once, and needs no lock file
(L{creditsync._transport.unixsockets}). C{systemd:} leaves the socket's file alone.
The same holds behind C{haproxy:}. And C{ssl:} is ours: it takes what Twisted's
takes, and can be told to read its certificate again (L{reload}), to ask for
certificates of clients, and to put TLS on an endpoint of any other kind::

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
# is little when all clients come back at once; Linux cuts it at its somaxconn.
BACKLOG: Final = 1024

# The kinds that have one, and which of their parts it is if it has no name.
_BACKLOG_AT: Final = {"tcp": 3, "tcp6": 2, "unix": 3, "tls": 3}

# The parameters of ssl: that are not those of what it is put on.
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
    Make the endpoint that a description stands for.

    @raise Exception: It stands for none: a C{ValueError} whose text says why,
        or what Twisted or a plugin raises.
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
    What C{haproxy:} stands for.

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
    What C{ssl:} stands for.

    @param parts: What comes after it.
    """
    files, others = {}, []
    for part in parts:
        name, _, value = part.partition("=")
        if name == "sslmethod":
            raise ValueError("sslmethod can't be chosen: TLS 1.2 and 1.3 are spoken")
        if name in _FILES:
            # Who changes its folder later reads them again all the same.
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
    When the certificate of each endpoint that speaks TLS ends: UNIX times, by
    the certificates' files.
    """
    return {
        str(each.files.certificate): each.expires
        for each in endpoints
        if isinstance(each, TLSEndpoint)
    }


def reload(endpoints: Iterable[IStreamServerEndpoint]) -> None:
    """
    Have each endpoint that speaks TLS read its certificate again.
    """
    for each in endpoints:
        if isinstance(each, TLSEndpoint):
            each.reload()
