"""
Tests for L{creditsync.auth}.
"""

import base64
import hashlib
import hmac
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ecKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync import auth
from creditsync.auth import TokenAuthenticator, keyReadings, mint
from creditsync.errors import Unauthorized
from creditsync.interfaces import IAuthenticator
from creditsync.records import Principal
from creditsync.revocations import Revocations

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0
GOOD: dict[str, Any] = {"id": 7, "role": 1, "exp": 1_700_000_100}


def pem(key: Any) -> tuple[bytes, bytes]:
    """
    A private key and its public half as PEM.
    """
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


RSA_PRIVATE, RSA_PUBLIC = pem(generate_private_key(65537, 2048))
SHORT_RSA_PUBLIC = pem(generate_private_key(65537, 1024))[1]
ED_PRIVATE, ED_PUBLIC = pem(Ed25519PrivateKey.generate())
EC_PUBLIC = pem(ecKey(SECP256R1()))[1]


def b64(raw: bytes | str) -> str:
    """
    The base64url of RFC 7515, without padding.
    """
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(payload: str | bytes, header: str = '{"alg":"HS256","typ":"JWT"}') -> str:
    """
    A token made by hand, since no library writes the ones that are needed
    here.
    """
    text = f"{b64(header)}.{b64(payload)}"
    mac = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{b64(mac)}"


def claiming(**changes: Any) -> str:
    """
    A correctly signed token with other claims; C{...} removes one.
    """
    claims = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
    return sign(json.dumps(claims))


def raw(members: str) -> str:
    """
    A correctly signed token with these members after the good ones.
    """
    return sign('{"id":7,"role":1,"exp":1700000100,' + members + "}")


def rawExp(exp: str) -> str:
    """
    A correctly signed token with this text as its C{exp}.
    """
    return sign('{"id":7,"role":1,"exp":' + exp + "}")


FINE = claiming()
HEAD, BODY, SIGNATURE = FINE.split(".")
UNSIGNED = b64('{"alg":"none"}')

MISSING = "a token is required: __token is missing"
MALFORMED = "the token is malformed"
BADLY_SIGNED = "the token's signature is invalid"
ALGORITHM = "the token's algorithm is not accepted here"
EXPIRED = "the token has expired"
EXTENSION = "the token requires an unknown extension"


def lacks(name: str) -> str:
    return f"the token lacks the claim {name}"


def noTime(name: str) -> str:
    return f"the token's claim {name} is not a time"


def outOfRange(name: str) -> str:
    return f"the token's claim {name} is out of range"


def toCome(name: str) -> str:
    return f"the token is not yet valid: its {name} is in the future"


def beyond(name: str) -> str:
    return f"the token's claim {name} is after the year 9999: it must be in seconds"


# A name, the token, and the message that refuses it.
BAD_TOKENS: list[tuple[str, str | None, str]] = [
    ("none at all", None, MISSING),
    ("empty", "", MISSING),
    ("blank", " ", MALFORMED),
    ("a word", "secret", MALFORMED),
    ("one dot", "a.b", MALFORMED),
    ("only dots", "..", MALFORMED),
    ("many dots", "." * 100, MALFORMED),
    ("five parts, as an encrypted one has", "a.b.c.d.e", MALFORMED),
    ("not ASCII", "ü.ü.ü", MALFORMED),
    ("a lone surrogate", "\ud800.a.b", MALFORMED),
    ("with NUL", FINE + "\0", MALFORMED),
    ("with a line end", FINE + "\n", MALFORMED),
    ("with a scheme", "Bearer " + FINE, MALFORMED),
    ("with a space in front", " " + FINE, MALFORMED),
    ("with quotes", f'"{FINE}"', MALFORMED),
    ("padded", FINE + "=", MALFORMED),
    ("with what base64 decoders skip", FINE + "!", MALFORMED),
    ("standard base64", f"{HEAD}.{BODY}.+/+/", MALFORMED),
    ("too long", "a" * 8193, "the token is too long"),
    ("well signed, but too long", raw(f'"x":"{"x" * 9000}"'), "the token is too long"),
    ("no header", f".{BODY}.{SIGNATURE}", MALFORMED),
    ("no payload", f"{HEAD}..{SIGNATURE}", BADLY_SIGNED),
    ("no signature", f"{HEAD}.{BODY}.", BADLY_SIGNED),
    ("no third part", f"{HEAD}.{BODY}", MALFORMED),
    ("a cut signature", FINE[:-4], BADLY_SIGNED),
    ("half a signature character", FINE[:-2], MALFORMED),
    ("another's signature", f"{HEAD}.{BODY}.{b64(b'x' * 32)}", BADLY_SIGNED),
    (
        "claims changed after signing",
        f"{HEAD}.{b64(json.dumps({**GOOD, 'role': 3}))}.{SIGNATURE}",
        BADLY_SIGNED,
    ),
    (
        "another secret",
        jwt.encode(GOOD, "another secret of thirty-two bytes", "HS256"),
        BADLY_SIGNED,
    ),
    ("header no JSON", sign("{}", "{"), MALFORMED),
    ("header no object", sign("{}", "[]"), MALFORMED),
    ("header null", sign("{}", "null"), MALFORMED),
    ("header not UTF-8", f"{b64(bytes([255, 254]))}.{BODY}.{SIGNATURE}", MALFORMED),
    ("header very deep", sign("{}", "[" * 3000), MALFORMED),
    ("header very deep objects", sign("{}", '{"a":' * 1000), MALFORMED),
    ("no algorithm", sign(json.dumps(GOOD), "{}"), ALGORITHM),
    (
        "algorithm none",
        f"{UNSIGNED}.{BODY}.",
        ALGORITHM,
    ),
    ("algorithm None", sign(json.dumps(GOOD), '{"alg":"None"}'), ALGORITHM),
    ("algorithm null", sign(json.dumps(GOOD), '{"alg":null}'), ALGORITHM),
    ("algorithm a number", sign(json.dumps(GOOD), '{"alg":256}'), ALGORITHM),
    ("algorithm a list", sign(json.dumps(GOOD), '{"alg":["HS256"]}'), ALGORITHM),
    ("algorithm an object", sign(json.dumps(GOOD), '{"alg":{}}'), ALGORITHM),
    (
        "algorithm in small letters",
        sign(json.dumps(GOOD), '{"alg":"hs256"}'),
        ALGORITHM,
    ),
    ("HS512", jwt.encode(GOOD, SECRET * 2, "HS512"), ALGORITHM),
    ("RS256", jwt.encode(GOOD, RSA_PRIVATE, "RS256"), ALGORITHM),
    ("EdDSA", jwt.encode(GOOD, ED_PRIVATE, "EdDSA"), ALGORITHM),
    ("kid a number", sign(json.dumps(GOOD), '{"alg":"HS256","kid":1}'), MALFORMED),
    (
        "an extension that must be understood",
        sign(json.dumps(GOOD), '{"alg":"HS256","crit":["exp"],"exp":1}'),
        MALFORMED,
    ),
    ("crit empty", sign(json.dumps(GOOD), '{"alg":"HS256","crit":[]}'), MALFORMED),
    ("crit no list", sign(json.dumps(GOOD), '{"alg":"HS256","crit":1}'), MALFORMED),
    (
        "crit of what the library knows",
        sign(json.dumps(GOOD), '{"alg":"HS256","crit":["b64"],"b64":true}'),
        EXTENSION,
    ),
    (
        "detached payload",
        sign("", '{"alg":"HS256","b64":false,"crit":["b64"]}'),
        MALFORMED,
    ),
    (
        "unencoded payload",
        sign(json.dumps(GOOD), '{"alg":"HS256","b64":false}'),
        MALFORMED,
    ),
    ("payload no JSON", sign("{"), MALFORMED),
    ("payload empty", sign(""), MALFORMED),
    ("payload a list", sign("[]"), MALFORMED),
    ("payload a string", sign('"id"'), MALFORMED),
    ("payload null", sign("null"), MALFORMED),
    ("payload not UTF-8", sign(b'{"id":"\xff"}'), MALFORMED),
    ("payload very deep", sign("[" * 3000), MALFORMED),
    ("payload very deep objects", sign('{"a":' * 1000), MALFORMED),
    ("no claims", sign("{}"), lacks("exp")),
    ("without exp", claiming(exp=...), lacks("exp")),
    ("exp null", claiming(exp=None), noTime("exp")),
    ("exp true", claiming(exp=True), noTime("exp")),
    ("exp a string of digits", claiming(exp="1700000100"), noTime("exp")),
    ("exp a year", claiming(exp="2030"), noTime("exp")),
    ("exp a list", claiming(exp=[1_700_000_100]), noTime("exp")),
    ("exp an object", claiming(exp={}), noTime("exp")),
    ("exp 1e400", rawExp("1e400"), noTime("exp")),
    ("exp Infinity", rawExp("Infinity"), noTime("exp")),
    ("exp -Infinity", rawExp("-Infinity"), noTime("exp")),
    ("exp NaN", rawExp("NaN"), noTime("exp")),
    ("exp that no float holds", rawExp("1" + "0" * 400), noTime("exp")),
    ("exp of more digits than Python reads", rawExp("1" * 5000), MALFORMED),
    ("exp beyond 2^53", claiming(exp=2**53), noTime("exp")),
    ("exp in milliseconds", claiming(exp=1_700_000_100_000), beyond("exp")),
    ("exp in microseconds", claiming(exp=1_700_000_100_000_000), beyond("exp")),
    ("exp in nanoseconds", claiming(exp=1_700_000_100_000_000_000), noTime("exp")),
    ("exp in the year 10000", claiming(exp=253_402_300_800), beyond("exp")),
    ("exp a float in it", claiming(exp=253_402_300_800.5), beyond("exp")),
    ("exp long ago", claiming(exp=0), EXPIRED),
    ("exp negative", claiming(exp=-1), EXPIRED),
    ("exp now", claiming(exp=1_700_000_000), EXPIRED),
    ("exp twice, the last long ago", raw('"exp":1'), EXPIRED),
    ("without id", claiming(id=...), lacks("id")),
    ("id null", claiming(id=None), outOfRange("id")),
    ("id true", claiming(id=True), outOfRange("id")),
    ("id a string", claiming(id="7"), outOfRange("id")),
    ("id a float", claiming(id=7.0), outOfRange("id")),
    ("id a list", claiming(id=[7]), outOfRange("id")),
    ("id negative", claiming(id=-1), outOfRange("id")),
    ("id 2^53", claiming(id=9_007_199_254_740_992), outOfRange("id")),
    ("id NaN", raw('"id":NaN'), outOfRange("id")),
    ("without role", claiming(role=...), lacks("role")),
    ("role null", claiming(role=None), outOfRange("role")),
    ("role true", claiming(role=True), outOfRange("role")),
    ("role a name", claiming(role="manager"), outOfRange("role")),
    ("role a float", claiming(role=1.0), outOfRange("role")),
    ("role a list", claiming(role=[1]), outOfRange("role")),
    ("role an object", claiming(role={}), outOfRange("role")),
    ("role negative", claiming(role=-1), outOfRange("role")),
    ("role 6", claiming(role=6), outOfRange("role")),
    ("role 8", claiming(role=8), outOfRange("role")),
    ("role 12", claiming(role=12), outOfRange("role")),
    ("nbf in six seconds", claiming(nbf=1_700_000_006), toCome("nbf")),
    ("nbf in 5.001 seconds", claiming(nbf=1_700_000_005.001), toCome("nbf")),
    ("nbf in milliseconds", claiming(nbf=1_600_000_000_000), beyond("nbf")),
    ("nbf a string", claiming(nbf="1"), noTime("nbf")),
    ("nbf null", claiming(nbf=None), noTime("nbf")),
    ("nbf NaN", raw('"nbf":NaN'), noTime("nbf")),
    ("iat in six seconds", claiming(iat=1_700_000_006), toCome("iat")),
    ("iat in milliseconds", claiming(iat=1_600_000_000_000), beyond("iat")),
    ("iat in the year 10000", claiming(iat=253_402_300_800), beyond("iat")),
    ("iat false", claiming(iat=False), noTime("iat")),
    ("iat 1e400", raw('"iat":1e400'), noTime("iat")),
    ("jti a number", claiming(jti=1), "the token's claim jti is not a string"),
    ("jti null", claiming(jti=None), "the token's claim jti is not a string"),
    ("jti a list", claiming(jti=[]), "the token's claim jti is not a string"),
]

# A name, the token, and the principal.
GOOD_TOKENS: list[tuple[str, str, Principal]] = [
    ("the least", FINE, Principal(id=7, role=1, expires=1_700_000_100.0)),
    ("role 0", claiming(role=0), Principal(7, 0, 1_700_000_100.0)),
    ("role 5", claiming(role=5), Principal(7, 5, 1_700_000_100.0)),
    ("role 9", claiming(role=9), Principal(7, 9, 1_700_000_100.0)),
    ("role 10", claiming(role=10), Principal(7, 10, 1_700_000_100.0)),
    ("role 11", claiming(role=11), Principal(7, 11, 1_700_000_100.0)),
    ("id 0", claiming(id=0), Principal(0, 1, 1_700_000_100.0)),
    (
        "id 2^53-1",
        claiming(id=9_007_199_254_740_991),
        Principal(9_007_199_254_740_991, 1, 1_700_000_100.0),
    ),
    ("exp a float", claiming(exp=1_700_000_000.5), Principal(7, 1, 1_700_000_000.5)),
    (
        "exp at the end of the year 9999",
        claiming(exp=253_402_300_799),
        Principal(7, 1, 253_402_300_799.0),
    ),
    (
        "nbf in five seconds",
        claiming(nbf=1_700_000_005),
        Principal(7, 1, 1_700_000_100.0),
    ),
    (
        "iat in five seconds",
        claiming(iat=1_700_000_005),
        Principal(7, 1, 1_700_000_100.0),
    ),
    ("nbf now", claiming(nbf=1_700_000_000), Principal(7, 1, 1_700_000_100.0)),
    ("iat now", claiming(iat=1_700_000_000), Principal(7, 1, 1_700_000_100.0)),
    ("with jti", claiming(jti="a1"), Principal(7, 1, 1_700_000_100.0, "a1")),
    (
        "claims that mean nothing here",
        claiming(aud="others", iss=["x"], sub=5, platform=None),
        Principal(7, 1, 1_700_000_100.0),
    ),
    (
        "a claim twice: the last counts (RFC 7519, section 4)",
        raw('"id":8'),
        Principal(8, 1, 1_700_000_100.0),
    ),
    (
        "no typ",
        sign(json.dumps(GOOD), '{"alg":"HS256"}'),
        Principal(7, 1, 1_700_000_100.0),
    ),
]


class Now:
    """
    A wall clock that is set by hand.
    """

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


class TokenTests(SynchronousTestCase):
    """
    Tests for the tokens that L{TokenAuthenticator} accepts and refuses.
    """

    def setUp(self) -> None:
        self.now = Now()
        self.authenticator = TokenAuthenticator(SECRET, now=self.now)

    def refusal(self, token: str | None) -> str:
        """
        The message that refuses this token.
        """
        e = self.assertRaises(Unauthorized, self.authenticator.authenticate, token)
        return str(e.message)

    def test_deepClaim(self) -> None:
        """
        A claim without meaning here may be nested so deep that this Python's
        stack can't hold it: then the token is malformed, and otherwise it is
        valid.
        """
        for levels in (100, 1_500, 2_900):
            token = raw('"x":' + "[" * levels + "]" * levels)
            try:
                principal = self.authenticator.authenticate(token)
            except Unauthorized as e:
                self.assertEqual(e.message, MALFORMED)
            else:
                self.assertEqual(principal, Principal(7, 1, 1_700_000_100.0))

    def test_provides(self) -> None:
        """
        L{TokenAuthenticator} provides the public interface.
        """
        verifyObject(IAuthenticator, self.authenticator)

    def test_badTokens(self) -> None:
        """
        Each bad token is refused with its own message.
        """
        self.assertGreaterEqual(len(BAD_TOKENS), 60)
        for what, token, sentence in BAD_TOKENS:
            self.assertEqual((what, self.refusal(token)), (what, sentence))

    def test_badTokensAreNotRemembered(self) -> None:
        """
        A token that was refused is refused again: refusals are not cached.
        """
        for what, token, sentence in BAD_TOKENS:
            self.assertRaises(Unauthorized, self.authenticator.authenticate, token)
            self.assertEqual((what, self.refusal(token)), (what, sentence))

    def test_everyTruncation(self) -> None:
        """
        No prefix of a valid token is valid, and none causes an error.
        """
        for end in range(len(FINE)):
            self.assertRaises(Unauthorized, self.authenticator.authenticate, FINE[:end])

    def test_everyChangedCharacter(self) -> None:
        """
        A valid token with any one character changed is no longer valid.
        """
        for at in range(len(FINE)):
            other = "A" if FINE[at] != "A" else "B"
            changed = FINE[:at] + other + FINE[at + 1 :]
            self.assertRaises(Unauthorized, self.authenticator.authenticate, changed)

    def test_goodTokens(self) -> None:
        """
        Each valid token authenticates the principal that it names.
        """
        for what, token, principal in GOOD_TOKENS:
            self.assertEqual(
                (what, self.authenticator.authenticate(token)), (what, principal)
            )

    def test_saysNothingOfTheToken(self) -> None:
        """
        No part of a token appears in the message that refuses it.
        """
        self.assertNotIn("hunter2", self.refusal(claiming(id="hunter2")))
        self.assertNotIn("hunter2", self.refusal("hunter2.hunter2.hunter2"))

    def test_expiresAtTheExactSecond(self) -> None:
        """
        A token is valid until its C{exp}, exclusively.
        """
        self.now.time = 1_700_000_099.999
        self.authenticator.authenticate(FINE)
        self.now.time = 1_700_000_100.0
        self.assertEqual(self.refusal(FINE), EXPIRED)

    def test_leeway(self) -> None:
        """
        How far C{iat} and C{nbf} may be in the future is configurable, down to
        zero.
        """
        for leeway, good, bad in (
            (0.0, 1_700_000_000, 1_700_000_000.001),
            (2.5, 1_700_000_002.5, 1_700_000_003),
            (60.0, 1_700_000_060, 1_700_000_061),
        ):
            self.authenticator = TokenAuthenticator(SECRET, now=self.now, leeway=leeway)
            for name in ("iat", "nbf"):
                self.authenticator.authenticate(claiming(**{name: good}))
                self.assertEqual(self.refusal(claiming(**{name: bad})), toCome(name))

    def test_noLeewayForExp(self) -> None:
        """
        The leeway does not apply to C{exp}, however large it is.
        """
        self.authenticator = TokenAuthenticator(SECRET, now=self.now, leeway=3600.0)
        self.assertEqual(self.refusal(claiming(exp=1_700_000_000)), EXPIRED)
        self.authenticator.authenticate(FINE)
        self.now.time = 1_700_000_100.0
        self.assertEqual(self.refusal(FINE), EXPIRED)

    def test_staysExpired(self) -> None:
        """
        A token that expired while it was cached is refused from then on.
        """
        self.authenticator.authenticate(FINE)
        self.now.time = 1_700_000_100.0
        self.assertEqual(self.refusal(FINE), EXPIRED)
        self.assertEqual(self.refusal(FINE), EXPIRED)

    def test_isCurrentUntilExpired(self) -> None:
        """
        A principal is current exactly as long as its token is valid.
        """
        principal = self.authenticator.authenticate(FINE)
        self.now.time = 1_700_000_099.999
        self.assertTrue(self.authenticator.isCurrent(principal))
        self.now.time = 1_700_000_100.0
        self.assertFalse(self.authenticator.isCurrent(principal))

    def test_verifiesOnce(self) -> None:
        """
        A cached token yields the same principal without a second verification.
        """
        first = self.authenticator.authenticate(FINE)
        self.patch(auth.jwt, "decode_complete", None)
        self.assertIs(self.authenticator.authenticate(FINE), first)

    def test_rememberingIsBounded(self) -> None:
        """
        The cache of tokens is bounded, and keeps the newest.
        """
        self.patch(auth, "_MAX_CACHED", 3)
        tokens = [claiming(id=n) for n in range(5)]
        for token in tokens:
            self.authenticator.authenticate(token)
        self.assertEqual(list(self.authenticator._cached), tokens[2:])


class AlgorithmTests(SynchronousTestCase):
    """
    Tests for keys and algorithms, which are part of the configuration.
    """

    def refused(self, make: Callable[[], object], sentence: str) -> None:
        """
        Assert that this configuration is refused with a message.
        """
        self.assertEqual(str(self.assertRaises(ValueError, make)), sentence)

    def test_publicKeys(self) -> None:
        """
        RS256 and EdDSA verify their own tokens with a public key.
        """
        for algorithm, private, public in [
            ("RS256", RSA_PRIVATE, RSA_PUBLIC),
            ("EdDSA", ED_PRIVATE, ED_PUBLIC),
        ]:
            authenticator = TokenAuthenticator(public, algorithm, now=Now())
            token = jwt.encode(GOOD, private, algorithm)
            self.assertEqual(
                authenticator.authenticate(token), Principal(7, 1, 1_700_000_100.0)
            )

    def test_publicKeyIsNoSecret(self) -> None:
        """
        A token signed by HS256 with the public key as its secret is refused.
        """
        text = f"{HEAD}.{BODY}"
        mac = hmac.new(RSA_PUBLIC, text.encode(), hashlib.sha256).digest()
        authenticator = TokenAuthenticator(RSA_PUBLIC, "RS256", now=Now())
        e = self.assertRaises(
            Unauthorized, authenticator.authenticate, f"{text}.{b64(mac)}"
        )
        self.assertEqual(e.message, ALGORITHM)

    def test_anotherKeysToken(self) -> None:
        """
        A token of the right algorithm and another key has an invalid
        signature.
        """
        other = pem(Ed25519PrivateKey.generate())[0]
        authenticator = TokenAuthenticator(ED_PUBLIC, "EdDSA", now=Now())
        e = self.assertRaises(
            Unauthorized, authenticator.authenticate, jwt.encode(GOOD, other, "EdDSA")
        )
        self.assertEqual(e.message, BADLY_SIGNED)

    def test_furtherKeys(self) -> None:
        """
        With several keys, tokens of each of them are valid, and of no other.
        """
        second, third = "2" * 32, "3" * 32
        authenticator = TokenAuthenticator(SECRET, also=[second, third], now=Now())
        for key in (SECRET, second, third):
            token = jwt.encode(GOOD, key, "HS256")
            self.assertEqual(authenticator.authenticate(token).id, 7)
        for token, sentence in (
            (jwt.encode(GOOD, "4" * 32, "HS256"), BADLY_SIGNED),
            (jwt.encode(GOOD, second * 2, "HS512"), ALGORITHM),
            (FINE + "!", MALFORMED),
            (claiming(exp=1), EXPIRED),
        ):
            e = self.assertRaises(Unauthorized, authenticator.authenticate, token)
            self.assertEqual(e.message, sentence)

    def test_furtherKeysAreJudged(self) -> None:
        """
        Each of several keys has to be strong enough.
        """
        self.refused(
            lambda: TokenAuthenticator(SECRET, also=["x" * 31]),
            "an HS256 key must have at least 32 bytes",
        )

    def test_shortSecret(self) -> None:
        """
        RFC 7518 requires a secret of 32 bytes; 31 are refused at the start.
        """
        self.refused(
            lambda: TokenAuthenticator("x" * 31),
            "an HS256 key must have at least 32 bytes",
        )
        TokenAuthenticator("x" * 32)

    def test_emptySecret(self) -> None:
        """
        An empty secret is refused.
        """
        self.refused(
            lambda: TokenAuthenticator(""), "an HS256 key must have at least 32 bytes"
        )

    def test_shortModulus(self) -> None:
        """
        RFC 7518 requires 2048 bits for an RSA key; fewer are refused.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.refused(
                lambda: TokenAuthenticator(SHORT_RSA_PUBLIC, "RS256"),
                "an RS256 key must have at least 2048 bits",
            )

    def test_keysOfAnotherKind(self) -> None:
        """
        A key of the wrong type for the algorithm is refused at the start.
        """
        self.refused(
            lambda: TokenAuthenticator(RSA_PUBLIC, "HS256"),
            "HS256 needs a plain secret",
        )
        for key in (SECRET, ED_PUBLIC, EC_PUBLIC, b"\xff" * 64):
            self.refused(
                lambda key=key: TokenAuthenticator(key, "RS256"),
                "RS256 needs an RSA key in PEM format",
            )
        for key in (SECRET, RSA_PUBLIC, EC_PUBLIC):
            self.refused(
                lambda key=key: TokenAuthenticator(key, "EdDSA"),
                "EdDSA needs an Ed25519 or Ed448 key in PEM format",
            )

    def test_privateKeyAtTheServer(self) -> None:
        """
        A private key is refused where a public key is enough.
        """
        self.refused(
            lambda: TokenAuthenticator(RSA_PRIVATE, "RS256"),
            "RS256 needs the public key here, not the private one",
        )

    def test_unknownAlgorithm(self) -> None:
        """
        Other algorithms, above all C{none}, can't be configured.
        """
        for algorithm in ("none", "HS512", "hs256", ""):
            self.refused(
                lambda algorithm=algorithm: TokenAuthenticator(SECRET, algorithm),
                "the algorithm must be one of HS256, RS256, EdDSA",
            )


class KeyReadingTests(SynchronousTestCase):
    """
    Tests for how the content of a key file is read.
    """

    def test_text(self) -> None:
        """
        White space around a text is not part of the key, whatever it is.
        """
        for data in (
            b"%s",
            b"%s\n",
            b"%s\r\n",
            b"%s\n\n",
            b" \t%s \n",
            b"\n%s",
        ):
            self.assertEqual(
                keyReadings(data % SECRET.encode()), [SECRET.encode()], data
            )

    def test_textOfSeveralWords(self) -> None:
        """
        White space inside a text, and characters of any language, are part of
        the key.
        """
        text = "drei Schlüssel\nfür die Türe \N{KEY} und mehr"
        self.assertEqual(keyReadings(f"{text}\n".encode()), [text.encode()])

    def test_byteOrderMark(self) -> None:
        """
        A byte order mark is not part of a key. Earlier releases included it,
        so tokens that they minted are still accepted.
        """
        data = b"\xef\xbb\xbf" + SECRET.encode()
        self.assertEqual(keyReadings(data + b"\r\n"), [SECRET.encode(), data])

    def test_utf16(self) -> None:
        """
        A key that was saved as UTF-16 text is the same text in UTF-8.
        """
        for mark, encoding in (
            (b"\xff\xfe", "utf-16-le"),
            (b"\xfe\xff", "utf-16-be"),
        ):
            data = mark + f"{SECRET}\r".encode(encoding)
            self.assertEqual(keyReadings(data), [SECRET.encode(), data.strip()])

    def test_binary(self) -> None:
        """
        All bytes of a binary key count, including white space at its ends.
        Earlier releases stripped it; where the rest was long enough, tokens
        that they minted are still accepted.
        """
        inside = bytes(range(200, 240))
        self.assertEqual(keyReadings(inside), [inside])
        for white in (b"\n", b" ", b"\t", b"\r", b"\v", b"\f", b"\r\n"):
            for data in (inside + white, white + inside, white + inside + white):
                self.assertEqual(keyReadings(data), [data, inside])

    def test_binaryOfExactlyEnough(self) -> None:
        """
        Earlier releases refused a binary key that was too short without its
        white space, so such a key has one meaning only.
        """
        data = bytes(range(200, 231)) + b"\n"
        self.assertEqual(len(data), 32)
        self.assertEqual(keyReadings(data), [data])

    def test_binaryWithAMark(self) -> None:
        """
        Random bytes that begin like a byte order mark are not a text.
        """
        for mark in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"):
            data = mark + bytes(range(30)) + b"\xd8\xff"
            self.assertEqual(keyReadings(data), [data])

    def test_pem(self) -> None:
        """
        A PEM key has one meaning, with a byte order mark or without, in UTF-8
        or UTF-16.
        """
        expected = [ED_PUBLIC.strip()]
        text = ED_PUBLIC.decode()
        for data in (
            ED_PUBLIC,
            b"\xef\xbb\xbf" + ED_PUBLIC,
            text.replace("\n", "\r\n").encode("utf-16"),
        ):
            (key,) = keyReadings(data)
            self.assertEqual([key.replace(b"\r", b"")], expected)
            TokenAuthenticator(key, "EdDSA")

    def test_empty(self) -> None:
        """
        An empty file is an empty key, which every algorithm refuses.
        """
        for data in (b"", b"\n", b"\xef\xbb\xbf", b"\xff\xfe"):
            self.assertEqual(keyReadings(data)[0], b"")


class MintTests(SynchronousTestCase):
    """
    Tests for minting tokens.
    """

    def test_isTaken(self) -> None:
        """
        A minted token is valid for the requested number of seconds, with each
        algorithm.
        """
        for algorithm, private, public in [
            ("HS256", SECRET, SECRET),
            ("RS256", RSA_PRIVATE, RSA_PUBLIC),
            ("EdDSA", ED_PRIVATE, ED_PUBLIC),
        ]:
            token = mint(
                private, algorithm, id=9, role=2, expires=60, now=NOW, jti="one"
            )
            authenticator = TokenAuthenticator(public, algorithm, now=Now())
            self.assertEqual(
                authenticator.authenticate(token),
                Principal(id=9, role=2, expires=1_700_000_060.0, jti="one"),
            )

    def test_canBeRevoked(self) -> None:
        """
        Each token has an id of its own, even if none is given.
        """
        authenticator = TokenAuthenticator(SECRET, now=Now())
        ids = {
            authenticator.authenticate(
                mint(SECRET, id=1, role=1, expires=60, now=NOW)
            ).jti
            for _ in range(2)
        }
        self.assertEqual(len(ids - {None}), 2)

    def test_noTimeBeyond(self) -> None:
        """
        No token is minted that would be refused for its C{exp}.
        """
        for seconds in (253_402_300_800 - NOW, 2.0**52, float("inf"), float("nan")):
            e = self.assertRaises(
                ValueError, mint, SECRET, id=1, role=1, expires=seconds, now=NOW
            )
            self.assertEqual(str(e), "the token would expire after the year 9999")
        token = mint(SECRET, id=1, role=1, expires=253_402_300_799 - NOW, now=NOW)
        TokenAuthenticator(SECRET, now=Now()).authenticate(token)

    def test_publicKey(self) -> None:
        """
        Signing with a public key is refused.
        """
        e = self.assertRaises(
            ValueError, mint, RSA_PUBLIC, "RS256", id=1, role=1, expires=1, now=NOW
        )
        self.assertEqual(str(e), "RS256 needs the private key here, not the public one")


class RevocationTests(SynchronousTestCase):
    """
    Tests for tokens that are revoked before they expire.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "revoked"
        self.path.write_text("# taken back\n\n  old  \n")
        self.now = Now()
        self.revocations = Revocations(self.path)
        self.authenticator = TokenAuthenticator(
            SECRET, now=self.now, revocations=self.revocations
        )

    def logged(self) -> list[str]:
        """
        Collect the errors that are logged from now on.
        """
        texts: list[str] = []

        def observe(event: Any) -> None:
            if event["log_level"] is LogLevel.error:
                texts.append(event["cause"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return texts

    def assertRevoked(self, token: str) -> None:
        """
        Assert that the token is refused because it was revoked.
        """
        e = self.assertRaises(Unauthorized, self.authenticator.authenticate, token)
        self.assertEqual(e.message, "the token was revoked")

    def test_revokedBefore(self) -> None:
        """
        A token whose id is in the file is refused; white space around the id
        is ignored.
        """
        self.assertRevoked(claiming(jti="old"))

    def test_others(self) -> None:
        """
        Tokens with another id, with none, or with one that looks like a
        comment in the file are accepted.
        """
        for token in (claiming(jti="new"), FINE, claiming(jti="# taken back")):
            self.authenticator.authenticate(token)

    def test_revokedWhileRemembered(self) -> None:
        """
        A revocation takes effect for the very next command.
        """
        token = claiming(jti="new")
        self.authenticator.authenticate(token)
        with self.path.open("a") as file:
            file.write("new\n")
        self.assertRevoked(token)

    def test_restored(self) -> None:
        """
        A token whose id is removed from the file is accepted again.
        """
        token = claiming(jti="old")
        self.assertRevoked(token)
        self.path.write_text("")
        self.authenticator.authenticate(token)

    def test_replacedFile(self) -> None:
        """
        A file of the same size and time that replaces the old one is read too.
        """
        stat = self.path.stat()
        other = self.path.with_name("other")
        other.write_text("# taken back\n\n  new  \n")
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.replace(self.path)
        self.assertRevoked(claiming(jti="new"))

    def test_isCurrentLooksOnceASecond(self) -> None:
        """
        The event stream of a revoked token stops within a second.
        """
        principal = self.authenticator.authenticate(claiming(jti="new"))
        self.assertTrue(self.authenticator.isCurrent(principal))
        self.path.write_text("new\n")
        self.now.time = NOW + 0.999
        self.assertTrue(self.authenticator.isCurrent(principal))
        self.now.time = NOW + 1.0
        self.assertFalse(self.authenticator.isCurrent(principal))

    def test_isCurrentWhenTheClockIsPutBack(self) -> None:
        """
        Setting the wall clock back does not delay the next check of the file.
        """
        principal = self.authenticator.authenticate(claiming(jti="new"))
        self.assertTrue(self.authenticator.isCurrent(principal))
        self.path.write_text("new\n")
        self.now.time = NOW - 3600
        self.assertFalse(self.authenticator.isCurrent(principal))

    def test_missingAtStart(self) -> None:
        """
        A file that is configured but missing is refused at the start.
        """
        e = self.assertRaises(ValueError, Revocations, Path("/nowhere/revoked"))
        self.assertEqual(
            str(e),
            "the revocations in /nowhere/revoked"
            " can't be read (No such file or directory)",
        )

    def test_missingLater(self) -> None:
        """
        While the file is missing its last content stays in force, and the log
        reports it once.
        """
        logged = self.logged()
        self.path.unlink()
        for _ in range(3):
            self.assertRevoked(claiming(jti="old"))
        self.assertEqual(logged, ["can't be read (No such file or directory)"])

    def test_backAgain(self) -> None:
        """
        A file that has come back is read, and its next loss is logged again.
        """
        logged = self.logged()
        self.path.unlink()
        self.assertRevoked(claiming(jti="old"))
        self.path.write_text("new\n")
        self.assertRevoked(claiming(jti="new"))
        self.authenticator.authenticate(claiming(jti="old"))
        self.path.unlink()
        self.assertRevoked(claiming(jti="new"))
        self.assertEqual(len(logged), 2)

    def test_noText(self) -> None:
        """
        If the file is not text, the last good content stays in force.
        """
        logged = self.logged()
        self.path.write_bytes(b"\xff\xfe\n")
        for _ in range(3):
            self.assertRevoked(claiming(jti="old"))
        self.assertEqual(logged, ["are not UTF-8"])
