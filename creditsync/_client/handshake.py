"""
Why a TLS handshake of the client failed, in words.
"""

import re
from typing import Any

from OpenSSL import SSL
from twisted.internet.ssl import VerificationError
from twisted.python.failure import Failure

# OpenSSL's reasons where the other side's answer is not TLS.
_NO_TLS = frozenset({"wrong version number", "http request", "unknown protocol"})


def handshakeProblem(why: Failure, transport: Any) -> str:
    """
    Why a client's TLS handshake failed, or nothing if the connection ended for
    another reason.

    @param why: The reason of C{connectionLost}, from which this is called.
    """
    error = why.value
    if isinstance(error, VerificationError):
        names = ", ".join(_mismatched(each) for each in error.errors)
        return f"the server's certificate is not for {names}"
    reason = _sslReason(why)
    if reason == "certificate verify failed":
        cause = _verifyResult(transport) or reason
        return f"the server's certificate can't be verified: {cause}"
    if reason in _NO_TLS:
        return f"the server does not speak TLS there ({reason})"
    return reason and f"TLS failed: {reason}"


def isRefusedCertificate(why: Failure) -> bool:
    """
    Whether a connection ended because the server does not accept this client's
    certificate, or its lack of one. With TLS 1.3 it says so only after the
    client's handshake is complete.
    """
    return bool(re.search("alert .*(certificate|unknown ca)", _sslReason(why)))


def _sslReason(why: Failure) -> str:
    error = why.value
    found = error.args[0] if isinstance(error, SSL.Error) and error.args else []
    # Where a system call has failed, it is a number.
    return str(found[-1][-1]) if isinstance(found, list) and found else ""


def _mismatched(error: Any) -> str:
    """
    The name or the address that a certificate should have had.
    """
    expected = error.mismatched_id
    hostname = getattr(expected, "hostname", None)
    return hostname.decode("ascii") if hostname else str(getattr(expected, "ip", "?"))


def _verifyResult(transport: Any) -> str:
    """
    What OpenSSL found out about the certificate. pyOpenSSL reports it only to a
    callback, which would replace the application's own.
    """
    try:
        ssl: Any = SSL
        code = ssl._lib.SSL_get_verify_result(transport.getHandle()._ssl)
        text = ssl._ffi.string(ssl._lib.X509_verify_cert_error_string(code))
    except AttributeError:
        return ""
    return str(text.decode("ascii", "replace"))
