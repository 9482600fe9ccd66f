"""
TLS for a listening endpoint, with certificates that can be replaced.

L{TLSEndpoint.reload} reads the files again. New connections get the new
certificate then; open ones keep theirs, and none is closed. Files that can't be
used change nothing.

TLS 1.2 is the minimum, with the ciphers that Twisted considers safe. A client that
does not speak TLS is told so, in the clear.
"""

import re
from calendar import timegm
from datetime import UTC, datetime
from pathlib import Path
from time import strptime, time
from typing import Any

from attrs import define
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    DiffieHellmanParameters,
    trustRootFromCertificates,
)
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.filepath import FilePath
from zope.interface import implementer

_ONE_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)

# The first bytes of TLS records: an alert, and a handshake.
BEGINNINGS = (b"\x15\x03", b"\x16\x03")

# How a line of JSON may begin, which no record of TLS does.
_PLAIN = b"{[ \t\r\n"

# The reply to a client that does not speak TLS. It has no extID, since the
# client's line is not read. Our own client recognizes the message.
SPEAKS_TLS = "this port speaks TLS, and the client does not"
_SPEAKS_TLS = b'{"status":400,"error":"INVALID_JSON","message":"%b"}\r\n' % (
    SPEAKS_TLS.encode("ascii")
)


@define
class Files:
    """
    The files of an endpoint that speaks TLS, each in PEM.

    @ivar certificate: The server's certificate, followed by the intermediate
        ones unless C{chain} has them.
    @ivar clientCA: The authorities one of which must have signed each client's
        certificate; without it clients show none.
    @ivar dhParameters: For those ciphers of TLS 1.2 that need them.
    """

    key: Path
    certificate: Path
    chain: Path | None = None
    clientCA: Path | None = None
    dhParameters: Path | None = None

    def read(self) -> CertificateOptions:
        """
        Read them all.

        @raise ValueError: One of them can't be used; the message names it.
        """
        key = _key(self.key)
        own, *chain = _certificates(self.certificate)
        if self.chain is not None:
            chain = _certificates(self.chain)
        options = CertificateOptions(
            privateKey=key,
            certificate=own.original,
            extraCertChain=[each.original for each in chain],
            trustRoot=_trustRoot(self.clientCA),
            dhParameters=_dhParameters(self.dhParameters),
        )
        try:
            # It is only made, and checked, when it is first asked for.
            options.getContext()
        except SSL.Error as e:
            *_, (_, _, reason) = e.args[0] or [("", "", "")]
            raise ValueError(
                f"the key {self.key} and the certificate {self.certificate} can't be"
                f" used together: {reason}"
            ) from e
        return options

    def othersCanReadKey(self) -> bool:
        """
        Whether others than its owner can read the key.
        """
        return bool(self.key.stat().st_mode & 0o077)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path} can't be read ({e.strerror})") from e


def _trustRoot(path: Path | None) -> Any:
    return None if path is None else trustRootFromCertificates(_certificates(path))


def _dhParameters(path: Path | None) -> Any:
    return (
        None if path is None else DiffieHellmanParameters.fromFile(FilePath(str(path)))
    )


def _key(path: Path) -> crypto.PKey:
    try:
        # Without a passphrase OpenSSL would ask for one on the terminal.
        return crypto.load_privatekey(crypto.FILETYPE_PEM, _read(path), b"")
    except crypto.Error as e:
        raise ValueError(f"{path} has no private key in PEM without passphrase") from e


def _certificates(path: Path) -> list[Any]:
    """
    The certificates of a file, at least one.
    """
    try:
        found = [
            Certificate.loadPEM(each) for each in _ONE_CERTIFICATE.findall(_read(path))
        ]
    except crypto.Error as e:
        raise ValueError(f"{path} has a certificate that can't be read") from e
    if not found:
        raise ValueError(f"{path} has no certificate in PEM")
    return found


class _Transport(BufferingTLSTransport):
    """
    TLS for one client, which is told at once if it does not speak TLS.
    """

    transport: Any
    _isPlain: bool | None = None

    def dataReceived(self, bytes: bytes) -> None:
        """
        See L{BufferingTLSTransport.dataReceived}.
        """
        if self._isPlain is None:
            self._isPlain = bytes[0] in _PLAIN
            if self._isPlain:
                self.transport.write(_SPEAKS_TLS)
                self.transport.loseConnection()
        if not self._isPlain:
            super().dataReceived(bytes)  # type: ignore[no-untyped-call]


class _Factory(TLSMemoryBIOFactory):
    """
    Makes these transports.
    """

    protocol = _Transport


@implementer(IStreamServerEndpoint, IOpenSSLContextFactory)
class TLSEndpoint:
    """
    Any endpoint, with TLS on its connections.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, endpoint: IStreamServerEndpoint, files: Files
    ) -> None:
        """
        @raise ValueError: One of the files can't be used.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self.files = files
        self._options = files.read()

    @property
    def expires(self) -> int:
        """
        The UNIX time at which the certificate expires.
        """
        certificate: Any = self._options.certificate
        text = certificate.get_notAfter().decode("ascii")
        return timegm(strptime(text, "%Y%m%d%H%M%SZ"))

    def listen(self, factory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """
        See L{IStreamServerEndpoint.listen}.
        """
        self._report()
        return self._endpoint.listen(_Factory(self, False, factory, self._reactor))

    def getContext(self) -> SSL.Context:
        """
        See L{IOpenSSLContextFactory.getContext}; it is called for each
        connection.
        """
        return self._options.getContext()

    def reload(self) -> None:
        """
        Read the files again, for connections from now on. If they can't be
        used, nothing changes.
        """
        try:
            self._options = self.files.read()
        except ValueError as e:
            self._log.error(
                "The certificate was not renewed, the old one stays in use: {why}",
                why=str(e),
            )
        else:
            self._report()

    def _report(self) -> None:
        files, until = self.files, datetime.fromtimestamp(self.expires, UTC)
        if files.othersCanReadKey():
            self._log.warn(
                "Others can read the key {path}: restrict it with chmod 600.",
                path=str(files.key),
            )
        log = self._log.error if self.expires <= time() else self._log.info
        log(
            "The certificate {path} is valid until {until}.",
            path=str(files.certificate),
            until=f"{until:%Y-%m-%dT%H:%M:%SZ}",
        )
