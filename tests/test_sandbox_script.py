"""
Tests for L{creditsync._sandbox.script} and L{creditsync._sandbox.control}.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from creditsync._sandbox.script import Script, seedOf
from creditsync._sandbox.table import FAULTS, Where
from tests.sandboxed import CREDIT, Platform, quiet

FILE = """
seed = 7

[[fault]]
name = "lose-reply"
rate = 0.25
times = 3
commands = ["CreditIn"]

[[fault]]
name = "slow-queue"
seconds = 10

[rename]
MngApproveFinanceRequest = "MngConfirmFinanceRequest"
"""


def course(script: Script, name: str = "lose-reply") -> list[bool]:
    """
    Whether a fault happens, a hundred times.
    """
    return [script.happens(name) is not None for _ in range(100)]


class ScriptTests(SynchronousTestCase):
    """
    Tests for L{Script}.
    """

    def file(self) -> Path:
        """
        The name of a file that is not there yet.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name, "faults.toml")

    def test_seed(self) -> None:
        """
        The same seed gives the same course, another seed another one.
        """
        courses = []
        for seed in (1, 1, 2):
            script = Script(seed)
            script.set("lose-reply", 0.5)
            courses.append(course(script))
        self.assertEqual(courses[0], courses[1])
        self.assertNotEqual(courses[0], courses[2])
        self.assertTrue(30 < sum(courses[0]) < 70, courses[0])

    def test_independent(self) -> None:
        """
        To set another fault does not change the course of a fault.
        """
        alone, beside = quiet(1), quiet(1)
        for script in (alone, beside):
            script.set("lose-reply", 0.5)
        beside.set("late-reply", 0.5)
        found = [
            [script.first(Where.REPLY, "CreditIn", {}) for _ in range(100)]
            for script in (alone, beside)
        ]
        names = [[each and each.fault.name for each in course] for course in found]
        lost = [[name == "lose-reply" for name in course] for course in names]
        self.assertEqual(lost[0], lost[1])
        self.assertIn("late-reply", names[1])

    def test_defaults(self) -> None:
        """
        Only lines in between come by themselves.
        """
        rates = {each.fault.name: each.rate for each in Script().settings()}
        self.assertEqual(rates, {"quotes": 0.2, "notices": 0.05, "staff": 0.05})

    def test_times(self) -> None:
        """
        A fault may happen a number of times, and those are counted.
        """
        script = quiet()
        setting = script.set("lose-reply", times=2)
        self.assertEqual(course(script)[:4], [True, True, False, False])
        self.assertEqual((setting.happened, setting.times), (2, 0))
        self.assertEqual(script.settings(), [setting])

    def test_after(self) -> None:
        """
        A fault may let a number of occasions pass first.
        """
        script = quiet()
        setting = script.set("lose-reply", after=2, times=1)
        self.assertEqual(course(script)[:5], [False, False, True, False, False])
        self.assertEqual((setting.happened, setting.after, setting.times), (1, 0, 0))

    def test_commands(self) -> None:
        """
        A fault may be for some commands.
        """
        script = quiet()
        script.set("lose-reply", commands=["CreditIn"])
        self.assertIsNone(script.first(Where.REPLY, "CreditOut", {}))
        self.assertIsNone(script.first(Where.REPLY, None, {}))
        self.assertIsNone(script.first(Where.REQUEST, "CreditIn", {}))
        self.assertIsNotNone(script.first(Where.REPLY, "CreditIn", {}))

    def test_seconds(self) -> None:
        """
        The time that a fault takes is that of the table, if it is not set.
        """
        script = quiet()
        script.set("slow-queue")
        self.assertEqual(script.happens("slow-queue"), 2.0)
        script.set("slow-queue", seconds=3)
        self.assertEqual(script.happens("slow-queue"), 3.0)

    def test_rename(self) -> None:
        """
        A command that was renamed is known by its new name only.
        """
        script = Script()
        self.assertEqual(script.commandOf("CreditIn"), "CreditIn")
        script.rename({"CreditIn": "MngCreditIn"})
        self.assertEqual(script.commandOf("MngCreditIn"), "CreditIn")
        self.assertIsNone(script.commandOf("CreditIn"))
        self.assertEqual(script.commandOf("CreditOut"), "CreditOut")

    def test_file(self) -> None:
        """
        A file has the settings, the new names and the seed.
        """
        path = self.file()
        path.write_text(FILE)
        self.assertEqual(seedOf(path), "7")
        script = quiet()
        script.load(path)
        lost, slow = (each.describe() for each in script.settings())
        self.assertEqual(
            lost,
            {
                "name": "lose-reply",
                "rate": 0.25,
                "after": 0,
                "times": 3,
                "seconds": 0.0,
                "commands": ["CreditIn"],
                "happened": 0,
            },
        )
        self.assertEqual((slow["rate"], slow["seconds"]), (1.0, 10.0))
        self.assertIsNone(script.commandOf("MngApproveFinanceRequest"))
        path.write_text("")
        self.assertEqual(seedOf(path), "0")

    def test_refused(self) -> None:
        """
        What is not valid is refused, with the name of what is wrong.
        """
        cases: list[tuple[str, str]] = [
            ("faults = 1", "unknown member faults"),
            ("fault = 1", "a fault is written as [[fault]]"),
            ("[[fault]]", "a fault has no name"),
            ("[[fault]]\nname = 'nope'", "there is no fault nope"),
            ("[[fault]]\nname = 'staff'\nrat = 1", "unknown member rat of a fault"),
            ("[[fault]]\nname = 'staff'\nrate = 2", "the rate of staff"),
            ("[[fault]]\nname = 'staff'\nrate = true", "the rate of staff"),
            ("[[fault]]\nname = 'staff'\nrate = nan", "the rate of staff"),
            ("[[fault]]\nname = 'staff'\ntimes = -1", "the times of staff"),
            ("[[fault]]\nname = 'staff'\nafter = 1.5", "the after of staff"),
            ("[[fault]]\nname = 'staff'\ntimes = 1.5", "the times of staff"),
            ("[[fault]]\nname = 'staff'\nseconds = -1", "the seconds of staff"),
            ("[[fault]]\nname = 'staff'\nseconds = inf", "the seconds of staff"),
            ("[[fault]]\nname = 'staff'\ncommands = 'x'", "the commands of staff"),
            ("[[fault]]\nname = 'staff'\ncommands = [1]", "the commands of staff"),
            ("rename = 1", "rename must have the new name of each command"),
            ("[rename]\nCreditIn = 1", "rename must have the new name"),
            ("seed = ", "Invalid value"),
        ]
        path = self.file()
        for text, said in cases:
            path.write_text(text)
            e = self.assertRaises(ValueError, Script().load, path)
            self.assertIn(said, str(e))
            self.assertTrue(str(e).startswith(str(path)), e)
        self.assertRaises(ValueError, seedOf, path)

    def test_table(self) -> None:
        """
        No two faults have the same name, and those that happen to lines say what they
        do.
        """
        self.assertEqual(len({fault.name for fault in FAULTS}), len(FAULTS))
        for fault in FAULTS:
            isElsewhere = fault.where in (Where.LOOKUP, Where.BOOKING)
            self.assertEqual(fault.does is None, isElsewhere)


class ControlTests(SynchronousTestCase):
    """
    Tests for C{SandboxFault}.
    """

    def setUp(self) -> None:
        """
        Start a sandbox, and connect.
        """
        self.platform = Platform()
        self.client = self.platform.client()

    def control(self, data: object, token: str = "admin") -> Any:
        """
        Send one.
        """
        return self.client.ask("SandboxFault", "c", data, token)

    def test_set(self) -> None:
        """
        A fault is set, and the reply has every one that may happen, or has happened.
        """
        reply = self.control({"name": "lose-reply", "times": 1, "rate": 1})
        lost = {
            "name": "lose-reply",
            "rate": 1.0,
            "after": 0,
            "times": 1,
            "seconds": 0.0,
            "commands": None,
            "happened": 0,
        }
        self.assertEqual(
            reply,
            {"extID": "c", "status": 200, "data": {"faults": [lost], "rename": {}}},
        )
        self.client.send("CreditIn", 1)
        self.client.told()
        [fault] = self.control({})["data"]["faults"]
        self.assertEqual(fault, {**lost, "times": 0, "happened": 1})

    def test_noFault(self) -> None:
        """
        No fault happens to the command itself.
        """
        for fault in FAULTS:
            self.platform.script.set(fault.name, 1.0)
        self.assertEqual(self.control({"reset": True})["data"]["faults"], [])

    def test_reset(self) -> None:
        """
        All faults can be switched off at once, and one be set in the same request.
        """
        self.platform.script.set("lose-request")
        reply = self.control({"reset": True, "name": "staff", "rate": 0.5})
        self.assertEqual([each["name"] for each in reply["data"]["faults"]], ["staff"])

    def test_rename(self) -> None:
        """
        A command is renamed: its old name is unknown, and the new one does what it
        did, with exact amounts.
        """
        reply = self.control({"rename": {"CreditIn": "MngCreditIn"}})
        self.assertEqual(reply["data"]["rename"], {"CreditIn": "MngCreditIn"})
        reply = self.client.ask("CreditIn", 1)
        self.assertEqual((reply["status"], reply["error"]), (404, "UNKNOWN_COMMAND"))
        data = {**CREDIT, "amount": 0.1, "comment": "It's a crédit,}"}
        reply = self.client.ask("MngCreditIn", 2, data)
        self.assertEqual(reply["data"]["amount"], 0.1)
        self.platform.passes(1)
        self.assertEqual(self.platform.booked(), [(1242281, 3, "It's a crédit,}")])
        self.control({"reset": True})
        self.assertEqual(self.client.ask("CreditIn", 3)["status"], 200)

    def test_refused(self) -> None:
        """
        It is for admins, and its data has to be valid.
        """
        for token, status in (("manager", 403), ("nobody", 401), ("admin", 200)):
            self.assertEqual(self.control({}, token)["status"], status)
        for data, said in (
            ([], "data must be an object"),
            ({"name": "nope"}, "data: there is no fault nope"),
            ({"rate": 1}, "data: a fault has no name"),
            ({"rename": 1}, "data: rename must have"),
        ):
            reply = self.control(data)
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertIn(said, reply["message"])

    def test_extID(self) -> None:
        """
        It has no C{extID} in its reply if there is none that can be echoed.
        """
        self.client.send("SandboxFault", True, {}, "admin")
        self.client.send("SandboxFault", None, {}, 7)  # type: ignore[arg-type]
        self.assertEqual(
            [line["status"] for line in self.client.lines() if "extID" not in line],
            [200, 401],
        )
