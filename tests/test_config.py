"""
Tests for L{creditsync._process.config}, the options that a file decides, and
C{creditsync check-config}.
"""

import io
import os
import pwd
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.python.usage import UsageError

from creditsync.__main__ import main
from creditsync._cli import check_config, serve
from creditsync.tap import Options
from tests.certificates import Authority
from tests.test_keys import KEY_SET
from tests.test_tap import SECRET, InFolder


class FileTestCase(InFolder):
    """
    A test with a configuration file.
    """

    def write(self, text: str) -> None:
        """
        Write the file.
        """
        Path("c.toml").write_text(text, "utf-8")


class FileTests(FileTestCase):
    """
    Options from a file.
    """

    def assertRefused(self, sentence: str, text: str, *arguments: str) -> None:
        """
        A file with this text is refused with this message.
        """
        self.write(text)
        e = self.assertRaises(UsageError, self.parse, "--config=c.toml", *arguments)
        self.assertEqual(str(e), f"c.toml: {sentence}")

    def test_decides(self) -> None:
        """
        A file sets each kind of option by its name.
        """
        self.write(
            """
            listen = ["tcp:1", "tcp:2"]
            web-origin = ["https://a.example", "http://b.example:80/"]
            ledger = "/x/ledger.db"
            timeout = 3
            line-timeout = 2.5
            max-pending = 7
            accounts = "known"
            idempotent-extid = true
            log-json = false
            """
        )
        options = self.parse("--config=c.toml")
        self.assertEqual(options["listen"], ["tcp:1", "tcp:2"])
        self.assertEqual(
            options["web-origin"], ["https://a.example", "http://b.example"]
        )
        self.assertEqual(options["ledger"], "/x/ledger.db")
        self.assertEqual(options["timeout"], 3.0)
        self.assertEqual(options["serverLimits"].lineTimeout, 2.5)
        self.assertEqual(options["serverLimits"].maxPending, 7)
        self.assertEqual(options["accounts"], "known")
        self.assertEqual((options["idempotent-extid"], options["log-json"]), (1, 0))
        self.assertIsNone(options["algorithm"])

    def test_commandLineWins(self) -> None:
        """
        The command line takes precedence over the file, in whatever order the
        options come, even where it only repeats a default.
        """
        self.write('listen = ["tcp:1"]\ntimeout = 3.0\nmax-pending = 7\nmax-queued = 8')
        for arguments in (
            ("--listen=tcp:2", "--timeout=5.0", "--config=c.toml", "--max-pending=9"),
            (
                "--max-pending=9",
                "--config",
                "c.toml",
                "--timeout=5",
                "--listen",
                "tcp:2",
            ),
        ):
            options = self.parse(*arguments)
            self.assertEqual(options["listen"], ["tcp:2"])
            self.assertEqual(options["timeout"], 5.0)
            self.assertEqual(options["serverLimits"].maxPending, 9)
            self.assertEqual(options["serverLimits"].maxQueued, 8)
            self.assertEqual(
                options.given, {"listen", "timeout", "max-pending", "config"}
            )
            self.assertEqual(options.filed, {"max-queued"})

    def test_unknownKey(self) -> None:
        """
        A key that is not an option is refused by its name: also a table, the
        name of an attribute, and another configuration file.
        """
        for key in ("lisen", "maxPending", "max_pending", "rules", "config", "secret"):
            self.assertRefused(f"unknown option {key}", f'{key} = "x"')
        self.assertRefused("unknown option server", "[server]\ntimeout = 1")

    def test_wrongType(self) -> None:
        """
        A value of the wrong type is refused with its key, even if the command
        line has the option.
        """
        for text, wanted in [
            ("timeout = true", "timeout must be a number"),
            ('timeout = "5"', "timeout must be a number"),
            ("max-pending = 1.5", "max-pending must be a whole number"),
            ("max-pending = false", "max-pending must be a whole number"),
            ("ledger = 1", "ledger must be a string"),
            ("audit = []", "audit must be a string"),
            ("revoked = 2026-01-01", "revoked must be a string"),
            ('listen = "tcp:1"', "listen must be a list of strings"),
            ("listen = [1]", "listen must be a list of strings"),
            ("idempotent-extid = 1", "idempotent-extid must be true or false"),
            ("timeout = {x = 1}", "timeout must be a number"),
        ]:
            self.assertRefused(wanted, text)
            self.assertRefused(wanted, text, "--timeout=1", "--ledger=x")

    def test_wrongValue(self) -> None:
        """
        A value that the command line would refuse is refused with the same
        message.
        """
        self.assertRefused(
            "--max-pending must be a positive whole number: -1", "max-pending = -1"
        )
        self.assertRefused("--timeout must be a positive number: inf", "timeout = inf")
        self.assertRefused("--accounts must be open or known: all", 'accounts = "all"')
        self.assertRefused(
            "--listen nope:1 is not a valid endpoint: Unknown endpoint type: 'nope'",
            'listen = ["nope:1"]',
        )
        self.assertRefused(
            "--web-origin: https://a.example/console is not an origin such as"
            " https://console.example.com: a scheme, a host and perhaps a port,"
            " without a path",
            'web-origin = ["https://a.example/console"]',
        )

    def test_noFile(self) -> None:
        """
        A file is refused if it can't be read or is not TOML.
        """
        e = self.assertRaises(UsageError, self.parse, "--config=nowhere")
        self.assertEqual(
            str(e), "nowhere: it can't be read (No such file or directory)"
        )
        self.write("timeout = ")
        e = self.assertRaises(UsageError, self.parse, "--config=c.toml")
        self.assertTrue(str(e).startswith("c.toml: it is not valid TOML: "), str(e))
        Path("c.toml").write_bytes(b"\xff")
        e = self.assertRaises(UsageError, self.parse, "--config=c.toml")
        self.assertEqual(str(e), "c.toml: it is not UTF-8")
        Path("c.toml").write_bytes(b"\xef\xbb\xbftimeout = 3\n")
        e = self.assertRaises(UsageError, self.parse, "--config=c.toml")
        self.assertEqual(
            str(e), "c.toml: it begins with a byte order mark; save it without one"
        )

    def test_everyOption(self) -> None:
        """
        A file can have every option of the server.
        """
        options = Options()
        names = {name.removesuffix("=") for name in options.longOpt}
        for name in names - {"config", "help", "version"}:
            self.write(f"{name} = {{}}")
            e = self.assertRaises(UsageError, self.parse, "--config=c.toml")
            self.assertIn(f"c.toml: {name} must be ", str(e))


class LogTests(FileTestCase):
    """
    The log as JSON.
    """

    def test_twistd(self) -> None:
        """
        The option selects C{twistd}'s observer, on the command line and in a
        file.
        """
        self.write("log-json = true")
        for argument in ("--log-json", "--config=c.toml"):
            config = serve.TwistdOptions()
            config.parseOptions(["--nodaemon", "serve", argument])
            self.assertEqual(
                f"{config['logger'].__module__}.{config['logger'].__name__}",
                "creditsync.logs.json",
            )


class CheckTests(FileTestCase):
    """
    C{creditsync check-config}.
    """

    def check(self, *arguments: str) -> tuple[object, str, str]:
        """
        Run it.

        @return: The exit status or message, and what was printed to stdout and
            stderr.
        """
        out, errors, status = io.StringIO(), io.StringIO(), None
        with redirect_stdout(out), redirect_stderr(errors):
            try:
                check_config.run(arguments)
            except SystemExit as e:
                status = e.code
        return status, out.getvalue(), errors.getvalue()

    def test_shows(self) -> None:
        """
        It prints the value and the source of each option, as a file that has
        the same options.
        """
        self.writeKey()
        self.write('listen = ["tcp:1"]\ntimeout = 3\naudit = "a \\"b\\""')
        status, out, errors = self.check(
            "c.toml", "--max-pending=9", "--web-origin=https://a.example"
        )
        self.assertEqual((status, errors), (None, ""))
        lines = out.splitlines()
        for line in (
            'listen = ["tcp:1"]  # c.toml',
            "timeout = 3.0  # c.toml",
            'audit = "a \\"b\\""  # c.toml',
            "max-pending = 9  # command line",
            'web-origin = ["https://a.example"]  # command line',
            'ledger = "creditsync.db"  # default',
            "idempotent-extid = false  # default",
            "require-groups = false  # default",
            "self-approval = false  # default",
        ):
            self.assertIn(line, lines)
        self.assertEqual(lines.pop(), "Configuration OK.")
        self.write("\n".join(lines))
        self.assertEqual(self.parse("--config=c.toml")["serverLimits"].maxPending, 9)

    def test_postgres(self) -> None:
        """
        It names a PostgreSQL with its parameters and without its password, and looks
        for no file.
        """
        self.writeKey()
        address = "postgresql://me:s3cret@db,eb:2/name?sslmode=require"
        self.write(f'ledger = "{address}&sslpassword=s3cret"\nnode = "a"')
        status, out, errors = self.check("c.toml")
        self.assertEqual((status, errors), (None, ""))
        shown = "postgresql://me@db,eb:2/name?sslmode=require"
        self.assertIn(f'ledger = "{shown}"  # c.toml', out)
        self.assertNotIn("s3cret", out)

    def test_passed(self) -> None:
        """
        It shows the commands of a platform that are passed on as comments, and reports
        what is wrong with them.
        """
        self.writeKey()
        self.write(
            'upstream = "tcp:h:1"\nupstream-token = "t"\nupstream-profile = "p.toml"'
        )
        profile = 'two-phase = false\n[pass]\nGetSymbols = "client"\n'
        Path("p.toml").write_text(f'{profile}MngGetUserStats = "service"\n')
        status, out, errors = self.check("c.toml")
        self.assertEqual((status, errors), (None, ""))
        lines = out.splitlines()
        for line in (
            "# passed on: GetSymbols, with the client's token, for all roles",
            "# passed on: MngGetUserStats, with the gateway's token, for admin",
        ):
            self.assertIn(line, lines)
        Path("p.toml").write_text(f'{profile}CreditIn = "service"\n')
        status, _, _ = self.check("c.toml")
        self.assertEqual(
            status,
            "creditsync check-config: --upstream-profile: p.toml is not a profile:"
            " pass.CreditIn is a command of the gateway itself",
        )

    def test_rules(self) -> None:
        """
        It shows the rules of the file of C{--limits} as comments, and reports what is
        wrong with them.
        """
        self.writeKey()
        self.write('limits = "l.toml"')
        Path("l.toml").write_text(
            """
            [[limit]]
            name = "large"
            max-amount = 10000
            max-per-day = 0.5
            per = "all"
            over = "request"
            [[limit]]
            name = "small"
            max-per-day = 1
            roles = ["admin", "dealer"]
            principals = [8, 7]
            logins = [1001]
            groups = "real*"
            commands = ["CreditIn", "BalanceIn"]
            """
        )
        status, out, errors = self.check("c.toml")
        self.assertEqual((status, errors), (None, ""))
        lines = out.splitlines()
        for line in (
            'limits = "l.toml"  # c.toml',
            '# limit "large": at most 10000.0 in one operation and 0.5 a day in all, or'
            " request",
            '# limit "small" (roles dealer, admin; principals 7, 8; logins 1001; groups'
            " real*; commands BalanceIn, CreditIn): at most 1.0 a day for each"
            " principal, or refuse",
        ):
            self.assertIn(line, lines)
        self.assertIn(
            "# Rights: a token without groups has all accounts; a finance request may"
            ' be approved by anyone but its maker; limits: "large", "small".',
            lines,
        )
        self.write("\n".join(lines[:-1]))
        self.parse("--config=c.toml")
        Path("l.toml").write_text("[[limit]]\nname = 7")
        status, out, _ = self.check("--limits=l.toml")
        path = Path("l.toml").absolute()
        self.assertEqual(
            status,
            f"creditsync check-config: --limits: the limits in {path} are wrong: limit"
            " 1: name must be 1 to 64 printable characters: 7",
        )

    def test_makesNothing(self) -> None:
        """
        It creates no file, and prints no secret.
        """
        self.assertEqual(self.check()[0], None)
        self.assertEqual(os.listdir(), [])
        self.assertNotIn("web-origin", self.check()[1])
        self.writeKey()
        self.assertNotIn(SECRET, self.check()[1])

    def test_mistake(self) -> None:
        """
        A wrong value is reported as the server would report it.
        """
        self.write("timeout = 0")
        status, out, _ = self.check("c.toml")
        self.assertEqual(
            status,
            "creditsync check-config: c.toml: --timeout must be a positive number: 0",
        )
        self.assertEqual(out, "")

    def test_files(self) -> None:
        """
        All files that the server could not use or create are reported.
        """
        os.mkdir("taken")
        status, _, errors = self.check(
            "--ledger=nowhere/x.db", "--key=taken/x/key", "--audit=x"
        )
        self.assertEqual(status, 1)
        folder = os.getcwd()
        self.assertEqual(
            errors.splitlines(),
            [
                "creditsync check-config: --key: the folder"
                f" {folder}/taken/x does not exist",
                "creditsync check-config: --ledger: the folder"
                f" {folder}/nowhere does not exist",
            ],
        )
        self.assertEqual(
            self.check("--ledger=taken")[2],
            "creditsync check-config: --ledger: taken is a folder\n",
        )

    def test_notAllowed(self) -> None:
        """
        Files that this user may not read, write or create are reported.
        """
        self.writeKey()
        Path("x.db").touch()
        Path("x.db-shm").touch()
        Path("x.db.lock").touch()
        self.patch(os, "access", lambda path, mode, **_: False)
        me = pwd.getpwuid(os.geteuid()).pw_name
        path = os.path.realpath("x.db")
        self.assertEqual(
            self.check("--ledger=x.db", "--audit=y")[2].splitlines(),
            [
                "creditsync check-config: --ledger: x.db can't be read and written"
                " by this user",
                *(
                    f"creditsync check-config: --ledger: {path}{end} is in the way: it"
                    f" belongs to user {me}, and user {me}, who runs this, may not read"
                    f" and write it; as root: chmod u+rw {path}{end}"
                    for end in ("-shm", ".lock")
                ),
                "creditsync check-config: --audit: y can't be created by this user",
            ],
        )

    def test_warnings(self) -> None:
        """
        What can be used but may not be what was meant is a warning, not an
        error.
        """
        Path("creditsync.key").write_bytes(bytes(range(200, 240)) + b"\n")
        Path("revoked").write_text("0123456789abcdef # John\nlost laptop")
        status, out, errors = self.check("--revoked=revoked")
        self.assertIsNone(status)
        self.assertTrue(out.endswith("Configuration OK.\n"))
        self.assertEqual(
            errors.splitlines(),
            [
                "creditsync check-config: warning: --revoked: revoked: line 2: there is"
                " white space or one of # , ; \" ' inside; one id per line is expected,"
                " and a comment begins with white space and #. The first word, and each"
                " id of `creditsync token` in the line, is revoked too",
                "creditsync check-config: warning: --revoked: revoked: the last line"
                " has no line end: the next one would be appended to it",
                "creditsync check-config: warning: --key: the key begins with a byte"
                " order mark, which is not part of the key, or is binary and begins or"
                " ends with white space, which is; tokens signed with the key as"
                " earlier releases read it are accepted too",
            ],
        )

    def test_tokens(self) -> None:
        """
        It says which tokens are accepted, and which keys of a JWK Set are ignored.
        """
        self.assertIn(
            "# Rights: a token without groups has no accounts; a finance request may be"
            " approved by anyone; limits: none.",
            self.check("--require-groups", "--self-approval")[1].splitlines(),
        )
        line = "# Tokens: HS256 without a kid; any audience; any issuer; iat and nbf"
        self.assertIn(f"{line} up to 5 s ahead.", self.check()[1].splitlines())
        self.writeKey(KEY_SET.replace("]}", ',{"kty":"EC","kid":"e"}]}'))
        status, out, errors = self.check("--audience=creditsync", "--issuer=i")
        self.assertIsNone(status)
        self.assertIn(
            '# Tokens: EdDSA with kid "a"; audience "creditsync"; issuer "i"; iat and'
            " nbf up to 5 s ahead.",
            out.splitlines(),
        )
        self.assertEqual(
            errors,
            "creditsync check-config: warning: --key: creditsync.key: key 2"
            ' ("e") is ignored: its kty is none of oct, RSA, OKP\n',
        )

    def test_revoked(self) -> None:
        """
        A file of revoked tokens that can't be understood is an error.
        """
        Path("revoked").write_text("lost-laptop-1\n", "utf-16")
        path = Path("revoked").absolute()
        status, _, _ = self.check("--revoked=revoked")
        self.assertEqual(
            status,
            f"creditsync check-config: --revoked: the revocations in {path} are not"
            " UTF-8, but UTF-16 or not text",
        )

    def test_certificate(self) -> None:
        """
        Certificates are read too.
        """
        Authority("a").issue().write(Path("server.pem"))
        self.assertIsNone(self.check("--listen=ssl:1:privateKey=server.pem")[0])
        Path("server.pem").write_text("rubbish")
        status, _, _ = self.check("--listen=ssl:1:privateKey=server.pem")
        self.assertIn(f"{os.getcwd()}/server.pem has no private key", str(status))

    def test_command(self) -> None:
        """
        It is a subcommand of C{creditsync}, and has a help text.
        """
        self.patch(__import__("sys"), "argv", ["creditsync", "check-config", "--help"])
        out = io.StringIO()
        with redirect_stdout(out):
            main()
        self.assertTrue(out.getvalue().startswith("Usage: creditsync check-config"))
