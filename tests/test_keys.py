"""
Tests for L{creditsync._process.keys}, and for the options that decide the key.
"""

import os
from pathlib import Path

from twisted.python.usage import UsageError

from creditsync._process.keys import makeKey
from creditsync._process.starting import CannotStart
from tests.test_auth import b64
from tests.test_tap import SECRET, InFolder, logTo

# The public key of RFC 8037, appendix A.2.
KEY_SET = (
    '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a",'
    '"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
)


class KeyTests(InFolder):
    """
    Where the key comes from, and how one is made.
    """

    def refusal(self, *arguments: str) -> str:
        """
        The message with which these arguments are refused.
        """
        return str(self.assertRaises(UsageError, self.parse, *arguments))

    def test_file(self) -> None:
        """
        The key is the file's text without its line end.
        """
        self.writeKey(f"{SECRET}\n")
        self.assertEqual(self.parse()["secret"], SECRET.encode())

    def test_environment(self) -> None:
        """
        The environment takes precedence over the default file.
        """
        self.writeKey("x" * 32)
        os.environb[b"CREDITSYNC_KEY"] = SECRET.encode()
        self.assertEqual(self.parse()["secret"], SECRET.encode())

    def test_named(self) -> None:
        """
        The file of C{--key} takes precedence over the environment.
        """
        self.writeKey()
        os.environb[b"CREDITSYNC_KEY"] = b"x" * 32
        self.assertEqual(self.parse("--key=creditsync.key")["secret"], SECRET.encode())

    def test_short(self) -> None:
        """
        A key that is too short is refused, and not printed.
        """
        self.writeKey("hunter2")
        self.assertEqual(
            self.refusal(), "--key: an HS256 key must have at least 32 bytes"
        )

    def test_twoReadings(self) -> None:
        """
        If earlier releases read the file differently, both readings are
        accepted, with a warning.
        """
        lines = logTo(self)
        Path("creditsync.key").write_bytes(b"\xef\xbb\xbf" + SECRET.encode())
        Path("creditsync.key").chmod(0o600)
        options = self.parse()
        self.assertEqual(options["secret"], SECRET.encode())
        self.assertEqual(options["formerSecrets"], [b"\xef\xbb\xbf" + SECRET.encode()])
        self.assertEqual(
            lines,
            [
                (
                    "warn",
                    "The key creditsync.key begins with a byte order mark, which is"
                    " not part of the key, or is binary and begins or ends with white"
                    " space, which is; tokens signed with the key as earlier releases"
                    " read it are accepted too.",
                )
            ],
        )

    def test_variableHasTwoReadings(self) -> None:
        """
        The key in the environment is read like that of a file.
        """
        data = bytes(range(200, 240)) + b"\n"
        self.patch(os, "environb", {b"CREDITSYNC_KEY": data})
        options = self.parse()
        self.assertEqual(options["secret"], data)
        self.assertEqual(options["formerSecrets"], [data[:-1]])

    def test_noPublicKey(self) -> None:
        """
        A public key is never made: only its issuer has it.
        """
        self.assertEqual(
            self.refusal("--algorithm=EdDSA"),
            "--key: the public key creditsync.key does not exist",
        )

    def test_unreadable(self) -> None:
        """
        A key file that exists but can't be read is an error, and not replaced
        by a new one.
        """
        os.mkdir("creditsync.key")
        self.assertEqual(
            self.refusal(),
            "--key: the key creditsync.key can't be read (Is a directory)",
        )

    def test_othersCanRead(self) -> None:
        """
        There is a warning at each start if others can read the secret.
        """
        self.writeKey(mode=0o640)
        lines = logTo(self)
        self.parse()
        self.assertEqual(
            lines,
            [
                (
                    "warn",
                    "Others can read the key creditsync.key:"
                    " restrict it with chmod 600.",
                )
            ],
        )

    def test_credential(self) -> None:
        """
        There is no such warning for a credential of systemd, which only the
        service can read.
        """
        self.writeKey(mode=0o440)
        lines = logTo(self)
        self.patch(os, "environ", {"CREDENTIALS_DIRECTORY": os.getcwd()})
        self.parse()
        self.assertEqual(lines, [])
        os.environ["CREDENTIALS_DIRECTORY"] = f"{os.getcwd()}/elsewhere"
        self.parse()
        self.assertEqual(len(lines), 1)

    def test_set(self) -> None:
        """
        A JWK Set needs no option, and is not told from others' eyes if its keys are
        public. A relative path means the folder of the start, of which a daemon goes
        away.
        """
        lines = logTo(self)
        self.writeKey(KEY_SET, mode=0o644)
        keys = self.parse()["keys"]
        os.chdir("/")
        keys.reload()
        self.assertIsNone(keys.problem)
        self.assertEqual([key.kid for key in keys.keys], ["a"])
        self.assertEqual(lines, [])

    def test_setOfSecrets(self) -> None:
        """
        There is a warning if others can read a set that has a secret.
        """
        lines = logTo(self)
        k = b64(SECRET.encode())
        self.writeKey(f'{{"keys":[{{"kty":"oct","k":"{k}"}}]}}', mode=0o644)
        self.parse()
        self.assertEqual([level for level, _ in lines], ["warn"])

    def test_setInVariable(self) -> None:
        """
        A JWK Set in the environment is one too, but can't be read again.
        """
        self.patch(os, "environb", {b"CREDITSYNC_KEY": KEY_SET.encode()})
        options = self.parse()
        self.assertIsNone(options["keys"])
        self.assertEqual(options["secret"], KEY_SET.encode())
        self.patch(os, "environb", {b"CREDITSYNC_KEY": KEY_SET[:-1].encode()})
        self.assertEqual(
            self.refusal(), "--key: the keys are not valid JSON, as a JWK Set is"
        )

    def test_badSet(self) -> None:
        """
        A wrong set is refused.
        """
        self.writeKey(KEY_SET[:-1])
        path = Path("creditsync.key").absolute()
        self.assertEqual(
            self.refusal(),
            f"--key: the keys in {path} are not valid JSON, as a JWK Set is",
        )
        self.writeKey(KEY_SET)
        self.assertEqual(
            self.refusal("--algorithm=RS256"),
            f"--key: the keys in {path} contain none that can verify tokens: key 1"
            ' ("a") is ignored: it is for EdDSA, and only RS256 is configured',
        )

    def test_made(self) -> None:
        """
        A new key is random, only its user can read it, and it is read back as
        it was made.
        """
        keys = {makeKey(Path(name)) for name in ("a", "b", "creditsync.key")}
        self.assertEqual(len(keys), 3)
        self.assertEqual(Path("creditsync.key").stat().st_mode & 0o777, 0o600)
        secret = self.parse()["secret"]
        self.assertIn(secret, keys)
        self.assertEqual(len(secret), 64)

    def test_madeSaysHowToMint(self) -> None:
        """
        The log has the command that mints a token, but not the key.
        """
        lines = logTo(self)
        key = makeKey(Path("creditsync.key")).decode()
        ((_, text),) = lines
        self.assertIn("creditsync token --key creditsync.key --id 7", text)
        self.assertNotIn(key, text)

    def test_neverReplaced(self) -> None:
        """
        A key file that has appeared meanwhile is kept, and no draft is left.
        """
        self.writeKey()
        e = self.assertRaises(CannotStart, makeKey, Path("creditsync.key"))
        self.assertEqual(
            str(e), "--key: can't create the key creditsync.key: File exists"
        )
        self.assertEqual(Path("creditsync.key").read_text(), SECRET)
        self.assertEqual(os.listdir(), ["creditsync.key"])
