"""
Tests for L{creditsync.revocations}: how a file of revoked tokens is read, and
what happens if it can't be understood.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from creditsync.revocations import Revocations
from tests.test_tap import logTo

# Ids as `creditsync token` makes them.
ONE, TWO, THREE = "0123456789abcdef", "fedcba9876543210", "00112233aabbccdd"

NOT_ASCII = (
    ": there is a character that is invisible or not ASCII; the id without it is"
    " revoked too"
)
SEVERAL_WORDS = (
    ": there is white space or one of # , ; \" ' inside; one id per line is expected,"
    " and a comment begins with white space and #. The first word, and each id of"
    " `creditsync token` in the line, is revoked too"
)
JOINED = (
    ": this may be several ids of `creditsync token` without line ends between them;"
    " each of them is revoked too"
)
FOREIGN = (
    ": this can't be an id of `creditsync token`, which has 16 of the characters 0-9"
    " and a-f; it is right only if another program makes your tokens"
)
NO_END = "the last line has no line end: the next one would be appended to it"
RUN_INTO = (
    ": this was appended to a line without a line end; both parts are revoked, and the"
    " whole line too"
)


class RevocationsTestCase(SynchronousTestCase):
    """
    A test with a file of revocations.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "revoked")

    def read(self, content: str | bytes) -> Revocations:
        """
        The revocations of a file with this content.
        """
        data = content if isinstance(content, bytes) else content.encode()
        self.path.write_bytes(data)
        return Revocations(self.path)

    def append(self, text: str) -> None:
        """
        Append to the file.
        """
        with self.path.open("a", newline="") as file:
            file.write(text)

    def revoked(self, revocations: Revocations, *ids: str) -> list[str]:
        """
        Those of these ids that are revoked.
        """
        return [id for id in ids if revocations.isRevoked(id)]


class ContentTests(RevocationsTestCase):
    """
    Tests for the content of a file.
    """

    def assertSays(
        self, content: str | bytes, revoked: list[str], warnings: list[str]
    ) -> None:
        """
        Assert that this content revokes exactly these ids, with these
        warnings.
        """
        revocations = self.read(content)
        self.assertEqual(sorted(revocations._list.ids), sorted(revoked), content)
        self.assertEqual(list(revocations.warnings), warnings, content)

    def test_plain(self) -> None:
        """
        A file has one id per line, with any line ends, white space around it,
        empty lines and comments.
        """
        for content in (
            f"{ONE}\n{TWO}\n",
            f"{ONE}\r\n{TWO}\r\n",
            f"{ONE}\r{TWO}\r",
            f"\n\n  {ONE}\t\n \n{TWO} \n\n",
            f"# {THREE}\n{ONE}\n  # {THREE}\n#{THREE}\n{TWO}\n#\n",
        ):
            self.assertSays(content, [ONE, TWO], [])

    def test_nothing(self) -> None:
        """
        An empty file revokes nothing, nor does a file of comments.
        """
        for content in ("", "\n", "# nobody\n", "\ufeff", "\ufeff# nobody\n"):
            self.assertSays(content, [], [])

    def test_remarkBehind(self) -> None:
        """
        The text behind white space and a C{#} is a comment.
        """
        self.assertSays(
            f"{ONE} # John\n{TWO}\t#\n{THREE}   #Jane # and John, his laptop\n",
            [ONE, TWO, THREE],
            [],
        )

    def test_byteOrderMark(self) -> None:
        """
        A byte order mark is not part of an id or a comment; two files that
        were joined have one in the middle.
        """
        self.assertSays(f"\ufeff{ONE}\n", [ONE], [])
        self.assertSays(f"\ufeff# {THREE}\n{ONE}\n\ufeff{TWO}\n", [ONE, TWO], [])

    def test_otherIssuers(self) -> None:
        """
        Ids of another form are revoked; a warning names their lines.
        """
        uuid = "b5cbbb0e-6c2b-4b5e-9b70-3a8d3ad5a9ec"
        self.assertSays(
            f"{uuid}\n{ONE}\nlost-laptop-1\n7\n",
            [uuid, ONE, "lost-laptop-1", "7"],
            [f"lines 1, 3, 4{FOREIGN}"],
        )
        for near in (ONE[1:], ONE + "0", ONE.upper(), ONE[1:] + "g"):
            self.assertSays(f"{near}\n", [near], [f"line 1{FOREIGN}"])

    def test_joined(self) -> None:
        """
        Ids of ours without line ends between them are each revoked.
        """
        self.assertSays(
            f"{ONE}\n{TWO}{THREE}\n",
            [ONE, TWO, THREE, TWO + THREE],
            [f"line 2{JOINED}"],
        )
        self.assertSays(
            f"{ONE}{TWO}{THREE}\n",
            [ONE, TWO, THREE, ONE + TWO + THREE],
            [f"line 1{JOINED}"],
        )

    def test_severalWords(self) -> None:
        """
        A remark without its C{#}, quotes, lists: the first word is revoked, each
        id of ours is, and so is the whole line, as an issuer may use such ids.
        """
        for line, *ids in (
            (f"{ONE} John", ONE),
            (f"{ONE}\tJohn", ONE),
            (f"{ONE}#John", ONE),
            (f"{ONE}, {TWO}", ONE, TWO),
            (f"{ONE};{TWO}", ONE, TWO),
            (f'"{ONE}"', ONE),
            (f"'{ONE}',", ONE),
            (f'"jti": "{ONE}"', ONE, "jti"),
            (f"John: {ONE}", ONE, "John:"),
            (f"{ONE}{TWO} John", ONE, TWO, ONE + TWO),
            ("device 7", "device"),
        ):
            self.assertSays(f"{line}\n", [line, *ids], [f"line 1{SEVERAL_WORDS}"])

    def test_unusualCharacters(self) -> None:
        """
        Invisible characters that were copied from a document or a page do not
        keep an id from being revoked.
        """
        for line in (
            f"{ONE}\u200b",
            f"\u2060{ONE}",
            f"\u201c{ONE}\u201d",
            f"\u202a{ONE}\u202c",
            f"{ONE}\x1a",
        ):
            self.assertSays(f"{line}\n", [line, ONE], [f"line 1{NOT_ASCII}"])
        self.assertSays(
            f"{ONE[:8]}\u00ad{ONE[8:]}\n",
            [f"{ONE[:8]}\u00ad{ONE[8:]}", ONE, ONE[:8]],
            [f"line 1{NOT_ASCII}"],
        )

    def test_unusualCharactersInARemark(self) -> None:
        """
        A line that is doubtful for more than one reason revokes the id in it, too:
        a remark without its C{#} often has a dash, an umlaut or a curly
        apostrophe.
        """
        for line in (
            "{} John\u2019s laptop",
            "{} \u2013 M\xfcller",
            "{}\u2014John",
            "\u200b{} John",
            "\u2018{}\u2019 John",
        ):
            for id in (ONE, "lost-laptop-1"):
                revocations = self.read(f"{line.format(id)}\n")
                self.assertTrue(revocations.isRevoked(id), line)
                self.assertEqual(list(revocations.warnings), [f"line 1{NOT_ASCII}"])
        revocations = self.read(f"{ONE}{TWO} \u2013 John\n")
        self.assertEqual(self.revoked(revocations, ONE, TWO), [ONE, TWO])

    def test_whiteSpaceOfOtherKinds(self) -> None:
        """
        White space of any kind around an id is not part of it.
        """
        for white in ("\xa0", "\u2003", "\u3000", "\v", "\f", "\x85", "\u2028"):
            self.assertSays(f"{white}{ONE}{white}\n", [ONE], [])

    def test_lastLineWithoutEnd(self) -> None:
        """
        A last line without a line end counts, with a warning that the next
        line may be appended to it.
        """
        self.assertSays(f"{ONE}\n{TWO}", [ONE, TWO], [NO_END])
        self.assertSays(f"{ONE}\n# remark", [ONE], [NO_END])

    def test_manyDoubts(self) -> None:
        """
        Of many doubtful lines the last ones are named, since new lines are
        there.
        """
        ids = [f"lost-{n}" for n in range(10)]
        self.assertSays(
            "\n".join([*ids, ""]), ids, [f"lines 6, 7, 8, 9, 10 and 5 more{FOREIGN}"]
        )

    def test_notUnderstood(self) -> None:
        """
        A file that is not UTF-8 is refused as a whole.
        """
        no16 = "are not UTF-8, but UTF-16 or not text"
        for data, cause in (
            (f"{ONE}\n".encode("utf-16"), no16),
            (f"{ONE}\n".encode("utf-16-le"), no16),
            (f"{ONE}\n".encode("utf-16-be"), no16),
            (f"{ONE}\n".encode("utf-32"), no16),
            (f"{ONE}\n".encode() + f"{TWO}\n".encode("utf-16-le"), no16),
            (f"{ONE}\n".encode() + b"\0" * 4096, no16),
            (f"{ONE} # J\xf6rg\n".encode("latin-1"), "are not UTF-8"),
            (f"{ONE}\n\xff".encode("latin-1"), "are not UTF-8"),
        ):
            e = self.assertRaises(ValueError, self.read, data)
            self.assertEqual(str(e), f"the revocations in {self.path} {cause}")

    def test_noRegularFile(self) -> None:
        """
        A folder or a device is refused, and so is a pipe, which would block
        the server.
        """
        for path in (Path("/dev/null"), self.path.parent):
            e = self.assertRaises(ValueError, Revocations, path)
            self.assertEqual(
                str(e), f"the revocations in {path} are not a regular file"
            )


class ChangeTests(RevocationsTestCase):
    """
    Tests for a file that changes while the server runs.
    """

    def setUp(self) -> None:
        super().setUp()
        self.revocations = self.read(f"{ONE}\n")
        self.lines = logTo(self)

    def assertKept(self, cause: str) -> None:
        """
        Assert that the last good content is in force, and that an error is
        logged once.
        """
        for _ in range(3):
            self.revocations.refresh()
            self.assertEqual(self.revoked(self.revocations, ONE, TWO), [ONE])
            self.assertEqual(self.revocations.problem, cause)
        self.assertEqual(
            self.lines,
            [
                (
                    "error",
                    f"The revocations in {self.path} {cause}; the previous ones stay"
                    " in force.",
                )
            ],
        )

    def test_notUnderstood(self) -> None:
        """
        If the file becomes UTF-16 the last good content stays in force.
        """
        self.path.write_bytes(f"{TWO}\n".encode("utf-16"))
        self.assertKept("are not UTF-8, but UTF-16 or not text")

    def test_notUnderstoodIsNotReadAgain(self) -> None:
        """
        Content that is not understood is not read again for each command.
        """
        self.path.write_bytes(b"\xff")
        self.revocations.refresh()
        self.patch(Path, "read_bytes", None)
        self.revocations.refresh()
        self.assertEqual(self.revocations.problem, "are not UTF-8")

    def test_gone(self) -> None:
        """
        If the file is removed the last good content stays in force.
        """
        self.path.unlink()
        self.assertKept("can't be read (No such file or directory)")

    def test_device(self) -> None:
        """
        A device in the file's place is not read.
        """
        self.path.unlink()
        self.path.symlink_to("/dev/null")
        self.assertKept("are not a regular file")

    def test_goodAgain(self) -> None:
        """
        Once the file can be understood again it is in force again, and that is
        logged.
        """
        self.path.write_bytes(b"\xff")
        self.revocations.refresh()
        self.path.write_text(f"{ONE}\n{TWO}\n")
        self.revocations.refresh()
        self.assertEqual(self.revoked(self.revocations, ONE, TWO), [ONE, TWO])
        self.assertIsNone(self.revocations.problem)
        self.assertEqual(
            self.lines[1:],
            [("info", f"The revocations in {self.path} can be read again.")],
        )

    def test_sameFileAgain(self) -> None:
        """
        A file that could not be reached for a while, and has not changed, is
        in force again.
        """
        stat = Path.stat

        def fails(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "stat", fails)
        self.revocations.refresh()
        self.assertEqual(self.revocations.problem, "can't be read (Permission denied)")
        self.patch(Path, "stat", stat)
        self.revocations.refresh()
        self.assertIsNone(self.revocations.problem)

    def test_reload(self) -> None:
        """
        A reload logs again what is wrong.
        """
        self.path.write_bytes(b"\xff")
        self.revocations.refresh()
        self.revocations.reload()
        self.assertEqual(len(self.lines), 2)
        self.assertEqual(self.revocations.problem, "are not UTF-8")

    def test_appendedToALineWithoutEnd(self) -> None:
        """
        A line that is appended to a last line without a line end is a line of
        its own, and the earlier id stays revoked.
        """
        self.append("lost-1")
        self.revocations.refresh()
        self.append("lost-2\nlost-3")
        self.revocations.refresh()
        self.append(f"{TWO}\n")
        self.revocations.refresh()
        self.append("lost-4\n")
        self.revocations.refresh()
        ids = [ONE, TWO, "lost-1", "lost-2", "lost-3", "lost-4"]
        self.assertEqual(self.revoked(self.revocations, *ids), ids)
        self.assertIn(f"lines 2, 3{RUN_INTO}", self.revocations.warnings)
        self.assertIn(
            ("warn", f"The revocations in {self.path}: line 2{RUN_INTO}."), self.lines
        )

    def test_restOfALine(self) -> None:
        """
        A line that was read when half of it was written is revoked as a whole.
        """
        self.append("lost-lap")
        self.revocations.refresh()
        self.append("top-1\n")
        self.revocations.refresh()
        self.assertTrue(self.revocations.isRevoked("lost-laptop-1"))

    def test_lineEndAppended(self) -> None:
        """
        Completing the last line, or rewriting the file, ends the warnings.
        """
        self.append(TWO)
        self.revocations.refresh()
        self.append(f"\n{THREE}\n")
        self.revocations.refresh()
        self.assertEqual(self.revocations.warnings, ())
        self.append(TWO)
        self.revocations.refresh()
        self.append(f"{THREE}\n")
        self.revocations.refresh()
        self.assertEqual(len(self.revocations.warnings), 2)
        self.path.write_text(f"{TWO}\n{THREE}\n")
        self.revocations.refresh()
        self.assertEqual(self.revocations.warnings, ())

    def test_warnings(self) -> None:
        """
        A warning is logged when its line is added, and not again with later
        lines.
        """
        self.append("lost-1\n")
        self.revocations.refresh()
        self.append(f"{TWO}\n")
        self.revocations.refresh()
        self.assertEqual(
            self.lines, [("warn", f"The revocations in {self.path}: line 2{FOREIGN}.")]
        )

    def test_fewer(self) -> None:
        """
        Ids that were removed from the file are accepted again, and the log
        reports how many: the file may have been cut short.
        """
        self.append(f"{TWO}\n{THREE}\n")
        self.revocations.refresh()
        self.path.write_text(f"{THREE}\n")
        self.revocations.refresh()
        self.assertEqual(self.revoked(self.revocations, ONE, TWO, THREE), [THREE])
        self.assertEqual(
            self.lines,
            [
                (
                    "warn",
                    f"The revocations in {self.path} no longer contain 2 ids;"
                    " tokens with these ids are valid again.",
                )
            ],
        )
