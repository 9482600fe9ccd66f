"""
Tests for L{creditsync.__main__} and L{creditsync._cli}.
"""

import base64
import io
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from creditsync import __version__
from creditsync.__main__ import main
from creditsync._cli import serve
from creditsync.auth import TokenAuthenticator
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Account
from creditsync.validation import Schemas
from tests.test_auth import b64
from tests.test_signals import keepSignals

SECRET = "0123456789abcdef0123456789abcdef"
CHECKOUT = Path(__file__).parents[1]


class CommandTestCase(SynchronousTestCase):
    """
    A test of the command, in a folder that has a key.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        self.folder = folder.name
        self.patch(os, "environb", {})
        Path("creditsync.key").write_text(f"{SECRET}\n")
        Path("creditsync.key").chmod(0o600)

    def run_(self, *arguments: str) -> str:
        """
        Run the command in this process, and return what it prints.
        """
        self.patch(sys, "argv", ["creditsync", *arguments])
        said = io.StringIO()
        with redirect_stdout(said):
            main()
        return said.getvalue()

    def assertEnds(self, status: object, *arguments: str) -> str:
        """
        The command exits with this status, or with this message on stderr and
        status 1. Returns what it has printed to stderr itself.
        """
        complaint = io.StringIO()
        with redirect_stderr(complaint):
            e = self.assertRaises(SystemExit, self.run_, *arguments)
        self.assertEqual(e.code, status)
        return complaint.getvalue()


class TokenTests(CommandTestCase):
    """
    C{creditsync token}.
    """

    def test_token(self) -> None:
        """
        By default it prints a manager's token for a day, and nothing else.
        """
        said = self.run_("token", "--id", "7")
        self.assertEqual(said.count("\n"), 1)
        principal = TokenAuthenticator(SECRET).authenticate(said.strip())
        self.assertEqual((principal.id, principal.role), (7, 1))
        self.assertApproximates(principal.expires, time.time() + 86400, 30)

    def test_roles(self) -> None:
        """
        Each role has the platform's number.
        """
        for role, number in [
            ("user", 0),
            ("manager", 1),
            ("dealer", 2),
            ("admin", 3),
            ("system", 4),
            ("fix", 5),
            ("customer", 9),
            ("crm-manager", 10),
            ("crm-admin", 11),
        ]:
            for text in (role, str(number)):
                said = self.run_("token", "--id", "7", "--role", text)
                principal = TokenAuthenticator(SECRET).authenticate(said.strip())
                self.assertEqual((text, principal.role), (text, number))

    def test_rights(self) -> None:
        """
        The groups and the logins that the token is for are claims of it.
        """
        said = self.run_(
            *("token", "--id", "7", "--groups", "real*,!real-vip"),
            *("--login", "1001", "--logins", "1002, 1003"),
        )
        principal = TokenAuthenticator(SECRET).authenticate(said.strip())
        self.assertEqual(principal.groups, "real*,!real-vip")
        self.assertEqual(principal.login, 1001)
        self.assertEqual(principal.logins, (1002, 1003))

    def test_issuer(self) -> None:
        """
        The token names its audience, its issuer and its key.
        """
        said = self.run_(
            *("token", "--id", "7", "--audience", "a", "--issuer", "i", "--kid", "k")
        )
        judge = TokenAuthenticator(SECRET, audience="a", issuer="i")
        self.assertEqual(judge.authenticate(said.strip()).id, 7)
        self.assertIn(b'"kid":"k"', base64.urlsafe_b64decode(said.split(".")[0] + "=="))

    def test_keySet(self) -> None:
        """
        It signs with a key of a JWK Set, which has to be named if there are several.
        """
        k, other = (b64(bytes([n]) * 32) for n in (1, 2))
        Path("creditsync.key").write_text(
            f'{{"keys":[{{"kty":"oct","kid":"old","k":"{other}"}},'
            f'{{"kty":"oct","kid":"new","k":"{k}"}}]}}'
        )
        said = self.run_("token", "--id", "7", "--kid", "new")
        TokenAuthenticator(bytes([1]) * 32).authenticate(said.strip())
        self.assertEnds(
            'creditsync token: name one of the keys by its kid: HS256 with kid "old",'
            ' HS256 with kid "new"',
            "token",
            "--id=7",
        )

    def test_expires(self) -> None:
        """
        C{--expires} sets how long the token is valid.
        """
        said = self.run_("token", "--id", "7", "--expires", "60")
        principal = TokenAuthenticator(SECRET).authenticate(said.strip())
        self.assertApproximates(principal.expires, time.time() + 60, 30)

    def test_privateKey(self) -> None:
        """
        A token minted with a private key is verified with the public one.
        """
        key = Ed25519PrivateKey.generate()
        Path("private.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        public = key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        said = self.run_(
            *("token", "--id", "7", "--algorithm", "EdDSA", "--key", "private.pem")
        )
        principal = TokenAuthenticator(public, "EdDSA").authenticate(said.strip())
        self.assertEqual(principal.id, 7)

    def test_readsTheKeyAsTheServer(self) -> None:
        """
        It reads a key file with a byte order mark, or a binary one with white
        space at its end, as the server does.
        """
        binary = bytes(range(200, 240)) + b"\n"
        for data, key in (
            (b"\xef\xbb\xbf" + SECRET.encode() + b"\n", SECRET.encode()),
            (binary, binary),
        ):
            Path("creditsync.key").write_bytes(data)
            said = self.run_("token", "--id", "7")
            TokenAuthenticator(key).authenticate(said.strip())

    def test_beyond(self) -> None:
        """
        It refuses to mint a token that expires after the year 9999.
        """
        self.assertEnds(
            "creditsync token: the token would expire after the year 9999",
            *("token", "--id", "7", "--expires", "253402300799"),
        )

    def test_noKey(self) -> None:
        """
        If there is no key, the message says what to do.
        """
        self.assertEnds(
            "creditsync token: there is no key at nowhere: name it with --key, or"
            " start the server once, which creates one",
            *("token", "--id", "7", "--key", "nowhere"),
        )

    def test_badKey(self) -> None:
        """
        It refuses to mint a token with a key that is too short.
        """
        Path("creditsync.key").write_text("hunter2")
        self.assertEnds(
            "creditsync token: an HS256 key must have at least 32 bytes",
            "token",
            "--id=7",
        )

    def test_mistakes(self) -> None:
        """
        Arguments that can't make a valid token are refused.
        """
        for arguments in [
            [],
            ["--id=-1"],
            ["--id=x"],
            ["--id=9007199254740992"],
            ["--id=7", "--role=god"],
            ["--id=7", "--role=8"],
            ["--id=7", "--role=01"],
            ["--id=7", "--login=0"],
            ["--id=7", "--login=x"],
            ["--id=7", "--logins="],
            ["--id=7", "--logins=1001,,1002"],
            ["--id=7", "--groups="],
            ["--id=7", "--kid="],
            ["--id=7", "--audience="],
            ["--id=7", "--issuer="],
            ["--id=7", "--expires=0"],
            ["--id=7", "--expires=nan"],
            ["--id=7", "--expires=1e300"],
            ["--id=7", "--algorithm=none"],
        ]:
            self.assertIn("error: ", self.assertEnds(2, "token", *arguments))


class AccountTests(CommandTestCase):
    """
    C{creditsync account}.
    """

    def test_add(self) -> None:
        """
        New accounts are added with totals of 0, and existing ones are left
        alone.
        """
        self.assertEqual(
            self.run_("account", "add", "1001", "1002"), "1001 added\n1002 added\n"
        )
        self.assertEqual(
            self.run_("account", "add", "1002", "1003", "1003"),
            "1002 already exists\n1003 added\n",
        )
        ledger = SQLiteLedger("creditsync.db", maybeDeferred)
        ledger.open()
        self.addCleanup(ledger.close)
        self.assertEqual(ledger.account(1003), Account(1003, 0, 0))
        self.assertIsNone(ledger.account(1004))

    def test_list(self) -> None:
        """
        New accounts may have a group. C{list} prints all accounts, by their logins.
        """
        self.run_("account", "add", "1002", "1001", "--group", "real\\it's gold")
        self.run_("account", "add", "1003", "1001", "--group", "demo")
        self.run_("account", "add", "9007199254740991")
        self.assertEqual(
            self.run_("account", "list"),
            "           login         balance          credit  group\n"
            "            1001            0.00            0.00  real\\it's gold\n"
            "            1002            0.00            0.00  real\\it's gold\n"
            "            1003            0.00            0.00  demo\n"
            "9007199254740991            0.00            0.00\n",
        )

    def test_listNothing(self) -> None:
        """
        Where there is no ledger, C{list} says so, and makes none.
        """
        self.assertEnds(
            "creditsync account list: there is no ledger"
            f" {os.path.realpath(self.folder)}/creditsync.db: name another file",
            *("account", "list"),
        )
        self.assertFalse(os.path.exists("creditsync.db"))

    def test_groups(self) -> None:
        """
        A group that the server would refuse is refused, and no other.
        """
        schemas = Schemas()
        for group, isGood in [
            ("", True),
            ("a", True),
            ("a!b", True),
            ("a b", True),
            ("\u20ac", True),
            ("x" * 128, True),
            ("x" * 129, False),
            ("!a", False),
            ("a,b", False),
            ("a*", False),
            ("*", False),
            (" a", False),
            ("a ", False),
            (" ", False),
            ("a\nb", False),
            ("a\n", False),
            ("\x7f", False),
            ("a\x85b", False),
        ]:
            data = {"login": 1, "group": group}
            self.assertEqual(
                (group, schemas.isOurs("set_account_group", data)), (group, isGood)
            )
            arguments = ("account", "add", "1", f"--group={group}")
            if isGood:
                self.run_(*arguments)
            else:
                self.assertIn("a group is a name", self.assertEnds(2, *arguments))

    def test_problem(self) -> None:
        """
        A ledger that can't be used is one sentence.
        """
        self.assertEnds(
            "creditsync account add: the folder of the ledger"
            f" {os.path.realpath(self.folder)}/nowhere/x.db does not exist:"
            " create it, or name another one",
            *("account", "add", "1", "--ledger", "nowhere/x.db"),
        )

    def test_mistakes(self) -> None:
        """
        An invalid login is refused.
        """
        for arguments in [[], ["0"], ["-1"], ["x"], ["1.0"], ["9007199254740992"]]:
            self.assertIn("error: ", self.assertEnds(2, "account", "add", *arguments))


class MainTests(CommandTestCase):
    """
    The command line as a whole.
    """

    def test_serves(self) -> None:
        """
        Without a command, or with the server's options only, it runs the
        server.
        """
        served: list[list[str]] = []
        keepSignals(self)
        self.patch(serve, "run", served.append)
        self.run_()
        self.run_("--timeout", "3")
        self.run_("serve", "--timeout", "3")
        self.run_("serve", "--help")
        self.assertEqual(
            served, [[], ["--timeout", "3"], ["--timeout", "3"], ["--help"]]
        )

    def test_help(self) -> None:
        """
        --help shows every command.
        """
        said = io.StringIO()
        self.patch(sys, "argv", ["creditsync", "--help"])
        with redirect_stdout(said):
            self.assertRaises(SystemExit, main)
        commands = (
            "serve token account credit-in credit-out balance-in balance-out delete"
            " show watch bulk statement check backup export demo init import sandbox"
        )
        for command in commands.split():
            self.assertRegex(said.getvalue(), rf"\n    {command}\s")

    def test_version(self) -> None:
        """
        C{--version} prints the version of the package.
        """
        said = io.StringIO()
        self.patch(sys, "argv", ["creditsync", "--version"])
        with redirect_stdout(said):
            self.assertRaises(SystemExit, main)
        self.assertEqual(said.getvalue(), f"{__version__}\n")

    def test_unknownCommand(self) -> None:
        """
        An unknown command is refused.
        """
        self.assertIn("nope", self.assertEnds(2, "nope"))

    def test_demoListensOnTCP(self) -> None:
        """
        The demo only takes an endpoint to which its own client can connect.
        """
        for endpoint in ("unix:/x", "tcp:x", "x"):
            self.assertIn(endpoint, self.assertEnds(2, "demo", "--listen", endpoint))


class ProcessTests(CommandTestCase):
    """
    The command as a process.
    """

    def process(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """
        Run C{python -m creditsync} to its end.
        """
        return subprocess.run(
            [sys.executable, "-m", "creditsync", *arguments],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": self.folder},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def test_demoOnce(self) -> None:
        """
        The demo shows the request of C{docs/protocol.rst}, "A credit", its event
        and its reply, and leaves nothing behind.
        """
        ended = self.process("demo", "--once", "--listen=tcp:0:interface=127.0.0.1")
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        out, event, reply = ended.stdout.splitlines()[-3:]
        self.assertTrue(
            out.startswith('-> {"command":"CreditInSync","extID":"credit-req-1001",')
        )
        self.assertTrue(event.startswith('<- {"event":"trade:event","type":0,"data":{'))
        self.assertTrue(
            reply.startswith(
                '<- {"extID":"credit-req-1001","status":200,"data":{"order":1,'
                '"login":1001,"cmd":7,"state":3,"profit":300.0,'
                '"comment":"Promotion credit"'
            )
        )
        self.assertEqual(os.listdir(self.folder), ["creditsync.key"])

    def test_serveMistake(self) -> None:
        """
        An error in the server's options is one sentence and status 2.
        """
        ended = self.process("--timeout", "soon")
        self.assertEqual(ended.returncode, 2)
        self.assertEqual(
            ended.stderr,
            "creditsync serve: --timeout must be a positive number: soon\n",
        )
        self.assertEqual(ended.stdout, "")
