"""
Tests for L{creditsync._jwks}: keys in JWK Sets, and tokens that are verified with
them.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from creditsync._jwks import hasSecret, read
from creditsync.auth import KeyFile, TokenAuthenticator, mint
from creditsync.errors import Unauthorized
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from tests.test_auth import NOW, SECRET, Now, b64, pem
from tests.test_tap import logTo

JWK = dict[str, Any]
CLAIMS: dict[str, Any] = {"id": 7, "role": 1, "exp": 1_700_000_100}

UNKNOWN_KID = "the token's kid is not that of a key in use here"
BADLY_SIGNED = "the token's signature is invalid"
ALGORITHM = "the token's algorithm is not accepted here"


def number(value: int) -> str:
    """
    An integer as RFC 7518 has it.
    """
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Pair:
    """
    A private key, and both of its halves as a JWK.
    """

    def __init__(self, algorithm: str, public: JWK, private: JWK, key: Any) -> None:
        self.algorithm = algorithm
        self.public = public
        self.private = {**public, **private}
        self.key = key

    def token(self, kid: str | None = None) -> str:
        """
        A token of this key, made by the library alone.
        """
        headers = None if kid is None else {"kid": kid}
        return jwt.encode(CLAIMS, self.key, self.algorithm, headers)


def ed(seed: int) -> Pair:
    raw = bytes([seed]) * 32
    key = Ed25519PrivateKey.from_private_bytes(raw)
    x = b64(key.public_key().public_bytes_raw())
    return Pair("EdDSA", {"kty": "OKP", "crv": "Ed25519", "x": x}, {"d": b64(raw)}, key)


def rsa(bits: int = 2048) -> Pair:
    key = generate_private_key(65537, bits)
    numbers = key.private_numbers()
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    public = {"kty": "RSA", "n": number(n), "e": number(e)}
    private = {
        "d": number(numbers.d),
        "p": number(numbers.p),
        "q": number(numbers.q),
        "dp": number(numbers.dmp1),
        "dq": number(numbers.dmq1),
        "qi": number(numbers.iqmp),
    }
    return Pair("RS256", public, private, key)


def octets(secret: bytes) -> Pair:
    return Pair("HS256", {"kty": "oct", "k": b64(secret)}, {}, secret)


A, B = ed(1), ed(2)
R = rsa()
S = octets(SECRET.encode())


def jwks(*keys: JWK) -> bytes:
    """
    A set of these keys.
    """
    return json.dumps({"keys": keys}).encode()


class ReadTests(SynchronousTestCase):
    """
    What a set has to be.
    """

    def assertRefused(self, data: bytes, sentence: str, what: str = "verify") -> None:
        """
        A set is refused as a whole.
        """
        e = self.assertRaises(ValueError, read, data, None, what)
        self.assertEqual(str(e), sentence)

    def assertIgnored(
        self, jwk: JWK, reason: str, algorithm: str | None = None
    ) -> None:
        """
        A key is ignored, beside a good one.
        """
        keys, warnings = read(jwks({**A.public, "kid": "a"}, jwk), algorithm, "verify")
        self.assertEqual([key.kid for key in keys], ["a"])
        self.assertEqual(warnings, (reason,))

    def test_algorithms(self) -> None:
        """
        The algorithm of a key follows from its type, whether it says so or not.
        """
        for pair in (A, R, S):
            for members in ({}, {"alg": pair.algorithm}):
                (key,) = read(jwks({**pair.public, **members}), None, "verify").keys
                self.assertEqual((key.algorithm, key.kid), (pair.algorithm, None))

    def test_purpose(self) -> None:
        """
        A key that is meant for signatures is used, and unknown members count for
        nothing.
        """
        for members in (
            {"use": "sig"},
            {"key_ops": ["verify"]},
            {"key_ops": ["sign", "verify"], "use": "sig", "x5t": "x", "foo": {}},
        ):
            keys, warnings = read(jwks({**A.public, **members}), None, "verify")
            self.assertEqual((len(keys), warnings), (1, ()))

    def test_ignored(self) -> None:
        """
        A key that is not understood or not meant for this is ignored, with a warning
        that names it.
        """
        other = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ", "kid": "e"}
        kty = "its kty is none of oct, RSA, OKP"
        self.assertIgnored(other, f'key 2 ("e") is ignored: {kty}')
        for value in (None, 1, [], {}, "rsa", ""):
            self.assertIgnored({"kty": value}, f"key 2 is ignored: {kty}")
        self.assertIgnored({}, f"key 2 is ignored: {kty}")
        for members, reason in (
            ({"use": "enc"}, 'its use is not "sig"'),
            ({"use": None}, 'its use is not "sig"'),
            ({"use": ["sig"]}, 'its use is not "sig"'),
            ({"key_ops": ["sign"]}, 'its key_ops do not have "verify"'),
            ({"key_ops": []}, 'its key_ops do not have "verify"'),
            ({"key_ops": "verify"}, 'its key_ops do not have "verify"'),
            ({"alg": "RS256"}, "its alg is not EdDSA"),
            ({"alg": "none"}, "its alg is not EdDSA"),
            ({"alg": None}, "its alg is not EdDSA"),
            ({"kid": 7}, "its kid is not a string"),
            ({"kid": None}, "its kid is not a string"),
            ({"x": 7}, "its x is invalid"),
            ({"x": ""}, "its x is invalid"),
            ({"x": B.public["x"] + "="}, "its x is invalid"),
            ({"x": B.public["x"] + "\n"}, "its x is invalid"),
            ({"x": "eA"}, "its value is invalid"),
            ({"crv": "X25519"}, "its value is invalid"),
        ):
            self.assertIgnored({**B.public, **members}, f"key 2 is ignored: {reason}")

    def test_missing(self) -> None:
        """
        A key that lacks a member of its type is ignored.
        """
        for pair, name in ((R, "n"), (R, "e"), (B, "x"), (B, "crv"), (S, "k")):
            jwk = {k: v for k, v in pair.public.items() if k != name}
            self.assertIgnored(jwk, f"key 2 is ignored: it lacks {name}")

    def test_short(self) -> None:
        """
        A key that is too short is ignored.
        """
        self.assertIgnored(
            octets(b"x" * 31).public,
            "key 2 is ignored: an HS256 key must have at least 32 bytes",
        )
        self.assertIgnored(
            rsa(1024).public,
            "key 2 is ignored: an RS256 key must have at least 2048 bits",
        )

    def test_otherAlgorithm(self) -> None:
        """
        Where an algorithm is configured, keys for others are ignored.
        """
        self.assertIgnored(
            R.public,
            "key 2 is ignored: it is for RS256, and only EdDSA is configured",
            "EdDSA",
        )

    def test_private(self) -> None:
        """
        A server does not take a set that has a private key, of whatever type and
        purpose; the message does not contain it.
        """
        for jwk in (
            A.private,
            {**R.private, "use": "enc"},
            {**R.public, "p": R.private["p"]},
            {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ", "d": "eg"},
            {"kty": "AKP", "alg": "ML-DSA-44", "pub": "eA", "priv": "eQ"},
        ):
            self.assertRefused(
                jwks(B.public, {**jwk, "kid": "p"}),
                'contain a private key, key 2 ("p"): a server must only have the public'
                " one",
            )

    def test_kidTwice(self) -> None:
        """
        Two keys that can be used must not have the same name. One that is ignored
        may have it: issuers name both keys of a certificate alike.
        """
        first, second = {**A.public, "kid": "a\n"}, {**R.public, "kid": "a\n"}
        self.assertRefused(jwks(first, second), 'contain the kid "a\\n" twice')
        keys, _ = read(jwks(first, {**second, "use": "enc"}), None, "verify")
        self.assertEqual(len(keys), 1)
        # Without names there is nothing to confuse.
        self.assertEqual(len(read(jwks(A.public, B.public), None, "verify").keys), 2)

    def test_none(self) -> None:
        """
        A set without any key that can be used is refused.
        """
        self.assertRefused(jwks(), "contain none that can verify tokens")
        self.assertRefused(
            jwks({"kty": "EC", "kid": "e"}),
            'contain none that can verify tokens: key 1 ("e") is ignored: its kty is'
            " none of oct, RSA, OKP",
        )

    def test_tooMany(self) -> None:
        """
        A token without a kid is tried with each key, so their number has a limit.
        """
        keys = [{**ed(n).public, "kid": str(n)} for n in range(33)]
        self.assertEqual(len(read(jwks(*keys[:32]), None, "verify").keys), 32)
        self.assertRefused(jwks(*keys), "are more than 32")

    def test_malformed(self) -> None:
        """
        What is not a JWK Set is refused, and the message does not contain it.
        """
        whole = jwks(A.public)
        invalid = "are not valid JSON, as a JWK Set is"
        for data, sentence in (
            (whole[:-1], invalid),
            (whole + b"x", invalid),
            (b'{"keys":' + b"[" * 100_000, invalid),
            (b'{"keys":[],"x":NaN}', invalid),
            (b'{"keys":[],"x":"\xff"}', invalid),
            (b'["keys"]', 'are not a JWK Set, which is {"keys": [...]}'),
            (
                json.dumps(A.public).encode(),
                'are not a JWK Set, which is {"keys": [...]}',
            ),
            (
                b'{"keys":{}}',
                'are not a JWK Set: "keys" must be an array of objects',
            ),
            (
                b'{"keys":["x"]}',
                'are not a JWK Set: "keys" must be an array of objects',
            ),
            (b'{"keys":[],"keys":[]}', 'have the member "keys" twice'),
            (
                b'{"keys":[{"kty":"oct","kty":"OKP"}]}',
                'have the member "kty" twice',
            ),
        ):
            self.assertRefused(data, sentence)

    def test_toSign(self) -> None:
        """
        To sign, a private key or a secret is taken, and public keys are ignored.
        """
        data = jwks(A.private, {**R.private, "key_ops": ["sign"]}, S.public, B.public)
        keys, warnings = read(data, None, "sign")
        self.assertEqual([k.algorithm for k in keys], ["EdDSA", "RS256", "HS256"])
        self.assertEqual(warnings, ("key 4 is ignored: it is a public key",))
        self.assertRefused(
            jwks({**A.private, "d": "eA"}),
            "contain none that can sign tokens: key 1 is ignored: its value is invalid",
            "sign",
        )

    def test_secrets(self) -> None:
        """
        Only a set of public keys may be read by others.
        """
        self.assertIs(hasSecret(jwks(A.public, R.public)), False)
        for data in (
            jwks(A.public, S.public),
            jwks(A.public, R.private),
            jwks(A.public)[:-1],
            SECRET.encode(),
        ):
            self.assertIs(hasSecret(data), True)

    def test_repr(self) -> None:
        """
        A key can be printed without its content.
        """
        for data in (jwks(S.public), jwks({**S.public, "kid": "s"})):
            (key,) = read(data, None, "verify").keys
            self.assertNotIn(SECRET, repr(key))


class SetTests(SynchronousTestCase):
    """
    Tokens that are verified with the keys of a set.
    """

    def judge(self, *keys: JWK, **options: Any) -> TokenAuthenticator:
        """
        What decides on tokens by a set.
        """
        return TokenAuthenticator(jwks(*keys), now=Now(), **options)

    def assertRefused(
        self, judge: TokenAuthenticator, token: str, sentence: str
    ) -> None:
        """
        A token is refused with this message.
        """
        e = self.assertRaises(Unauthorized, judge.authenticate, token)
        self.assertEqual(e.message, sentence)

    def test_byKid(self) -> None:
        """
        A token is verified with the key that its kid names, and with no other.
        """
        judge = self.judge(
            {**A.public, "kid": "a"}, {**B.public, "kid": "b"}, {**R.public, "kid": "r"}
        )
        for pair, kid in ((A, "a"), (B, "b"), (R, "r")):
            self.assertEqual(judge.authenticate(pair.token(kid)).id, 7)
        self.assertRefused(judge, A.token("b"), BADLY_SIGNED)
        self.assertRefused(judge, A.token("r"), ALGORITHM)
        for kid in ("c", "A", "", "a "):
            self.assertRefused(judge, A.token(kid), UNKNOWN_KID)

    def test_withoutKid(self) -> None:
        """
        A token without a kid is tried with each key of its algorithm, so that a key
        may be added without new tokens.
        """
        judge = self.judge(
            {**R.public, "kid": "r"}, {**A.public, "kid": "a"}, {**B.public, "kid": "b"}
        )
        for pair in (A, B, R):
            self.assertEqual(judge.authenticate(pair.token()).id, 7)
        self.assertRefused(judge, ed(3).token(), BADLY_SIGNED)
        self.assertRefused(judge, S.token(), ALGORITHM)

    def test_keyWithoutKid(self) -> None:
        """
        A key without a kid is tried with every token, as a plain key is.
        """
        judge = self.judge(A.public, {**B.public, "kid": "b"})
        for token in (A.token(), A.token("x"), B.token("b"), B.token()):
            self.assertEqual(judge.authenticate(token).id, 7)
        self.assertRefused(judge, B.token("x"), BADLY_SIGNED)
        self.assertEqual(
            TokenAuthenticator(SECRET, now=Now()).authenticate(S.token("x")).id, 7
        )

    def test_confusion(self) -> None:
        """
        The public key of a pair is not a secret, in whatever form it is taken for
        one: a key has one algorithm, and the token has no say in it.
        """
        judge = self.judge({**R.public, "kid": "r"}, {**S.public, "kid": "s"})
        public = pem(R.key)[1]
        for secret in (
            public,
            public.strip(),
            json.dumps(R.public).encode(),
            R.public["n"].encode(),
        ):
            self.assertRefused(judge, self.forged(secret), ALGORITHM)
        self.assertRefused(judge, S.token("r"), ALGORITHM)
        self.assertRefused(judge, R.token("s"), ALGORITHM)
        other = jwt.encode(CLAIMS, SECRET * 2, "HS512", {"kid": "s"})
        self.assertRefused(judge, other, ALGORITHM)
        unsigned = f"{b64(json.dumps({'alg': 'none', 'kid': 's'}))}.e30."
        self.assertRefused(judge, unsigned, ALGORITHM)
        carried = jwt.encode(CLAIMS, A.key, "EdDSA", {"jwk": A.public})
        self.assertRefused(judge, carried, ALGORITHM)

    def forged(self, secret: bytes) -> str:
        """
        A token by hand, as the library refuses such secrets.
        """
        header = json.dumps({"alg": "HS256", "kid": "r"})
        text = f"{b64(header)}.{b64(json.dumps(CLAIMS))}"
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        return f"{text}.{b64(mac)}"

    def test_onlyConfigured(self) -> None:
        """
        A configured algorithm excludes the keys for others.
        """
        judge = self.judge(
            {**R.public, "kid": "r"}, {**A.public, "kid": "a"}, algorithm="RS256"
        )
        judge.authenticate(R.token("r"))
        self.assertRefused(judge, A.token("a"), UNKNOWN_KID)
        self.assertRefused(judge, A.token(), ALGORITHM)

    def test_badSet(self) -> None:
        """
        A text that is meant to be a set is never taken for a secret.
        """
        for text in (jwks(A.public)[:-1], json.dumps(A.public).encode()):
            e = self.assertRaises(ValueError, TokenAuthenticator, text)
            self.assertTrue(str(e).startswith("the keys are not "))

    def test_secretWithBrace(self) -> None:
        """
        A secret may begin with a brace.
        """
        secret = "{" + SECRET
        token = mint(secret, id=7, role=1, expires=60, now=NOW)
        TokenAuthenticator(secret, now=Now()).authenticate(token)

    def test_describe(self) -> None:
        """
        What is accepted can be said in a sentence, without any key.
        """
        judge = self.judge(
            {**R.public, "kid": "r\n"},
            S.public,
            audience="a",
            issuer="https://i",
            leeway=2.5,
        )
        self.assertEqual(
            judge.describe(),
            'RS256 with kid "r\\n", HS256 without a kid; audience "a"; issuer'
            ' "https://i"; iat and nbf up to 2.5 s ahead',
        )
        self.assertEqual(
            TokenAuthenticator(SECRET, also=[SECRET + "x"]).describe(),
            "HS256 without a kid; any audience; any issuer; iat and nbf up to 5 s"
            " ahead",
        )


class MintTests(SynchronousTestCase):
    """
    Tokens made with a key of a set.
    """

    def test_only(self) -> None:
        """
        The only key that can sign is taken, with its algorithm and its kid.
        """
        for pair in (A, R, S):
            private = {**pair.private, "kid": "k"}
            token = mint(jwks(private, B.public), id=7, role=1, expires=60, now=NOW)
            self.assertEqual(
                jwt.get_unverified_header(token),
                {"alg": pair.algorithm, "typ": "JWT", "kid": "k"},
            )
            TokenAuthenticator(
                jwks({**pair.public, "kid": "k"}), now=Now()
            ).authenticate(token)

    def test_named(self) -> None:
        """
        With several keys, one has to be named.
        """
        data = jwks({**A.private, "kid": "a"}, {**B.private, "kid": "b"})
        token = mint(data, id=7, role=1, expires=60, now=NOW, kid="b")
        TokenAuthenticator(jwks(B.public), now=Now()).authenticate(token)
        for kid in (None, "c"):
            e = self.assertRaises(
                ValueError, mint, data, id=7, role=1, expires=60, now=NOW, kid=kid
            )
            self.assertEqual(
                str(e),
                'name one of the keys by its kid: EdDSA with kid "a", EdDSA with kid'
                ' "b"',
            )

    def test_plainKey(self) -> None:
        """
        A token of a plain key gets the kid that was asked for.
        """
        token = mint(SECRET, id=7, role=1, expires=60, now=NOW, kid="s")
        judge = TokenAuthenticator(jwks({**S.public, "kid": "s"}, A.public), now=Now())
        judge.authenticate(token)

    def test_public(self) -> None:
        """
        A public key can't sign.
        """
        e = self.assertRaises(
            ValueError, mint, jwks(A.public), id=7, role=1, expires=60, now=NOW
        )
        self.assertEqual(
            str(e),
            "the keys contain none that can sign tokens: key 1 is ignored: it is a"
            " public key",
        )


class FileTestCase(SynchronousTestCase):
    """
    A test with a file that has the keys C{a} and C{b}.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "keys.json"
        self.a, self.b = {**A.public, "kid": "a"}, {**B.public, "kid": "b"}
        self.write(self.a, self.b)
        self.now = Now()
        self.file = KeyFile(self.path)
        self.judge = TokenAuthenticator(self.file, now=self.now)

    def write(self, *keys: JWK) -> None:
        """
        Replace the file.
        """
        draft = self.path.with_name("draft")
        draft.write_bytes(jwks(*keys))
        draft.replace(self.path)


class FileTests(FileTestCase):
    """
    A file of keys that changes while the server runs.
    """

    def assertRefused(self, token: str, sentence: str = UNKNOWN_KID) -> None:
        """
        A token is refused with this message.
        """
        e = self.assertRaises(Unauthorized, self.judge.authenticate, token)
        self.assertEqual(e.message, sentence)

    def test_added(self) -> None:
        """
        A new key is in force for the next command, and the others stay.
        """
        c = ed(3)
        principal = self.judge.authenticate(A.token("a"))
        self.assertRefused(c.token("c"))
        self.write(self.a, self.b, {**c.public, "kid": "c"})
        self.judge.authenticate(c.token("c"))
        self.assertIs(self.judge.authenticate(A.token("a")), principal)

    def test_gone(self) -> None:
        """
        A key that is gone ends its tokens with the next command, also those that
        were verified before; others are not verified again.
        """
        kept = self.judge.authenticate(B.token("b"))
        self.judge.authenticate(A.token("a"))
        self.write(self.b)
        self.assertRefused(A.token("a"))
        self.assertIs(self.judge.authenticate(B.token("b")), kept)

    def test_goneWithoutKid(self) -> None:
        """
        It also ends the tokens that do not name it.
        """
        self.judge.authenticate(A.token())
        self.write(self.b)
        self.assertRefused(A.token(), BADLY_SIGNED)

    def test_replaced(self) -> None:
        """
        A key under the name of another ends the tokens of that.
        """
        principal = self.judge.authenticate(A.token("a"))
        self.write({**ed(3).public, "kid": "a"}, self.b)
        self.assertRefused(A.token("a"), BADLY_SIGNED)
        self.assertIs(self.judge.isCurrent(principal), False)
        self.judge.authenticate(ed(3).token("a"))

    def test_renamed(self) -> None:
        """
        A key that gets another name ends the tokens that name it by the former one.
        """
        self.judge.authenticate(A.token("a"))
        self.write({**A.public, "kid": "c"}, self.b)
        self.assertRefused(A.token("a"))
        self.judge.authenticate(A.token("c"))

    def test_noLongerToVerify(self) -> None:
        """
        A key that is no longer meant for signatures is gone.
        """
        self.judge.authenticate(A.token("a"))
        self.write({**self.a, "use": "enc"}, self.b)
        self.assertRefused(A.token("a"))

    def test_back(self) -> None:
        """
        A key that comes back has its tokens accepted again.
        """
        principal = self.judge.authenticate(A.token("a"))
        self.write(self.b)
        self.assertRefused(A.token("a"))
        self.write(self.a, self.b)
        self.assertEqual(self.judge.authenticate(A.token("a")), principal)

    def test_expired(self) -> None:
        """
        A token of a set expires as any.
        """
        self.judge.authenticate(A.token("a"))
        self.now.time = NOW + 100
        self.assertRefused(A.token("a"), "the token has expired")

    def test_isCurrentWithinASecond(self) -> None:
        """
        Sessions that only listen are found out within a second.
        """
        kept = self.judge.authenticate(B.token("b"))
        principal = self.judge.authenticate(A.token("a"))
        self.assertIs(self.judge.isCurrent(principal), True)
        self.write(self.b)
        self.now.time = NOW + 0.999
        self.assertIs(self.judge.isCurrent(principal), True)
        self.now.time = NOW + 1
        self.assertIs(self.judge.isCurrent(principal), False)
        self.assertIs(self.judge.isCurrent(kept), True)

    def test_isCurrentAfterReload(self) -> None:
        """
        A reload, or anybody's command, makes that at once.
        """
        steps: list[Callable[[], object]] = [
            self.file.reload,
            lambda: self.judge.authenticate(B.token("b")),
        ]
        for step in steps:
            self.write(self.a, self.b)
            principal = self.judge.authenticate(A.token("a"))
            self.assertIs(self.judge.isCurrent(principal), True)
            self.write(self.b)
            step()
            self.assertIs(self.judge.isCurrent(principal), False)

    def test_othersAreCurrent(self) -> None:
        """
        A principal without a token, as an application has for its own requests, does
        not depend on a key.
        """
        principal = self.judge.authenticate(A.token("a"))
        principal.signedBy = None
        self.write(self.b)
        self.file.reload()
        self.assertIs(self.judge.isCurrent(principal), True)

    def test_wrong(self) -> None:
        """
        A file that is wrong changes nothing, and is logged once; then a good one
        counts again.
        """
        lines = logTo(self)
        whole = self.path.read_bytes()
        for data, cause in (
            (b"", "are not valid JSON, as a JWK Set is"),
            (
                jwks(self.b, self.b),
                'contain the kid "b" twice',
            ),
            (SECRET.encode(), "are not valid JSON, as a JWK Set is"),
            (
                jwks(self.b, A.private),
                "contain a private key, key 2: a server must only have the public one",
            ),
            (whole[:-2], "are not valid JSON, as a JWK Set is"),
            (jwks(), "contain none that can verify tokens"),
        ):
            self.path.write_bytes(data)
            for _ in range(3):
                self.judge.authenticate(A.token("a"))
            self.assertEqual(
                lines,
                [
                    (
                        "error",
                        f"The keys in {self.path} {cause}; the previous ones stay in"
                        " force.",
                    )
                ],
            )
            lines.clear()
        self.assertIsNotNone(self.file.problem)
        self.path.write_bytes(jwks(self.b))
        self.assertRefused(A.token("a"))
        self.assertIsNone(self.file.problem)
        self.assertEqual(
            lines,
            [
                (
                    "info",
                    f'The keys in {self.path} are now EdDSA with kid "b"; tokens of'
                    " others are refused.",
                ),
                ("info", f"The keys in {self.path} can be read again."),
            ],
        )

    def test_missing(self) -> None:
        """
        While the file is missing, its keys stay in force.
        """
        lines = logTo(self)
        self.path.unlink()
        for _ in range(3):
            self.judge.authenticate(A.token("a"))
        self.assertEqual(len(lines), 1)
        self.assertIn("can't be read (No such file or directory)", lines[0][1])

    def test_wrongAtStart(self) -> None:
        """
        A server does not start with a wrong file.
        """
        self.path.write_bytes(b'{"keys"')
        e = self.assertRaises(ValueError, KeyFile, self.path)
        self.assertEqual(
            str(e),
            f"the keys in {self.path} are not valid JSON, as a JWK Set is",
        )

    def test_warnings(self) -> None:
        """
        A key that is ignored is a warning, which is logged once.
        """
        lines = logTo(self)
        warning = 'key 2 ("e") is ignored: its kty is none of oct, RSA, OKP'
        for keys in ((self.a, {"kty": "EC", "kid": "e"}), (self.a, self.b)):
            self.write(*keys)
            self.file.reload()
            self.file.reload()
        self.assertEqual(self.file.warnings, ())
        texts = [text for level, text in lines if level == "warn"]
        self.assertEqual(texts, [f"The keys in {self.path}: {warning}."])

    def test_spellings(self) -> None:
        """
        The file may have a byte order mark, as Windows writes one, and line ends.
        """
        for data in (
            b"\xef\xbb\xbf" + jwks(self.b) + b"\r\n",
            b"\n " + jwks(self.b),
            jwks(self.b).decode().encode("utf-16"),
        ):
            self.path.write_bytes(data)
            KeyFile(self.path)

    def test_notAFile(self) -> None:
        """
        A pipe is refused: to read from it would stop the server.
        """
        self.path.unlink()
        os.mkfifo(self.path)
        e = self.assertRaises(ValueError, KeyFile, self.path)
        self.assertEqual(str(e), f"the keys in {self.path} are not a regular file")


class StreamTests(FileTestCase):
    """
    The events of a connection whose key is gone.
    """

    def test_streamStops(self) -> None:
        """
        After a reload a connection with a token of a key that is gone gets no event
        and 401, and one with another key goes on.
        """
        clock = Clock()
        events = TradeEvents()
        runtime = TradingRuntime(
            clock, MemoryLedger(), events, now=lambda: NOW, maxQueued=100
        )
        service = CreditSync(
            clock, runtime=runtime, events=events, authenticator=self.judge, listen=()
        )
        service.startService()
        clock.pump([0.0] * 10)
        connections = []
        for _ in range(2):
            protocol = service.factory.buildProtocol(None)
            assert protocol is not None
            transport = StringTransport()
            protocol.makeConnection(transport)
            connections.append((protocol, transport))
        (first, heard), (second, other) = connections

        def send(protocol: Any, token: str, command: str, **data: object) -> None:
            request = {"command": command, "extID": 1, "__token": token, "data": data}
            protocol.dataReceived(json.dumps(request).encode() + b"\n")
            clock.pump([0.0] * 10)

        credit = {"login": 1001, "amount": 300, "comment": "Promotion credit"}
        send(first, A.token("a"), "HealthCheck")
        send(second, B.token("b"), "CreditInSync", **credit)
        self.assertEqual(heard.value().count(b'"event":"trade:event"'), 1)
        heard.clear()
        self.write(self.b)
        self.file.reload()
        send(second, B.token("b"), "CreditInSync", **credit)
        self.assertEqual(heard.value(), b"")
        self.assertEqual(other.value().count(b'"event":"trade:event"'), 2)
        send(first, A.token("a"), "CreditInSync", **credit)
        self.assertEqual(
            json.loads(heard.value()),
            {
                "extID": 1,
                "status": 401,
                "error": "UNAUTHORIZED",
                "message": UNKNOWN_KID,
            },
        )
