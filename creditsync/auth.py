"""
Tokens: whether one is valid, and the principal that it is for.

Every command has a token (docs/protocol.rst, "Tokens and roles"). Its algorithm is
set by the server's configuration, never taken from the token; its times are
checked against the given clock. A verified token is cached until it expires, so
a session's next command costs a look-up instead of a signature check.

An invalid token raises L{Unauthorized} with a fixed sentence: neither the token
nor an error message of a library is sent back.
"""

import math
import re
import secrets
import time
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import jwt
from cryptography.hazmat.primitives.asymmetric.ed448 import (
    Ed448PrivateKey,
    Ed448PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from zope.interface import implementer

from creditsync.codes import ALL_SESSIONS, MAX_SAFE_INTEGER, MAX_TIME
from creditsync.errors import Unauthorized
from creditsync.interfaces import IAuthenticator
from creditsync.records import Principal
from creditsync.revocations import Revocations

# The algorithms that the server can be configured for (docs/protocol.rst,
# "Tokens and roles").
ALGORITHMS: Final = ("HS256", "RS256", "EdDSA")
_KINDS: Final = {
    "HS256": "a plain secret",
    "RS256": "an RSA key in PEM format",
    "EdDSA": "an Ed25519 or Ed448 key in PEM format",
}

# RFC 7518, sections 3.2 and 3.3: the minimum, in bytes and bits.
_MIN_SECRET: Final = 32
_MIN_MODULUS: Final = 2048
# Characters. Real tokens have some hundreds, and the cost of decoding one grows
# with its length.
_MAX_TOKEN: Final = 8192
# RFC 7515, section 7.1. Base64 decoders skip other characters, so without this
# check one token would have many spellings.
_COMPACT: Final = re.compile(r"(?:[A-Za-z0-9_-]*\.){2}[A-Za-z0-9_-]*")
_MAX_CACHED: Final = 10_000
# Seconds between two checks whether the revocations have changed, for sessions
# that receive events.
_RECHECK: Final = 1.0
# The beginning of a key that is not a secret. White space around it is ignored.
_ARMOURED: Final = (b"-----BEGIN", b"ssh-")
_CONTROL: Final = re.compile(r"[\0-\x08\x0e-\x1f\x7f]")

_VerifyKey: TypeAlias = bytes | RSAPublicKey | Ed25519PublicKey | Ed448PublicKey
_SignKey: TypeAlias = bytes | RSAPrivateKey | Ed25519PrivateKey | Ed448PrivateKey

# PyJWT only verifies the signature. Times and types are checked here, with the given
# clock and more strictly. The claims aud, iss and sub are ignored.
_SIGNATURE_ONLY: Final["jwt.types.Options"] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@implementer(IAuthenticator)
class TokenAuthenticator:
    """
    Authenticates JSON Web Tokens.
    """

    def __init__(
        self,
        key: str | bytes,
        algorithm: str = "HS256",
        *,
        also: Sequence[str | bytes] = (),
        leeway: float = 5.0,
        now: Callable[[], float] = time.time,
        revocations: Revocations | None = None,
    ) -> None:
        """
        @param key: The secret of C{HS256}, or the PEM public key of C{RS256}
            or C{EdDSA}.
        @param algorithm: One of L{ALGORITHMS}, the only one that is accepted.
        @param also: Further keys whose tokens are accepted.
        @param leeway: Seconds by which a token's C{iat} and C{nbf} may be
            ahead of C{now}, as the issuer's clock may be fast. C{exp} is exact.
        @param now: The UNIX time.
        @raise ValueError: A key can't be used with this algorithm, or is too
            short.
        """
        self._keys = [_publicKey(each, algorithm) for each in (key, *also)]
        self._algorithms = [algorithm]
        self._leeway = leeway
        self._now = now
        self._revocations = revocations
        self._cached: dict[str | None, Principal] = {}
        self._refreshed = -math.inf

    def authenticate(self, token: str | None) -> Principal:
        """
        See L{IAuthenticator.authenticate}.
        """
        principal = self._cached.get(token)
        if principal is None:
            return self._verify(token)
        if self._now() >= principal.expires:
            del self._cached[token]
            raise Unauthorized("the token has expired")
        if self._revocations is not None:
            self._refuseRevoked(principal, self._revocations)
        return principal

    def isCurrent(self, principal: Principal) -> bool:
        """
        See L{IAuthenticator.isCurrent}. This is called for each session on each
        event, so the revocations may be up to a second old.
        """
        now = self._now()
        if now >= principal.expires:
            return False
        if self._revocations is None:
            return True
        # The difference is negative if the wall clock was set back.
        if not 0 <= now - self._refreshed < _RECHECK:
            self._revocations.refresh()
            self._refreshed = now
        return not self._revocations.isRevoked(principal.jti)

    def _verify(self, token: str | None) -> Principal:
        """
        Verify a token that is not cached, and cache it if it is valid.
        """
        if not token:
            raise Unauthorized("a token is required: __token is missing")
        principal = _principal(self._claims(token), self._now(), self._leeway)
        if self._revocations is not None:
            self._refuseRevoked(principal, self._revocations)
        if len(self._cached) >= _MAX_CACHED:
            del self._cached[next(iter(self._cached))]
        self._cached[token] = principal
        return principal

    def _claims(self, token: str) -> Mapping[str, Any]:
        """
        The token's claims, after its signature was verified.
        """
        if len(token) > _MAX_TOKEN:
            raise Unauthorized("the token is too long")
        if not _COMPACT.fullmatch(token):
            raise Unauthorized("the token is malformed")
        try:
            decoded = self._decoded(token)
        except jwt.InvalidAlgorithmError:
            raise Unauthorized("the token's algorithm is not accepted here") from None
        except jwt.InvalidSignatureError:
            raise Unauthorized("the token's signature is invalid") from None
        except Exception:
            # Clients can send anything, and the library raises more kinds of
            # errors than it documents. Each of them is the token's fault.
            raise Unauthorized("the token is malformed") from None
        if "crit" in decoded["header"]:
            # RFC 7515, section 4.1.11: an extension that must be understood, and
            # none is implemented here.
            raise Unauthorized("the token requires an unknown extension")
        claims: Mapping[str, Any] = decoded["payload"]
        return claims

    def _decoded(self, token: str) -> dict[str, Any]:
        """
        Decode a token that was signed with one of the keys.

        @raise Exception: It was not, or it is malformed.
        """
        *others, last = self._keys
        for key in others:
            with suppress(jwt.InvalidSignatureError):
                return self._decodedWith(key, token)
        return self._decodedWith(last, token)

    def _decodedWith(self, key: _VerifyKey, token: str) -> dict[str, Any]:
        return jwt.decode_complete(
            token, key, self._algorithms, options=_SIGNATURE_ONLY
        )

    def _refuseRevoked(self, principal: Principal, revocations: Revocations) -> None:
        revocations.refresh()
        if revocations.isRevoked(principal.jti):
            raise Unauthorized("the token was revoked")


def mint(
    key: str | bytes,
    algorithm: str = "HS256",
    *,
    id: int,
    role: int,
    expires: float,
    now: float,
    jti: str | None = None,
) -> str:
    """
    Make a token.

    @param key: The secret of C{HS256}, or the PEM private key of C{RS256} or
        C{EdDSA}.
    @param expires: How long it is valid, in seconds from C{now}.
    @param now: The UNIX time.
    @param jti: The id by which it can be revoked; a random one if not given.
    @raise ValueError: The key can't be used with this algorithm, or is too
        short; or the token would expire after the year 9999.
    """
    if not now + expires <= MAX_TIME:
        raise ValueError("the token would expire after the year 9999")
    claims = {
        "id": id,
        "role": role,
        "iat": math.floor(now),
        "exp": math.ceil(now + expires),
        "jti": jti or secrets.token_hex(8),
    }
    return jwt.encode(claims, _privateKey(key, algorithm), algorithm)


def _principal(claims: Mapping[str, Any], now: float, leeway: float) -> Principal:
    """
    The principal of a correctly signed token, if the token is valid now.
    """
    expires = _time(claims, "exp")
    if expires is None:
        raise Unauthorized("the token lacks the claim exp")
    if now >= expires:
        raise Unauthorized("the token has expired")
    for name in ("nbf", "iat"):
        start = _time(claims, name)
        if start is not None and now + leeway < start:
            raise Unauthorized(
                f"the token is not yet valid: its {name} is in the future"
            )
    jti = claims.get("jti")
    if "jti" in claims and not isinstance(jti, str):
        raise Unauthorized("the token's claim jti is not a string")
    return Principal(
        id=_number(claims, "id", range(MAX_SAFE_INTEGER + 1)),
        role=_number(claims, "role", ALL_SESSIONS),
        expires=expires,
        jti=jti,
    )


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """
    A claim in UNIX seconds, or L{None} if the token does not have it.
    """
    if name not in claims:
        return None
    value = claims[name]
    # isinstance() would accept a bool. The bound also excludes NaN, the infinities,
    # and integers that are too large for a float.
    if type(value) not in (int, float) or not abs(value) <= MAX_SAFE_INTEGER:
        raise Unauthorized(f"the token's claim {name} is not a time")
    # Most likely milliseconds: such a token would never expire.
    if value >= MAX_TIME + 1:
        raise Unauthorized(
            f"the token's claim {name} is after the year 9999: it must be in seconds"
        )
    return float(value)


def _number(claims: Mapping[str, Any], name: str, allowed: Container[int]) -> int:
    """
    A required claim that is one of the C{allowed} integers.
    """
    if name not in claims:
        raise Unauthorized(f"the token lacks the claim {name}")
    value = claims[name]
    if type(value) is not int or value not in allowed:
        raise Unauthorized(f"the token's claim {name} is out of range")
    return value


def keyReadings(data: bytes) -> list[bytes]:
    """
    Read the content of a key file, or of the environment variable in its place.

    If it is text, which may begin with a byte order mark, the key is the text
    without the white space around it. Anything else is a binary key, of which each
    byte counts.

    @return: The key. If earlier releases read another key from this content, that
        one follows: tokens that they minted are signed with it.
    """
    former = data.strip()
    text = _keyText(data)
    key = data if text is None else text.encode().strip()
    if key == former or len(former) < _MIN_SECRET or key.startswith(_ARMOURED):
        return [key]
    return [key, former]


def _keyText(data: bytes) -> str | None:
    """
    The text of a key without its byte order mark, or L{None} if it is binary.
    """
    is16 = data.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is16 else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    # Almost any bytes can be decoded as UTF-16, but random ones hardly ever as ASCII
    # characters in it.
    isText = not _CONTROL.search(text) and (text.isascii() or not is16)
    return text if isText else None


def _publicKey(key: str | bytes, algorithm: str) -> _VerifyKey:
    """
    The key with which tokens are verified.
    """
    prepared = _loadKey(key, algorithm)
    if isinstance(prepared, (RSAPrivateKey, Ed25519PrivateKey, Ed448PrivateKey)):
        raise ValueError(f"{algorithm} needs the public key here, not the private one")
    return prepared


def _privateKey(key: str | bytes, algorithm: str) -> _SignKey:
    """
    The key with which tokens are signed.
    """
    prepared = _loadKey(key, algorithm)
    if isinstance(prepared, (RSAPublicKey, Ed25519PublicKey, Ed448PublicKey)):
        raise ValueError(f"{algorithm} needs the private key here, not the public one")
    return prepared


def _loadKey(key: str | bytes, algorithm: str) -> _VerifyKey | _SignKey:
    """
    Parse a key, and check that it fits the algorithm and is long enough.
    """
    key = key.encode() if isinstance(key, str) else key
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm must be one of {', '.join(ALGORITHMS)}")
    if algorithm == "HS256" and len(key) < _MIN_SECRET:
        raise ValueError(f"an HS256 key must have at least {_MIN_SECRET} bytes")
    try:
        prepared: _VerifyKey | _SignKey = jwt.get_algorithm_by_name(
            algorithm
        ).prepare_key(key)
    except Exception:
        # The library's message may contain parts of the key.
        raise ValueError(f"{algorithm} needs {_KINDS[algorithm]}") from None
    if isinstance(prepared, (RSAPrivateKey, RSAPublicKey)) and (
        prepared.key_size < _MIN_MODULUS
    ):
        raise ValueError(f"an RS256 key must have at least {_MIN_MODULUS} bits")
    return prepared
