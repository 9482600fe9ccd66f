"""
JWK Sets (RFC 7517): several keys in one file, told apart by their C{kid}, which can
be changed while the server runs.

A key that this server can't use is ignored with a warning (RFC 7517, section 5): an
issuer's set may have keys for other purposes. A set is refused as a whole if it is
not clear what it means, or if it has a private key, which could be stolen from here.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeAlias

import jwt
from twisted.logger import Logger

from creditsync._keys import Key, checkLength, isJWKSet, keyReadings
from creditsync._watching import WatchedFile

Operation: TypeAlias = Literal["verify", "sign"]
_JWK: TypeAlias = Mapping[str, Any]

# A token without a kid is tried with each key of its algorithm.
_MAX_KEYS: Final = 32
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
# RFC 7518, sections 6.2.2 and 6.3.2, RFC 8037 and RFC 9964: members of private keys.
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "priv"})
# Identities are kept with principals. Under a key of this process they tell nothing
# about a secret.
_PEPPER: Final = secrets.token_bytes(32)


class _Kind(NamedTuple):
    """
    What a C{kty} stands for here.

    @ivar required: The members of the key itself.
    """

    algorithm: str
    required: tuple[str, ...]


_KINDS: Final = {
    "oct": _Kind("HS256", ("k",)),
    "RSA": _Kind("RS256", ("n", "e")),
    "OKP": _Kind("EdDSA", ("crv", "x")),
}


class JWKSet(NamedTuple):
    """
    The keys of a set that can be used.

    @ivar warnings: Which others there are, and why they can't.
    """

    keys: tuple[Key, ...]
    warnings: tuple[str, ...]


class KeyFile:
    """
    The keys of a file that is a JWK Set. It is read again whenever it has changed;
    if it can't be used then, the former keys stay in force.

    A program that rewrites the file should replace it by a rename.

    @ivar keys: The keys in force.
    @ivar warnings: Sentences about keys that are ignored.
    """

    _log: ClassVar = Logger()

    def __init__(self, path: Path, algorithm: str | None = None) -> None:
        """
        @param algorithm: If given, keys for others are ignored.
        @raise ValueError: The file can't be read, or is not a JWK Set that can be
            used.
        """
        self.keys: tuple[Key, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._algorithm = algorithm
        self._identities: frozenset[str | None] = frozenset()
        self._file = WatchedFile(path, "keys", self._take, self._log)
        self._file.read()

    @property
    def problem(self) -> str | None:
        """
        Why the file can't be used now, so that former keys are in force; L{None} if
        it can.
        """
        return self._file.problem

    def has(self, identity: str | None) -> bool:
        """
        Whether a key of this identity is in force.
        """
        return identity in self._identities

    def refresh(self) -> None:
        """
        Read the file again if it has changed.
        """
        self._file.refresh()

    def reload(self) -> None:
        """
        Read the file again, and log its problem even if that was logged before.
        """
        self._file.reload()

    def _take(self, data: bytes) -> None:
        former, known = self.keys, self.warnings
        self.keys, self.warnings = read(keyReadings(data)[0], self._algorithm, "verify")
        self._identities = frozenset(key.identity for key in self.keys)
        path = str(self._file.path)
        for warning in self.warnings:
            if warning not in known:
                self._log.warn(
                    "The keys in {path}: {warning}.", path=path, warning=warning
                )
        if former and self._identities != {key.identity for key in former}:
            self._log.info(
                "The keys in {path} are now {keys}; tokens of others are refused.",
                path=path,
                keys=describe(self.keys),
            )


def quoted(text: str) -> str:
    """
    A text in quotes, as ASCII on one line.
    """
    return json.dumps(text)


def describe(keys: tuple[Key, ...]) -> str:
    """
    Name keys in a sentence, without their content.
    """
    names = (
        f"{key.algorithm} without a kid"
        if key.kid is None
        else f"{key.algorithm} with kid {quoted(key.kid)}"
        for key in keys
    )
    # The two readings of a secret look the same.
    return ", ".join(dict.fromkeys(names))


def read(data: bytes, algorithm: str | None, operation: Operation) -> JWKSet:
    """
    Read a JWK Set.

    @param algorithm: If given, keys for others are ignored.
    @param operation: What the keys are for.
    @raise ValueError: It can't be used. The message continues a sentence about
        keys: C{are not valid JSON}.
    """
    keys: list[Key] = []
    warnings = []
    for number, jwk in enumerate(_jwks(data), 1):
        name = f"key {number}"
        if isinstance(jwk.get("kid"), str):
            name += f" ({quoted(jwk['kid'])})"
        if operation == "verify" and _isPrivate(jwk):
            raise ValueError(
                f"contain a private key, {name}: a server must only have the public one"
            )
        try:
            key = _key(jwk, algorithm, operation)
        except ValueError as e:
            warnings.append(f"{name} is ignored: {e}")
            continue
        if key.kid is not None and key.kid in {each.kid for each in keys}:
            raise ValueError(f"contain the kid {quoted(key.kid)} twice")
        keys.append(key)
    if not keys:
        detail = f": {'; '.join(warnings)}" if warnings else ""
        raise ValueError(f"contain none that can {operation} tokens{detail}")
    if len(keys) > _MAX_KEYS:
        raise ValueError(f"are more than {_MAX_KEYS}")
    return JWKSet(tuple(keys), tuple(warnings))


def hasSecret(data: bytes) -> bool:
    """
    Whether only its owner should be able to read this content of a file: it is
    anything but a set of public keys.
    """
    if not isJWKSet(data):
        return True
    try:
        return any(each.get("kty") == "oct" or _isPrivate(each) for each in _jwks(data))
    except ValueError:
        return True


def _jwks(data: bytes) -> list[_JWK]:
    """
    The keys of a set, whatever they are.

    @raise ValueError: It is not a JWK Set.
    """
    try:
        document = json.loads(
            data, object_pairs_hook=_unique, parse_constant=_refuseConstant
        )
    except _Twice as e:
        raise ValueError(f"have the member {quoted(str(e))} twice") from None
    except (ValueError, RecursionError):
        # The library's message may contain parts of the key.
        raise ValueError("are not valid JSON, as a JWK Set is") from None
    if not isinstance(document, dict) or "keys" not in document:
        raise ValueError('are not a JWK Set, which is {"keys": [...]}')
    jwks = document["keys"]
    if not isinstance(jwks, list) or not all(isinstance(each, dict) for each in jwks):
        raise ValueError('are not a JWK Set: "keys" must be an array of objects')
    return jwks


class _Twice(ValueError):
    """
    An object has two members of this name.
    """


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7517, section 4: either refused, or the last one counts.
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise _Twice(name)
        members[name] = value
    return members


def _refuseConstant(name: str) -> None:
    raise ValueError(name)


def _isPrivate(jwk: _JWK) -> bool:
    return jwk.get("kty") != "oct" and not _PRIVATE.isdisjoint(jwk)


def _key(jwk: _JWK, algorithm: str | None, operation: Operation) -> Key:
    """
    A key of a set.

    @raise ValueError: It is ignored, and why.
    """
    obstacle = next(_obstacles(jwk, algorithm, operation), None)
    if obstacle is not None:
        raise ValueError(obstacle)
    kind = _KINDS[jwk["kty"]]
    names = ("kty", *kind.required)
    if operation == "sign":
        names += tuple(_PRIVATE & jwk.keys())
    try:
        material = jwt.get_algorithm_by_name(kind.algorithm).from_jwk(
            {name: jwk[name] for name in names}
        )
    except Exception:
        # The library's message may contain parts of the key.
        raise ValueError("its value is invalid") from None
    checkLength(material)
    kid = jwk.get("kid")
    content = json.dumps([kid, kind.algorithm, [jwk[name] for name in kind.required]])
    identity = blake2b(content.encode(), key=_PEPPER, digest_size=16).hexdigest()
    return Key(kind.algorithm, material, kid, identity)


def _obstacles(jwk: _JWK, algorithm: str | None, operation: Operation) -> Iterator[str]:
    """
    Why a key can't be used for an operation. The first of them is the clearest.
    """
    kty = jwk.get("kty")
    kind = _KINDS.get(kty) if isinstance(kty, str) else None
    if kind is None:
        yield f"its kty is none of {', '.join(_KINDS)}"
        return
    if "kid" in jwk and not isinstance(jwk["kid"], str):
        yield "its kid is not a string"
    if jwk.get("use", "sig") != "sig":
        yield 'its use is not "sig"'
    operations = jwk.get("key_ops", [operation])
    if not isinstance(operations, list) or operation not in operations:
        yield f'its key_ops do not have "{operation}"'
    if jwk.get("alg", kind.algorithm) != kind.algorithm:
        yield f"its alg is not {kind.algorithm}"
    if algorithm not in (None, kind.algorithm):
        yield f"it is for {kind.algorithm}, and only {algorithm} is configured"
    for name in kind.required:
        if name not in jwk:
            yield f"it lacks {name}"
        elif not isinstance(jwk[name], str) or not _isSpelt(name, jwk[name]):
            yield f"its {name} is invalid"
    if operation == "sign" and kty != "oct" and "d" not in jwk:
        yield "it is a public key"


def _isSpelt(name: str, value: str) -> bool:
    # Decoders of base64 skip other characters, and read another key.
    return name == "crv" or _BASE64URL.fullmatch(value) is not None
