"""
Tests that a method is added as the README says: a row, and its schema.
"""

import json
import re

from tests.copies import CHECKOUT, CopyCase

# The README's own example.
ROW = re.search(
    r"^    BookingMethod\(\n(?:     .*\n)*    \),\n",
    (CHECKOUT / "README.rst").read_text("utf-8"),
    re.MULTILINE,
)


class AddedMethodTests(CopyCase):
    """
    Tests with a copy of the package to which a method is added.
    """

    copied = ("creditsync", "schemas", "tests/ledgers", "tests/added_method.py")

    def addRow(self) -> None:
        """
        Add the row of the README.
        """
        assert ROW is not None, "the README shows no row"
        end = ")\n\nDELETING_METHODS"
        self.edit("creditsync/methods.py", end, ROW[0] + end)

    def addSchemas(self) -> None:
        """
        Add the schema of its data, and its cmd to those of a trade record.
        """
        schema = json.loads(
            (CHECKOUT / "schemas" / "credit_in.json").read_text("utf-8")
        )
        schema["$id"] = "bonus_in.json"
        path = self.root / "schemas" / "bonus_in.json"
        path.write_text(json.dumps(schema), "utf-8")
        path = self.root / "schemas" / "common.json"
        common = json.loads(path.read_text("utf-8"))
        common["$defs"]["cmd"]["enum"].append(100)
        path.write_text(json.dumps(common), "utf-8")

    def test_works(self) -> None:
        """
        With a row and a schema the method works on every ledger, for clients
        and for people; C{tests/added_method.py} has the details.
        """
        self.addRow()
        self.addSchemas()
        done = self.run_("-m", "unittest", "tests.added_method")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Ran 9 tests", done.stderr)

    def test_withoutSchema(self) -> None:
        """
        A build that has the row but not the schema doesn't start, and reports
        why in one line.
        """
        self.addRow()
        done = self.run_("-m", "creditsync", "--listen", "tcp:0:interface=127.0.0.1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("this creditsync has no schemas/bonus_in.json", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_wrongSign(self) -> None:
        """
        A build whose row contradicts its schema doesn't start.
        """
        self.addRow()
        self.addSchemas()
        self.edit(
            "creditsync/methods.py",
            '        1,\n        "bonus in"',
            '        -1,\n        "bonus in"',
        )
        done = self.run_("-m", "creditsync", "--listen", "tcp:0:interface=127.0.0.1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("schemas/bonus_in.json says otherwise", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
