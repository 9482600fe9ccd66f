"""
Tokens of every bad kind, each with what its sender has to be told.

A L{Signer} makes tokens by hand for one algorithm, since no library writes
what is wanted here. Its table is the same for each algorithm, but for the few
kinds that confuse one algorithm with another.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeAlias

import jwt
from attrs import Factory, define
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

NOW = 1767225600
SECRET = b"0123456789abcdef0123456789abcdef"
REVOKED = "revoked-1"

# A manager's token, valid for an hour.
GOOD: dict[str, Any] = {"id": 7, "role": 1, "exp": NOW + 3600, "jti": "good-1"}

UNAUTHORIZED = "UNAUTHORIZED"
FORBIDDEN = "FORBIDDEN"
ACCEPTED = "accepted"

Kind: TypeAlias = tuple[str, str, str]


def b64(raw: bytes | str) -> str:
    """
    The base64url of RFC 7515, without padding.
    """
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@define
class Signer:
    """
    Who can make good tokens of one algorithm, and bad ones.

    @ivar secret: The secret of C{HS256}, or a private key as PEM.
    """

    algorithm: str
    secret: bytes

    @property
    def public(self) -> bytes:
        """
        The key that the server has.
        """
        if self.algorithm == "HS256":
            return self.secret
        public = _load(self.secret).public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, payload: bytes | str, header: str | None = None) -> str:
        """
        Make a correctly signed token with any content.
        """
        if header is None:
            header = f'{{"alg":"{self.algorithm}","typ":"JWT"}}'
        text = f"{b64(header)}.{b64(payload)}"
        return f"{text}.{b64(self._signature(text.encode()))}"

    def claiming(self, **changes: Any) -> str:
        """
        Make a token with other claims; C{...} removes one.
        """
        claims = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
        return self.sign(json.dumps(claims))

    def raw(self, members: str, without: str = "") -> str:
        """
        Make a token whose claims end with this text.
        """
        claims = {k: v for k, v in GOOD.items() if k != without}
        return self.sign(json.dumps(claims)[:-1] + f",{members}}}")

    def headed(self, **members: Any) -> str:
        """
        Make a good token with more members in its header.
        """
        header = {"alg": self.algorithm, "typ": "JWT", **members}
        return self.sign(json.dumps(GOOD), json.dumps(header))

    def _signature(self, text: bytes) -> bytes:
        if self.algorithm == "HS256":
            return hmac.new(self.secret, text, hashlib.sha256).digest()
        key = _load(self.secret)
        if isinstance(key, Ed25519PrivateKey):
            return key.sign(text)
        return key.sign(text, PKCS1v15(), SHA256())


@cache
def _load(pem: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, RSAPrivateKey | Ed25519PrivateKey)
    return key


@define
class Keys:
    """
    The three signers that a server may be configured for, and strangers with
    keys of the same types.
    """

    ours: dict[str, Signer] = Factory(lambda: _signers(SECRET))
    strangers: dict[str, Signer] = Factory(
        lambda: _signers(b"another secret of thirty-two bytes")
    )


def _signers(secret: bytes) -> dict[str, Signer]:
    return {
        "HS256": Signer("HS256", secret),
        "RS256": Signer("RS256", _pem(generate_private_key(65537, 2048))),
        "EdDSA": Signer("EdDSA", _pem(Ed25519PrivateKey.generate())),
    }


def _pem(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def kinds(keys: Keys, algorithm: str) -> Iterator[Kind]:
    """
    All kinds for a server with this algorithm: a name, the token, and the
    verdict on it.
    """
    signer = keys.ours[algorithm]
    bad = [
        *_broken(signer),
        *_signedWrong(keys, signer),
        *_headers(keys, signer),
        *_times(signer),
        *_names(signer),
    ]
    yield from ((what, token, UNAUTHORIZED) for what, token in bad)
    for role in (0, 4, 5, 9, 10, 11):
        yield f"role {role}", signer.claiming(role=role), FORBIDDEN
    yield from ((what, token, ACCEPTED) for what, token in _good(signer))


def _broken(signer: Signer) -> Iterator[tuple[str, str]]:
    """
    Texts that are not a token, or no longer one.
    """
    good = signer.claiming()
    head, body, signature = good.split(".")
    yield "empty", ""
    yield "a space", " "
    yield "a word", "secret"
    yield "one part", head
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{good}.{signature}"
    yield "five parts, as an encrypted one (JWE) has", f"{head}.{body}.{body}.a.{body}"
    yield "only dots", ".."
    yield "very many dots", "." * 5000
    yield "a dot in front", "." + good
    yield "a dot behind", good + "."
    yield "empty header", f".{body}.{signature}"
    yield "empty payload", f"{head}..{signature}"
    yield "empty signature", f"{head}.{body}."
    yield "parts in another order", f"{body}.{head}.{signature}"
    yield "a space in front", " " + good
    yield "a line end behind", good + "\n"
    yield "a space after a dot", f"{head}. {body}.{signature}"
    yield "a tab in the payload", f"{head}.{body[:5]}\t{body[5:]}.{signature}"
    yield "NUL behind", good + "\0"
    yield "a scheme in front", "Bearer " + good
    yield "in quotes", f'"{good}"'
    yield "in percent signs", good.replace(".", "%2E")
    yield "full stops of another alphabet", good.replace(".", "\u3002")
    yield "a wide letter", "\uff45" + good[1:]
    yield "a zero width space", good[:9] + "\u200b" + good[9:]
    yield "a lone surrogate", "\ud800" + good
    yield "an accent", good + "\u0301"
    yield "padding in the header", f"{head}=.{body}.{signature}"
    yield "padding in the payload", f"{head}.{body}==.{signature}"
    yield "standard base64", f"{head}.{body}.{'+/' * (len(signature) // 2)}"
    yield "64 KiB of letters", "a" * 65536
    yield "64 KiB, well signed", signer.raw(f'"x":"{"x" * 49000}"')
    yield "payload not base64", f"{head}.!!!.{signature}"
    yield "payload no JSON", signer.sign("{")
    yield "payload empty", signer.sign("")
    yield "payload null", signer.sign("null")
    yield "payload a list", signer.sign("[]")
    yield "payload a string", signer.sign('"id"')
    yield "payload a token", signer.sign(good)
    yield "payload not UTF-8", signer.sign(b'{"id":7,"x":"\xff"}')
    yield "payload very deep", signer.sign('{"a":' * 1200)
    yield "payload very deep lists", signer.sign("[" * 3000)


def _signedWrong(keys: Keys, signer: Signer) -> Iterator[tuple[str, str]]:
    """
    Tokens that were not signed with our key.
    """
    good = signer.claiming()
    head, body, signature = good.split(".")
    text = f"{head}.{body}"
    admin = b64(json.dumps({**GOOD, "role": 3}))
    yield "another key", keys.strangers[signer.algorithm].claiming()
    yield "other claims under the signature", f"{head}.{admin}.{signature}"
    yield "a cut signature", good[:-8]
    yield "half a signature", f"{text}.{signature[: len(signature) // 2]}"
    yield "one byte of signature", f"{text}.{b64(b'x')}"
    yield "a signature of zeros", f"{text}.{b64(bytes(64))}"
    yield "a longer signature", f"{text}.{signature}AAAA"
    yield "a signature twice", f"{text}.{signature}{signature}"
    yield "a signature of the payload alone", f"{text}.{_mac(SECRET, body)}"
    yield (
        "a plain hash for a signature",
        (f"{text}.{b64(hashlib.sha256(text.encode()).digest())}"),
    )
    yield "signed with an empty secret", f"{text}.{_mac(b'', text)}"
    for name in ("none", "None", "NONE", "nOnE"):
        unsigned = f"{b64(json.dumps({'alg': name, 'typ': 'JWT'}))}.{body}"
        yield f"algorithm {name}", f"{unsigned}."
        yield f"algorithm {name} with a signature", f"{unsigned}.{signature}"
    hashed = b64('{"alg":"HS256","typ":"JWT"}') + "." + body
    if signer.algorithm != "HS256":
        yield "the public key as the secret", f"{hashed}.{_mac(signer.public, hashed)}"
        stripped = signer.public.strip()
        yield "the same without its line end", f"{hashed}.{_mac(stripped, hashed)}"
        yield "HS256 under our header", f"{text}.{_mac(signer.public, text)}"
    for other in keys.ours.values():
        if other.algorithm != signer.algorithm:
            yield f"our {other.algorithm} key", other.claiming()
            header = f'{{"alg":"{signer.algorithm}"}}'
            yield (
                f"our {other.algorithm} key under the right algorithm's name",
                other.sign(json.dumps(GOOD), header),
            )
    yield "HS512", jwt.encode(GOOD, SECRET * 2, "HS512")
    yield "HS384", jwt.encode(GOOD, SECRET * 2, "HS384")


def _mac(secret: bytes, text: str) -> str:
    return b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())


def _headers(keys: Keys, signer: Signer) -> Iterator[tuple[str, str]]:
    """
    Headers that request something forbidden, correctly signed except for those
    that bring a stranger's key.
    """
    claims, own = json.dumps(GOOD), signer.algorithm
    stranger = keys.strangers[own]
    yield "no algorithm", signer.sign(claims, "{}")
    yield "header no JSON", signer.sign(claims, "{")
    yield "header a list", signer.sign(claims, f'["{own}"]')
    yield "header null", signer.sign(claims, "null")
    yield "header very deep", signer.sign(claims, '{"alg":' * 1000)
    yield (
        "algorithm in other letters",
        signer.sign(claims, json.dumps({"alg": own.swapcase()})),
    )
    for alg in (None, 256, True, [own], {}, "", own + " ", own + "\0"):
        yield f"algorithm {alg!r}", signer.sign(claims, json.dumps({"alg": alg}))
    twice = f'{{"alg":"{own}","alg":"none"}}'
    yield "two algorithms, the last none", signer.sign(claims, twice)
    yield "crit of what nobody knows", signer.headed(crit=["x"], x=1)
    yield "crit of exp", signer.headed(crit=["exp"], exp=1)
    yield "crit of b64", signer.headed(crit=["b64"], b64=True)
    yield "crit empty", signer.headed(crit=[])
    yield "crit no list", signer.headed(crit="exp")
    yield "an unencoded payload", signer.headed(b64=False, crit=["b64"])
    yield "kid a number", signer.headed(kid=1)
    key = {"kty": "oct", "k": b64(b"another secret of thirty-two bytes")}
    for brought in (
        {"jwk": key},
        {"jku": "https://example.com/keys.json"},
        {"x5u": "https://example.com/key.pem"},
        {"x5c": [b64(stranger.public)]},
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1 --"},
    ):
        header = json.dumps({"alg": own, **brought})
        yield (
            f"a stranger's key by {next(iter(brought))}",
            stranger.sign(claims, header),
        )


def _times(signer: Signer) -> Iterator[tuple[str, str]]:
    """
    Tokens that are not valid now, or have invalid times.
    """
    yield "without exp", signer.claiming(exp=...)
    for exp in (
        None,
        True,
        "",
        str(NOW + 3600),
        "2030",
        [NOW + 3600],
        {},
        (NOW + 3600) * 1000,
        253402300800,
        2**53,
        1e300,
    ):
        yield f"exp {exp!r}", signer.claiming(exp=exp)
    for exp in ("NaN", "Infinity", "1e400", "1" + "0" * 400, "9" * 5000):
        yield f"exp {exp[:9]}", signer.raw(f'"exp":{exp}', without="exp")
    for exp in (0, -1, -(2**53), NOW - 1, NOW, float(NOW), NOW - 0.5):
        yield f"exp {exp}, which is past", signer.claiming(exp=exp)
    yield "exp twice, the last past", signer.raw('"exp":1')
    yield "nbf to come", signer.claiming(nbf=NOW + 6)
    yield "nbf just to come", signer.claiming(nbf=NOW + 5.5)
    yield "iat to come", signer.claiming(iat=NOW + 60)
    for name in ("nbf", "iat"):
        for time in (None, False, "1", [], {}, (NOW - 1) * 1000):
            yield f"{name} {time!r}", signer.claiming(**{name: time})
        yield f"{name} NaN", signer.raw(f'"{name}":NaN')


def _names(signer: Signer) -> Iterator[tuple[str, str]]:
    """
    Tokens that do not identify a principal.
    """
    yield "no claims", signer.sign("{}")
    yield "without id", signer.claiming(id=...)
    for id in (None, True, "7", "", 7.0, 7.5, [7], {}, -1, 2**53, 2**64, 10**400):
        yield f"id {str(id)[:9]!r} of {type(id).__name__}", signer.claiming(id=id)
    yield "id NaN", signer.raw('"id":NaN', without="id")
    yield "without role", signer.claiming(role=...)
    for role in (
        None,
        True,
        False,
        "1",
        "manager",
        "admin",
        1.0,
        [1],
        {},
        -1,
        6,
        99,
        2**64,
    ):
        yield f"role {role!r}", signer.claiming(role=role)
    yield "role twice, the last unknown", signer.raw('"role":12')
    for jti in (None, 1, 1.5, True, [], ["good-1"], {}):
        yield f"jti {jti!r}", signer.claiming(jti=jti)
    for groups in (None, 1, True, ["real*"], {}):
        yield f"groups {groups!r}", signer.claiming(groups=groups)
    for login in (None, True, "1001", 1001.0, 0, -1, 2**53, [1001], {}):
        yield f"login {login!r}", signer.claiming(login=login)
        yield f"logins with {login!r}", signer.claiming(logins=[1002, login])
    for logins in (None, 1001, "1001", {"1001": True}):
        yield f"logins {logins!r}", signer.claiming(logins=logins)
    yield "jti revoked", signer.claiming(jti=REVOKED)
    yield "jti revoked, of an admin", signer.claiming(jti=REVOKED, role=3, id=9)
    yield "jti twice, the last revoked", signer.raw(f'"jti":"{REVOKED}"')
    yield (
        "jti revoked, written with escapes",
        signer.raw('"jti":"\\u0072evoked-1"', without="jti"),
    )


def _good(signer: Signer) -> Iterator[tuple[str, str]]:
    """
    Valid tokens: an authenticator that refuses everything would pass
    otherwise.
    """
    yield "good", signer.claiming()
    yield "a dealer", signer.claiming(role=2)
    yield "an admin", signer.claiming(role=3)
    yield "with rights", signer.claiming(groups="*", login=1001, logins=[1002])
    yield "the least", signer.claiming(jti=...)
    yield "begins now", signer.claiming(nbf=NOW, iat=NOW)
    yield "of a clock that is ahead", signer.claiming(nbf=NOW + 5, iat=NOW + 5)
    yield "good for half a second", signer.claiming(exp=NOW + 0.5)
    yield "claims that mean nothing here", signer.claiming(aud="x", iss=["y"], sub=5)
    yield "a kid that means nothing here", signer.headed(kid="k1")
    yield "no typ", signer.sign(json.dumps(GOOD), f'{{"alg":"{signer.algorithm}"}}')
