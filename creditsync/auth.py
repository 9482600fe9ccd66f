"""
Tokens: whether one is valid, and the principal that it is for.

Every command has a token (docs/protocol.rst, "Tokens and roles"). Its algorithm is
that of the key, set by the server's configuration and never taken from the token;
its times are checked against the given clock. A verified token is cached until it
expires, so a session's next command costs a look-up instead of a signature check.

An invalid token raises L{Unauthorized} with a fixed sentence: neither the token
nor an error message of a library is sent back.
"""

import math
import re
import secrets
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Final

import jwt
from attrs import evolve
from zope.interface import implementer

from creditsync._jwks import KeyFile as KeyFile
from creditsync._jwks import describe, quoted, read
from creditsync._keys import ALGORITHMS as ALGORITHMS
from creditsync._keys import Key, isJWKSet, privateKey, publicKey
from creditsync._keys import keyReadings as keyReadings
from creditsync.codes import ALL_SESSIONS, MAX_SAFE_INTEGER, MAX_TIME
from creditsync.errors import Unauthorized
from creditsync.interfaces import IAuthenticator
from creditsync.records import Principal
from creditsync.revocations import Revocations

# Characters. Real tokens have some hundreds, and the cost of decoding one grows
# with its length.
_MAX_TOKEN: Final = 8192
# RFC 7515, section 7.1. Base64 decoders skip other characters, so without this
# check one token would have many spellings.
_COMPACT: Final = re.compile(r"(?:[A-Za-z0-9_-]*\.){2}[A-Za-z0-9_-]*")
_MAX_CACHED: Final = 10_000
# Seconds between two checks whether the revocations and the keys have changed, for
# sessions that receive events.
_RECHECK: Final = 1.0

_LOGINS: Final = range(1, MAX_SAFE_INTEGER + 1)

# PyJWT only verifies the signature. Times and types are checked here, with the given
# clock and more strictly. The claim sub is ignored.
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
        key: str | bytes | KeyFile,
        algorithm: str | None = None,
        *,
        also: Sequence[str | bytes] = (),
        audience: str | None = None,
        issuer: str | None = None,
        leeway: float = 5.0,
        now: Callable[[], float] = time.time,
        revocations: Revocations | None = None,
    ) -> None:
        """
        @param key: The secret of C{HS256}, the PEM public key of C{RS256} or
            C{EdDSA}, a JWK Set, or a file that has one and is read again when it
            changes.
        @param algorithm: One of L{ALGORITHMS}, the only one that is accepted;
            C{HS256} if not given. Each key of a JWK Set has its own; if this is
            given too, keys for others are ignored.
        @param also: Further keys whose tokens are accepted.
        @param audience: If given, a token's C{aud} must name it.
        @param issuer: If given, a token's C{iss} must be this.
        @param leeway: Seconds by which a token's C{iat} and C{nbf} may be
            ahead of C{now}, as the issuer's clock may be fast. C{exp} is exact.
        @param now: The UNIX time.
        @raise ValueError: A key can't be used with this algorithm, or is too
            short.
        """
        self._keyFile = key if isinstance(key, KeyFile) else None
        fixed = also if isinstance(key, KeyFile) else (key, *also)
        self._fixed = tuple(k for each in fixed for k in _verifyKeys(each, algorithm))
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._now = now
        self._revocations = revocations
        self._files = [each for each in (self._keyFile, revocations) if each]
        self._cached: dict[str | None, Principal] = {}
        self._refreshed = -math.inf

    def describe(self) -> str:
        """
        Which tokens are accepted, in a sentence for people.
        """
        audience = "any audience"
        if self._audience is not None:
            audience = f"audience {quoted(self._audience)}"
        issuer = "any issuer"
        if self._issuer is not None:
            issuer = f"issuer {quoted(self._issuer)}"
        return (
            f"{describe(self._keys)}; {audience}; {issuer}; iat and nbf up to"
            f" {self._leeway:g} s ahead"
        )

    def authenticate(self, token: str | None) -> Principal:
        """
        See L{IAuthenticator.authenticate}.
        """
        if self._keyFile is not None:
            self._keyFile.refresh()
        principal = self._cached.get(token)
        if principal is None:
            return self._verify(token)
        if self._now() >= principal.expires:
            del self._cached[token]
            raise Unauthorized("the token has expired")
        if self._isKeyGone(principal):
            del self._cached[token]
            return self._verify(token)
        if self._revocations is not None:
            self._refuseRevoked(principal, self._revocations)
        return principal

    def isCurrent(self, principal: Principal) -> bool:
        """
        See L{IAuthenticator.isCurrent}. This is called for each session on each
        event, so the revocations and the keys may be up to a second old.
        """
        now = self._now()
        if now >= principal.expires:
            return False
        if not self._files:
            return True
        # The difference is negative if the wall clock was set back.
        if not 0 <= now - self._refreshed < _RECHECK:
            for file in self._files:
                file.refresh()
            self._refreshed = now
        if self._isKeyGone(principal):
            return False
        return self._revocations is None or not self._revocations.isRevoked(
            principal.jti
        )

    @property
    def _keys(self) -> tuple[Key, ...]:
        """
        The keys in force.
        """
        if self._keyFile is None:
            return self._fixed
        return self._keyFile.keys + self._fixed

    def _isKeyGone(self, principal: Principal) -> bool:
        """
        Whether the key that verified a principal's token is no longer in its file.
        """
        return (
            self._keyFile is not None
            and principal.signedBy is not None
            and not self._keyFile.has(principal.signedBy)
        )

    def _verify(self, token: str | None) -> Principal:
        """
        Verify a token that is not cached, and cache it if it is valid.
        """
        if not token:
            raise Unauthorized("a token is required: __token is missing")
        key, claims = self._claims(token)
        if self._issuer is not None:
            _checkIssuer(claims, self._issuer)
        if self._audience is not None:
            _checkAudience(claims, self._audience)
        principal = _principal(claims, self._now(), self._leeway)
        principal.signedBy = key.identity
        if self._revocations is not None:
            self._refuseRevoked(principal, self._revocations)
        if len(self._cached) >= _MAX_CACHED:
            del self._cached[next(iter(self._cached))]
        self._cached[token] = principal
        return principal

    def _claims(self, token: str) -> tuple[Key, Mapping[str, Any]]:
        """
        The token's claims, after its signature was verified, and the key of that.
        """
        if len(token) > _MAX_TOKEN:
            raise Unauthorized("the token is too long")
        if not _COMPACT.fullmatch(token):
            raise Unauthorized("the token is malformed")
        try:
            key, decoded = self._decoded(token)
        except Unauthorized:
            raise
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
        return key, decoded["payload"]

    def _decoded(self, token: str) -> tuple[Key, dict[str, Any]]:
        """
        Decode a token, and find the key that it was signed with.

        @raise Unauthorized: Its C{kid} names none.
        @raise Exception: It was signed with none, or it is malformed.
        """
        kid = jwt.get_unverified_header(token).get("kid")
        # A kid excludes keys only where both have one: a plain key has none, and
        # issuers may leave it out.
        keys = [key for key in self._keys if None in (kid, key.kid) or key.kid == kid]
        if not keys:
            raise Unauthorized("the token's kid is not that of a key in use here")
        failures: list[jwt.InvalidTokenError] = []
        for key in keys:
            # Each key has its own algorithm, whatever the token says.
            try:
                return key, jwt.decode_complete(
                    token, key.material, [key.algorithm], options=_SIGNATURE_ONLY
                )
            except (jwt.InvalidAlgorithmError, jwt.InvalidSignatureError) as e:
                failures.append(e)
        # A key of the token's algorithm says more than the others.
        failures.sort(key=lambda e: isinstance(e, jwt.InvalidAlgorithmError))
        raise failures[0]

    def _refuseRevoked(self, principal: Principal, revocations: Revocations) -> None:
        revocations.refresh()
        if revocations.isRevoked(principal.jti):
            raise Unauthorized("the token was revoked")


def _verifyKeys(key: str | bytes, algorithm: str | None) -> tuple[Key, ...]:
    """
    The keys of a secret, a PEM public key or a JWK Set.
    """
    data = key.encode() if isinstance(key, str) else key
    if not isJWKSet(data):
        return (publicKey(data, _algorithm(algorithm)),)
    try:
        return read(data, algorithm, "verify").keys
    except ValueError as e:
        raise ValueError(f"the keys {e}") from None


def _signKey(key: str | bytes, algorithm: str | None, kid: str | None) -> Key:
    """
    The key to sign with, under this C{kid} if it is not L{None}.
    """
    data = key.encode() if isinstance(key, str) else key
    if not isJWKSet(data):
        return evolve(privateKey(data, _algorithm(algorithm)), kid=kid)
    try:
        keys = read(data, algorithm, "sign").keys
    except ValueError as e:
        raise ValueError(f"the keys {e}") from None
    chosen = [each for each in keys if kid in (None, each.kid)]
    if len(chosen) != 1:
        raise ValueError(f"name one of the keys by its kid: {describe(keys)}")
    return chosen[0]


def _algorithm(given: str | None) -> str:
    """
    The algorithm of a key that does not say what it is for.
    """
    return "HS256" if given is None else given


def mint(
    key: str | bytes,
    algorithm: str | None = None,
    *,
    id: int,
    role: int,
    expires: float,
    now: float,
    jti: str | None = None,
    kid: str | None = None,
    groups: str | None = None,
    login: int | None = None,
    logins: Sequence[int] | None = None,
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """
    Make a token.

    @param key: The secret of C{HS256}, the PEM private key of C{RS256} or C{EdDSA},
        or a JWK Set with one of these.
    @param algorithm: C{HS256} if not given, or that of the key in a JWK Set.
    @param expires: How long it is valid, in seconds from C{now}.
    @param now: The UNIX time.
    @param jti: The id by which it can be revoked; a random one if not given.
    @param kid: Which key of a JWK Set to use; it may be left out if there is only
        one. With any other key, the C{kid} that the server knows it by.
    @param groups: Masks of the groups whose accounts the token is for.
    @param login: The account that a user's token is for.
    @param logins: The accounts that a customer's token is for.
    @param audience: The claim C{aud}.
    @param issuer: The claim C{iss}.
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
        "groups": groups,
        "login": login,
        "logins": None if logins is None else list(logins),
        "aud": audience,
        "iss": issuer,
    }
    signing = _signKey(key, algorithm, kid)
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        signing.material,
        signing.algorithm,
        None if signing.kid is None else {"kid": signing.kid},
    )


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
        groups=_groups(claims),
        login=_number(claims, "login", _LOGINS) if "login" in claims else None,
        logins=_logins(claims),
    )


def _groups(claims: Mapping[str, Any]) -> str | None:
    """
    The claim C{groups}, or L{None} if the token does not have it.
    """
    if "groups" not in claims:
        return None
    value = claims["groups"]
    if not isinstance(value, str):
        raise Unauthorized("the token's claim groups is not a string")
    return value


def _logins(claims: Mapping[str, Any]) -> tuple[int, ...] | None:
    """
    The claim C{logins}, or L{None} if the token does not have it.
    """
    if "logins" not in claims:
        return None
    value = claims["logins"]
    if not isinstance(value, list) or not all(
        type(each) is int and each in _LOGINS for each in value
    ):
        raise Unauthorized("the token's claim logins is not a list of logins")
    return tuple(value)


def _checkAudience(claims: Mapping[str, Any], audience: str) -> None:
    """
    RFC 7519, section 4.1.3: a string or a list of strings, one of which must be
    the audience.
    """
    if "aud" not in claims:
        raise Unauthorized("the token lacks the claim aud")
    value = claims["aud"]
    named = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in named):
        raise Unauthorized("the token's claim aud is not a string or a list of strings")
    if audience not in named:
        raise Unauthorized("the token is for another audience: see its claim aud")


def _checkIssuer(claims: Mapping[str, Any], issuer: str) -> None:
    if "iss" not in claims:
        raise Unauthorized("the token lacks the claim iss")
    if claims["iss"] != issuer:
        raise Unauthorized("the token is from another issuer: see its claim iss")


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
