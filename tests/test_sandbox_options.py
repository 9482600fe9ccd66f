"""
Tests for L{creditsync._process.sandbox}.
"""

from pathlib import Path

from attrs import define
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.testing import MemoryReactorClock
from twisted.python.usage import UsageError

from creditsync._process.sandbox import Options, announce, sandboxOf
from creditsync._sandbox.service import DELAY
from tests.test_tap import SECRET, InFolder, logTo


class OptionsTests(InFolder):
    """
    Tests for L{Options}.
    """

    def sandbox(self, *arguments: str) -> Options:
        """
        Parse these arguments.
        """
        options = Options()
        options.parseOptions(arguments)
        return options

    def rates(self, *arguments: str) -> dict[str, float]:
        """
        How often each fault happens by these arguments.
        """
        settings = self.sandbox(*arguments)["script"].settings()
        return {each.fault.name: each.rate for each in settings}

    def assertRefused(self, said: str, *arguments: str) -> None:
        """
        Assert that arguments are refused in these words.
        """
        e = self.assertRaises(UsageError, self.sandbox, *arguments)
        self.assertIn(said, str(e))

    def test_defaults(self) -> None:
        """
        It has the options of the server, and nothing goes wrong.
        """
        options = self.sandbox("--ledger", "other.db")
        self.assertEqual(options["listen"], ["tcp:8080:interface=127.0.0.1"])
        self.assertEqual(options["ledger"], "other.db")
        self.assertEqual((options["delay"], DELAY), (0.05, 0.05))
        self.assertFalse(options["sync"] or options["no-requests"])
        self.assertEqual(self.rates(), {"quotes": 0.2, "notices": 0.05, "staff": 0.05})

    def test_faults(self) -> None:
        """
        Faults are set by a file, and by options, which take precedence.
        """
        Path("faults.toml").write_text(
            'seed = 7\n[[fault]]\nname = "staff"\n[[fault]]\nname = "notices"\n'
        )
        rates = self.rates(
            *("--faults", "faults.toml"),
            *("--fault", "staff=0", "--fault", "lose-reply", "--fault", "quotes=1"),
        )
        self.assertEqual(rates, {"lose-reply": 1.0, "quotes": 1.0, "notices": 1.0})

    def test_seed(self) -> None:
        """
        The seed is that of the option, or of the file, or 0.
        """
        Path("faults.toml").write_text("seed = 7\n")
        file = ["--faults", "faults.toml"]

        def first(*arguments: str) -> list[float | None]:
            script = self.sandbox(*arguments)["script"]
            return [script.happens("quotes") for _ in range(50)]

        self.assertEqual(first(), first("--seed", "0"))
        self.assertEqual(first(*file), first("--seed", "7"))
        self.assertEqual(first(*file, "--seed", "8"), first("--seed", "8"))
        self.assertNotEqual(first("--seed", "7"), first("--seed", "8"))

    def test_refused(self) -> None:
        """
        What can't be used is refused by name.
        """
        self.assertRefused(
            "--fault nope=1: there is no fault nope", "--fault", "nope=1"
        )
        self.assertRefused("--fault staff=x", "--fault", "staff=x")
        self.assertRefused("--fault staff=2: the rate", "--fault", "staff=2")
        self.assertRefused("--faults: ", "--faults", "nowhere.toml")
        Path("faults.toml").write_text("fault = 1")
        self.assertRefused("--faults: faults.toml: a fault", "--faults", "faults.toml")
        Path("faults.toml").write_text("seed = ")
        self.assertRefused("--faults: faults.toml: ", "--faults", "faults.toml")
        self.assertRefused("--delay must be 0", "--delay", "-1")

    def test_notTaken(self) -> None:
        """
        Options of the server that mean nothing for a platform are unknown.
        """
        for option in ("web=x", "web-origin=x", "audit=x", "limits=x"):
            name = option.partition("=")[0]
            self.assertRefused(f"option --{name} not recognized", f"--{option}")
        for name in ("idempotent-extid", "self-approval", "upstream-groups"):
            self.assertRefused(f"option --{name} not recognized", f"--{name}")
        self.assertNotIn("--web", self.sandbox().getUsage())

    def test_config(self) -> None:
        """
        Its options may be in a file of C{--config} too.
        """
        Path("sandbox.toml").write_text(
            'delay = 1.5\nsync = true\nfault = ["lose-reply=0.5"]\n'
        )
        options = self.sandbox("--config", "sandbox.toml")
        self.assertEqual((options["delay"], options["sync"]), (1.5, 1))
        self.assertEqual(self.rates("--config", "sandbox.toml")["lose-reply"], 0.5)
        Path("sandbox.toml").write_text('web = "tcp:1"\n')
        self.assertRefused("unknown option web", "--config", "sandbox.toml")


@define
class Port:
    """
    A listening port.
    """

    host: object

    def getHost(self) -> object:
        """
        See L{IListeningPort.getHost}.
        """
        return self.host


class CompositionTests(InFolder):
    """
    Tests for L{sandboxOf} and L{announce}.
    """

    def test_announced(self) -> None:
        """
        The log names each port, or the file of a socket.
        """
        log = logTo(self)
        places = [IPv4Address("TCP", "127.0.0.1", 8080), UNIXAddress(b"/run/s")]
        announce([Port(place) for place in places])
        self.assertEqual(
            [text for _, text in log],
            ["The sandbox is ready on port 8080.", "The sandbox is ready on /run/s."],
        )

    def test_commands(self) -> None:
        """
        The options say which commands there are.
        """
        for arguments, unknown in (
            ([], {"CreditInSync", "GetOperation"}),
            (["--sync"], set()),
            (
                ["--no-requests"],
                {"CreditInSync", "GetOperation", "MngCreateFinanceRequest"},
            ),
        ):
            options = Options()
            options.parseOptions(arguments)
            sandbox = sandboxOf(MemoryReactorClock(), options, SECRET.encode())
            names = {
                "CreditInSync",
                "GetOperation",
                "MngCreateFinanceRequest",
                "CreditIn",
            }
            self.assertEqual(names & set(sandbox.unknown), unknown)
            self.assertEqual(options["listen"], ["tcp:8080:interface=127.0.0.1"])
