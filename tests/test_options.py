"""
Tests for L{creditsync._process.options} and L{creditsync._process.optiontypes}.
"""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from twisted.python.usage import UsageError

from creditsync import __version__
from creditsync.limits import Limits
from tests.test_tap import InFolder


class OptionsTests(InFolder):
    """
    The command line.
    """

    def assertRefused(self, sentence: str, *arguments: str) -> None:
        """
        These arguments are refused with this message.
        """
        e = self.assertRaises(UsageError, self.parse, *arguments)
        self.assertEqual(str(e), sentence)

    def test_defaults(self) -> None:
        """
        Without options the server listens on loopback only.
        """
        options = self.parse()
        self.assertEqual(options["listen"], ["tcp:8080:interface=127.0.0.1"])
        self.assertEqual(options["ledger"], "creditsync.db")
        self.assertIsNone(options["algorithm"])
        self.assertIsNone(options["audience"])
        self.assertIsNone(options["issuer"])
        self.assertIsNone(options["keys"])
        self.assertEqual(options["accounts"], "open")
        self.assertEqual(options["timeout"], 5.0)
        self.assertEqual(options["serverLimits"], Limits())
        self.assertIsNone(options["revocations"])
        self.assertIsNone(options["rules"])
        self.assertIsNone(options["secret"])

    def test_postgres(self) -> None:
        """
        A server on PostgreSQL has a name.
        """
        address = "postgresql://creditsync@db.example.com/creditsync"
        options = self.parse("--ledger", address, "--node", "berlin-1")
        self.assertEqual(options["ledger"], address)
        self.assertEqual(options["node"], "berlin-1")

    def test_unfitting(self) -> None:
        """
        A file has no nodes, and a PostgreSQL no nameless ones.
        """
        address = "postgresql://db/creditsync"
        self.assertRefused(
            "--node is for servers that share a PostgreSQL, and --ledger names a file:"
            " creditsync.db",
            "--node=a",
        )
        self.assertRefused(
            "--node is missing: on PostgreSQL each server has a name of its own, which"
            " it keeps when it is started again",
            "--ledger",
            address,
        )
        self.assertRefused(
            "--node must be 1 to 40 letters, digits, dots, hyphens and underscores, and"
            " begin with a letter or a digit: two words",
            "--node=two words",
        )

    def test_passwordOfPostgres(self) -> None:
        """
        A password is refused on the command line, where everybody can read it, and
        taken from a file. It is not repeated, nor is anything of a malformed address.
        """
        address = "postgresql://me:s3cret@db/creditsync"
        self.assertRefused(
            "--ledger: everybody on this machine can read a password on a command"
            " line: leave it out of the address, and give it in PGPASSWORD or"
            " ~/.pgpass",
            *("--ledger", address, "--node=a"),
        )
        Path("site.toml").write_text(f'ledger = "{address}"\nnode = "a"\n')
        options = self.parse("--config=site.toml")
        self.assertEqual(options["ledger"], address)
        Path("site.toml").write_text('ledger = "postgresql://me:s3@cret@db/"\n')
        e = self.assertRaises(UsageError, self.parse, "--config=site.toml", "--node=a")
        self.assertNotIn("cret", str(e))
        self.assertIn("is not a valid connection string", str(e))

    def test_neitherFileNorAddress(self) -> None:
        """
        A connection string in another form is not taken for the name of a file, and
        not repeated, as it may have a password.
        """
        for address in (
            "host=db user=me password=s3cret",
            "PASSWORD = s3cret host=db",
            "postgresq://me:s3cret@db/creditsync",
            "mysql://me:s3cret@db/creditsync",
        ):
            for options in ([], ["--node=a"]):
                self.assertRefused(
                    "--ledger: this is not the name of a file, nor an address that"
                    " begins with postgresql://",
                    *("--ledger", address, *options),
                )
        for path in ("a=b.db", "hosts=/x.db", "a:/x.db"):
            self.assertEqual(self.parse("--ledger", path)["ledger"], path)

    def test_withoutPsycopg(self) -> None:
        """
        Without psycopg it is said what to install.
        """
        # The import of a module that is None here fails.
        with patch.dict(sys.modules, {"psycopg": None}):  # type: ignore[dict-item]
            sys.modules.pop("creditsync.postgres._session", None)
            e = self.assertRaises(
                UsageError, self.parse, "--ledger=postgresql://db/x", "--node=a"
            )
        self.assertTrue(str(e).endswith("pip install 'creditsync[postgres]'"))

    def test_upstream(self) -> None:
        """
        A gateway needs a token, and options of a gateway need a platform.
        """
        token = "--upstream-token=token"
        options = self.parse("--upstream=tls:platform.example:443", token)
        self.assertEqual(options["way"], "one-shot")
        self.assertRefused("--upstream needs --upstream-token", "--upstream=tcp:h:1")
        self.assertRefused("--upstream-token needs --upstream", token)
        self.assertRefused("--upstream-groups needs --upstream", "--upstream-groups")
        self.assertFalse(options["upstream-groups"])
        options = self.parse("--upstream=tcp:h:1", token, "--upstream-groups")
        self.assertTrue(options["upstream-groups"])
        self.assertRefused(
            "--accounts known can't be used with --upstream: accounts are those of the"
            " platform",
            "--upstream=tcp:h:1",
            token,
            "--accounts=known",
        )
        self.assertRefused(
            "--upstream nope:1 is not a valid endpoint: Unknown endpoint type: 'nope'",
            "--upstream=nope:1",
        )

    def test_way(self) -> None:
        """
        Two phases are the way if the probe has found them sound, and only then.
        """
        gateway = ("--upstream=tcp:h:1", "--upstream-token=token")
        self.assertRefused(
            "--upstream-profile: two-phase needs a profile in which the probe has"
            " passed",
            *gateway,
            "--upstream-way=two-phase",
        )
        profile = "--upstream-profile=p.toml"
        Path("p.toml").write_text("two-phase = true\n")
        self.assertEqual(self.parse(*gateway, profile)["way"], "two-phase")
        asked = self.parse(*gateway, profile, "--upstream-way=one-shot")
        self.assertEqual(asked["way"], "one-shot")
        Path("p.toml").write_text("two-phase = false\n")
        self.assertEqual(self.parse(*gateway, profile)["way"], "one-shot")
        Path("p.toml").write_text("two-phase = 1\n")
        self.assertRefused(
            "--upstream-profile: p.toml is not a profile: two-phase must be true or"
            " false",
            *gateway,
            profile,
        )
        Path("p.toml").write_text("two-phase = false\ncomment-tag = 1\n")
        self.assertRefused(
            "--upstream-profile: p.toml is not a profile: comment-tag must be true or"
            " false",
            *gateway,
            profile,
        )
        Path("p.toml").write_text("two-phase = false\ncomment-length = 256\n")
        self.assertRefused(
            "--upstream-profile: p.toml is not a profile: comment-length must be from 1"
            " to 255",
            *gateway,
            profile,
        )
        Path("p.toml").write_text("two-phase = false\n[commands]\nCreditIn = 1\n")
        self.assertRefused(
            "--upstream-profile: p.toml is not a profile: a command's name must be a"
            " string",
            *gateway,
            profile,
        )

    def test_listenRepeats(self) -> None:
        """
        Each C{--listen} adds an endpoint.
        """
        options = self.parse("--listen", "tcp:1", "--listen", "unix:/tmp/x")
        self.assertEqual(options["listen"], ["tcp:1", "unix:/tmp/x"])

    def test_noEndpoint(self) -> None:
        """
        An invalid endpoint is refused at once, with the option and the value.
        """
        self.assertRefused(
            "--listen nope:8080 is not a valid endpoint: Unknown endpoint type: 'nope'",
            "--listen=nope:8080",
        )
        for description in ("tcp", "tcp:x", "tcp:1:nope=2", "", "ssl:1:privateKey=/x"):
            e = self.assertRaises(UsageError, self.parse, "--listen", description)
            self.assertIn(f"--listen {description} is not a valid endpoint: ", str(e))

    def test_limits(self) -> None:
        """
        Each limit is an option, and gets into the L{Limits}.
        """
        options = self.parse(
            *("--max-line-length", "1"),
            *("--line-timeout", "2.5"),
            *("--lines-per-turn", "3"),
            *("--max-pending", "4"),
            *("--max-pending-per-session", "5"),
            *("--max-queued", "6"),
            *("--max-unread", "7"),
            *("--max-connections", "8"),
            *("--stop-timeout", "9.5"),
        )
        self.assertEqual(
            options["serverLimits"],
            Limits(
                maxLineLength=1,
                lineTimeout=2.5,
                linesPerTurn=3,
                maxPending=4,
                maxPendingPerSession=5,
                maxQueued=6,
                maxUnread=7,
                maxConnections=8,
                stopTimeout=9.5,
            ),
        )

    def test_emptyText(self) -> None:
        """
        A text must not be empty, as one from a variable that is not set is.
        """
        for name in ("audience", "issuer"):
            self.assertRefused(f"--{name} is empty", f"--{name}=")

    def test_noQuantity(self) -> None:
        """
        A quantity must be positive and finite.
        """
        for text in ("0", "-1", "nan", "inf", "1e400", "x", "", "1s"):
            self.assertRefused(
                f"--timeout must be a positive number: {text}", f"--timeout={text}"
            )

    def test_leeway(self) -> None:
        """
        The leeway for issuers' clocks is 5 seconds by default, and may be 0.
        """
        self.assertEqual(self.parse()["leeway"], 5.0)
        self.assertEqual(self.parse("--leeway=0")["leeway"], 0.0)
        self.assertEqual(self.parse("--leeway=1.5")["leeway"], 1.5)
        for text in ("-1", "-0.001", "nan", "inf", "1e400", "x", "", "5s"):
            self.assertRefused(
                f"--leeway must be 0 or a positive number: {text}", f"--leeway={text}"
            )

    def test_noWholeNumber(self) -> None:
        """
        A limit on a number of things must be a whole number.
        """
        for text in ("0", "-1", "1.5", "1e3", "x", "", "inf"):
            self.assertRefused(
                f"--max-pending must be a positive whole number: {text}",
                f"--max-pending={text}",
            )

    def test_words(self) -> None:
        """
        Options with a few allowed words refuse any other.
        """
        self.assertRefused(
            "--algorithm must be HS256, RS256 or EdDSA: none", "--algorithm=none"
        )
        self.assertRefused("--accounts must be open or known: all", "--accounts=all")

    def test_unknownOption(self) -> None:
        """
        Unknown options and surplus arguments are refused.
        """
        self.assertRefused("option --timeouts not recognized", "--timeouts=1")
        self.assertRefused("Wrong number of arguments.", "serve")

    def test_schemas(self) -> None:
        """
        A folder of schemas that does not exist is refused.
        """
        self.assertRefused(
            "--schemas: the folder nowhere does not exist", "--schemas=nowhere"
        )

    def test_schemasOfTheSite(self) -> None:
        """
        An error in a schema of the site names the option.
        """
        os.mkdir("site")
        Path("site", "credit_in.json").write_text("{")
        e = self.assertRaises(UsageError, self.parse, "--schemas=site")
        self.assertTrue(str(e).startswith("--schemas: "), str(e))

    def test_revoked(self) -> None:
        """
        A file of revoked tokens that does not exist is refused.
        """
        self.assertRefused(
            "--revoked: the revocations in /nowhere/revoked"
            " can't be read (No such file or directory)",
            "--revoked=/nowhere/revoked",
        )

    def test_emptyNames(self) -> None:
        """
        An empty file name, for instance from an unset variable, is refused, and
        means neither the working folder nor that there is no file.
        """
        for name in ("config", "ledger", "key", "revoked", "audit", "schemas"):
            self.assertRefused(
                f"--{name} is empty: it must name a file or folder", f"--{name}="
            )

    def test_version(self) -> None:
        """
        C{--version} prints the version of creditsync, not that of Twisted.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual(said.getvalue(), f"creditsync {__version__}\n")
