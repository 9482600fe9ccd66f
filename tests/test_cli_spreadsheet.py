"""
Tests for L{creditsync._cli.bulk.spreadsheet}: files as they are really written.
"""

from io import BytesIO

from twisted.trial.unittest import SynchronousTestCase

from creditsync._cli.bulk.spreadsheet import RowProblem, Unreadable, clean, records

TABLE = [(1, ["login", "amount", "comment"]), (2, ["1001", "300.50", "Bonus, €"])]


class RecordsTests(SynchronousTestCase):
    """
    L{records}.
    """

    def assertRecords(
        self, content: bytes, expected: list[tuple[int, list[str]]]
    ) -> None:
        """
        A file has these records, with the lines on which they begin.
        """
        self.assertEqual(
            [(line, clean(fields)) for line, fields in records(BytesIO(content))],
            expected,
        )

    def assertUnreadable(self, content: bytes, cause: str) -> None:
        """
        A file is refused with this message.
        """
        e = self.assertRaises(Unreadable, list, records(BytesIO(content)))
        self.assertEqual(str(e), cause)

    def test_separators(self) -> None:
        """
        The header decides whether commas, semicolons or tabs separate columns.
        """
        for text in (
            'login,amount,comment\r\n1001,300.50,"Bonus, €"\r\n',
            "login;amount;comment\r\n1001;300.50;Bonus, €\r\n",
            "login\tamount\tcomment\r\n1001\t300.50\tBonus, €\r\n",
            '"login";"amount";"comment"\n"1001";"300.50";"Bonus, €"',
            "login\tamount\tcomment\r1001\t300.50\tBonus, €\r",
        ):
            self.assertRecords(text.encode(), TABLE)

    def test_encodings(self) -> None:
        """
        A byte order mark means UTF-16; anything else is UTF-8, with or without
        a mark.
        """
        text = "login\tamount\tcomment\r\n1001\t300.50\tBonus, €\r\n"
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            self.assertRecords(text.encode(encoding), TABLE)
        self.assertRecords(b"\xfe\xff" + text.encode("utf-16-be"), TABLE)
        self.assertRecords(b"\xff\xfe" + text.encode("utf-16-le"), TABLE)

    def test_sep(self) -> None:
        """
        The first line may name the separator, as Excel does; lines are still
        counted from the beginning of the file.
        """
        table = [(2, ["login", "amount"]), (3, ["1", "5"]), (4, ["2", "6"])]
        for text in (
            "sep=;\r\nlogin;amount\r\n1;5\r\n2;6\r\n",
            "SEP=,\r\nlogin,amount\r\n1,5\r\n2,6\r\n",
            "sep=\t\nlogin\tamount\n1\t5\n2\t6\n",
            '"sep=;"\nlogin;amount\n1;5\n2;6\n',
            "sep=;;\nlogin;amount\n1;5\n2;6\n",
        ):
            self.assertRecords(text.encode(), table)

    def test_sepBelowHeader(self) -> None:
        """
        A C{sep=} line below the header is a row like any other.
        """
        self.assertRecords(
            b"login;amount\nsep=;\n", [(1, ["login", "amount"]), (2, ["sep=", ""])]
        )

    def test_otherSep(self) -> None:
        """
        A C{sep=} line that names an unknown separator is refused.
        """
        for line in (b"sep=|", b"sep=", b"sep=."):
            self.assertUnreadable(
                line + b"\nlogin|amount\n",
                "line 1: sep= must name a comma, semicolon or tab",
            )

    def test_unclear(self) -> None:
        """
        A header with more than one possible separator is refused.
        """
        self.assertUnreadable(
            b"login;amount,comment\n1;300,50\n",
            "line 1: it is unclear whether commas or semicolons separate columns",
        )
        self.assertUnreadable(
            b"sep=;\nlogin,amount\n1,5\n",
            "line 2: it is unclear whether commas or semicolons separate columns",
        )

    def test_emptyLines(self) -> None:
        """
        Empty lines before the header, even with separators, are skipped but
        counted; an empty file has no records.
        """
        self.assertRecords(
            b'\r\n,,\r\n"",,\r\n\xc2\xa0,,\r\nlogin,amount,comment\r\n1,5,x\r\n',
            [(5, ["login", "amount", "comment"]), (6, ["1", "5", "x"])],
        )
        self.assertRecords(b"", [(1, [])])

    def test_spaceBeforeQuote(self) -> None:
        """
        A quoted field may follow spaces; the quotes are not part of its text.
        """
        self.assertRecords(
            b'login, amount, comment\n1001, 300.50, "Bonus, \xe2\x82\xac"\n', TABLE
        )
        self.assertRecords(b'a;b\n "1";  "x"\n', [(1, ["a", "b"]), (2, ["1", "x"])])

    def test_textBehindQuote(self) -> None:
        """
        Text after the closing quote of a field is not CSV.
        """
        for row in (b'1,"Bonus" of May', b'1,"Bonus" ', rb'1,"say \"hi\""'):
            self.assertUnreadable(
                b"a,b\n" + row + b"\n",
                "line 2: is not CSV: ',' expected after '\"'",
            )

    def test_notText(self) -> None:
        """
        Workbooks, UTF-32, and UTF-16 without a mark are refused.
        """
        text = "login,amount\n1,5\n"
        for content in (
            b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x00",
            text.encode("utf-16-le"),
            text.encode("utf-16-be"),
            text.encode("utf-32"),
        ):
            self.assertUnreadable(
                content,
                "the file is not text in UTF-8 or UTF-16: save it as CSV UTF-8",
            )

    def test_cutOff(self) -> None:
        """
        UTF-16 that ends within a character is refused as cut off.
        """
        self.assertUnreadable(
            "login,amount\n1,5\n".encode("utf-16")[:-1],
            "the file is not valid UTF-16, or is cut off",
        )


class CleanTests(SynchronousTestCase):
    """
    L{clean}.
    """

    def test_ends(self) -> None:
        """
        White space and characters without width are removed from the ends of a
        field, but not from within.
        """
        self.assertEqual(
            clean(
                [
                    " pay-1 ",
                    "\xa0pay-1\u202f",
                    "\ufeffpay-1\u200b",
                    "\tpay-1\r\n",
                    "\u200e\u2066pay-1\u2069\u2060",
                    "\u3000\xad",
                    "two \u200bwords",
                ]
            ),
            ["pay-1", "pay-1", "pay-1", "pay-1", "pay-1", "", "two \u200bwords"],
        )

    def test_visible(self) -> None:
        """
        No visible character is removed.
        """
        fields = ["'x'", '"x"', "é", "\u2764\ufe0f", "\u0600", "-", "_", "\x07"]
        self.assertEqual(clean(fields), fields)

    def test_lateQuote(self) -> None:
        """
        A quote after white space that the CSV reader does not skip is refused:
        it was meant to begin its field.
        """
        for field in ('\t"Bonus"', '\xa0 "Bonus"', '\ufeff"Bonus"', '\u200b\u200b"x'):
            e = self.assertRaises(RowProblem, clean, ["1", field])
            self.assertEqual(
                str(e), "has a quote that is not the first character of its field"
            )
        self.assertEqual(clean([' "x"', '5" disk']), ['"x"', '5" disk'])

    def test_invalid(self) -> None:
        """
        Text that is invalid in the file's encoding is refused.
        """
        for content in (
            b"a,b\n1,\xe9\n",
            b"\xff\xfe" + "a,b\n1,".encode("utf-16-le") + b"\x00\xd8\n\x00",
        ):
            _, (line, fields) = records(BytesIO(content))
            e = self.assertRaises(RowProblem, clean, fields)
            self.assertEqual(
                (line, str(e)), (2, "is not valid Unicode: save it as CSV UTF-8")
            )
