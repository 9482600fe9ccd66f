"""
Keys that sign or verify tokens: a plain secret, or a key in PEM format. Those of a
JWK Set are read by L{creditsync._jwks}.
"""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from typing import Any, Final, TypeAlias

import jwt
from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ed448 import (
    Ed448PrivateKey,
    Ed448PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

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
# The beginning of a key that is not a secret. White space around it is ignored.
_ARMOURED: Final = (b"-----BEGIN", b"ssh-")
# A secret may begin with a brace by chance, but hardly with one of these in it. So a
# set that was cut off is not taken for a secret.
_JWKS: Final = re.compile(rb'\s*\{.*"(?:keys|kty)"', re.DOTALL)
_CONTROL: Final = re.compile(r"[\0-\x08\x0e-\x1f\x7f]")

PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey | Ed448PrivateKey
PublicKey: TypeAlias = RSAPublicKey | Ed25519PublicKey | Ed448PublicKey
Material: TypeAlias = bytes | PrivateKey | PublicKey


@frozen
class Key:
    """
    A key and the only algorithm that it is used with.

    @ivar material: What the JWT library signs or verifies with.
    @ivar kid: Its name in a JWK Set, or L{None}.
    @ivar identity: Equal for equal keys of a JWK Set, and for no others; L{None} for
        a key that is not from a set.
    """

    algorithm: str
    material: Any = field(repr=False)
    kid: str | None = None
    identity: str | None = None


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
    if key == former or len(former) < _MIN_SECRET:
        return [key]
    if key.startswith(_ARMOURED) or isJWKSet(key):
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


def isJWKSet(key: bytes) -> bool:
    """
    Whether this is meant to be a JWK Set, valid or not.
    """
    return _JWKS.match(key) is not None


def publicKey(key: bytes, algorithm: str) -> Key:
    """
    The key with which tokens are verified.

    @raise ValueError: It can't be used with this algorithm, or is too short.
    """
    loaded = _loadKey(key, algorithm)
    if isinstance(loaded, PrivateKey):
        raise ValueError(f"{algorithm} needs the public key here, not the private one")
    return Key(algorithm, loaded)


def privateKey(key: bytes, algorithm: str) -> Key:
    """
    The key with which tokens are signed.

    @raise ValueError: It can't be used with this algorithm, or is too short.
    """
    loaded = _loadKey(key, algorithm)
    if isinstance(loaded, PublicKey):
        raise ValueError(f"{algorithm} needs the private key here, not the public one")
    return Key(algorithm, loaded)


def _loadKey(key: bytes, algorithm: str) -> Material:
    """
    Parse a key, and check that it fits the algorithm and is long enough.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm must be one of {', '.join(ALGORITHMS)}")
    if algorithm == "HS256":
        checkLength(key)
    try:
        loaded: Material = jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except Exception:
        # The library's message may contain parts of the key.
        raise ValueError(f"{algorithm} needs {_KINDS[algorithm]}") from None
    checkLength(loaded)
    return loaded


def checkLength(key: Material) -> None:
    """
    @raise ValueError: The key is too short.
    """
    if isinstance(key, bytes) and len(key) < _MIN_SECRET:
        raise ValueError(f"an HS256 key must have at least {_MIN_SECRET} bytes")
    if isinstance(key, (RSAPrivateKey, RSAPublicKey)) and key.key_size < _MIN_MODULUS:
        raise ValueError(f"an RS256 key must have at least {_MIN_MODULUS} bits")
