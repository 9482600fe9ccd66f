"""
Tests that what the code and the tests cite is in the repository.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from docutils.nodes import section, title
from twisted.trial.unittest import SynchronousTestCase

from tests.test_readme import CHECKOUT, rendered

# Where something may be cited, and in what kind of file.
FOLDERS = ("creditsync", "schemas", "tests", "benchmarks", "deploy", "docs")
SUFFIXES = {".py", ".sql", ".json", ".js", ".rst", ".toml", ".yml", ".service"}
# The raw results of a benchmark cite nothing, and there are many.
SKIPPED = CHECKOUT / "benchmarks" / "results"

# A citation: docs/NAME.rst, "Title", in the file's own markup; in docs/ without the
# folder.
_CITATION = re.compile(
    r'\b(?:docs/(?P<name>[a-z]+\.rst)|(?P<beside>[a-z]+\.rst)(?=[`_]+, "))'
    r'\b[}`_]*(?:, "(?P<title>[^"]+)")?'
)
# Where a line ends inside a comment or a docstring, and what begins the next one.
_FOLD = re.compile(r"\s*\n\s*(?:# |-- |// |\* )?")
# What is not in the repository, and numbers of sections other than an RFC's. The
# seeds of random numbers are no documents.
_NOT_HERE = re.compile(
    r'wire contract|wire\.md|\b[Ss]eed, "[A-Z]|\bseed (?:document|has it|tells)'
    r"|\(seed: \d"
    r"|\b[Ss]eed's (?:data|example|method|request|reply|success|trade|six)"
    r"|(?<!RFC \d{4}, )(?<!RFC \d{4} \(I-JSON\), )\bsections? \d"
)


def unfolded(text: str) -> str:
    """
    A text without the ends of its lines, and with its quotation marks bare.
    """
    return _FOLD.sub(" ", text).replace('\\"', '"')


def texts() -> Iterator[tuple[str, str]]:
    """
    Each file that may cite something, and its text, unfolded.
    """
    files = sorted(CHECKOUT.glob("*.rst"))
    for folder in FOLDERS:
        files += sorted((CHECKOUT / folder).rglob("*"))
    for file in files:
        isHere = file == Path(__file__).resolve()
        if file.suffix in SUFFIXES and SKIPPED not in file.parents and not isHere:
            yield str(file.relative_to(CHECKOUT)), unfolded(file.read_text("utf-8"))


def citations(text: str) -> Iterator[tuple[str, str | None]]:
    """
    What a text cites: documents, and the titles of their sections, if it has any.
    """
    for each in _CITATION.finditer(text):
        yield each["name"] or each["beside"], each["title"]


def titles(name: str) -> set[str]:
    """
    The titles of the sections of a document.
    """
    tree, _ = rendered(CHECKOUT / "docs" / name)
    return {next(each.findall(title)).astext() for each in tree.findall(section)}


class CitationTests(SynchronousTestCase):
    """
    What is cited.
    """

    def test_sections(self) -> None:
        """
        A document that is cited is there, and has a section of that title.
        """
        documents = {path.name: titles(path.name) for path in _documents()}
        cited = [
            (file, *citation) for file, text in texts() for citation in citations(text)
        ]
        wrong = {
            (file, name, section)
            for file, name, section in cited
            if name not in documents or (section and section not in documents[name])
        }
        self.assertEqual(wrong, set())
        self.assertGreater(len({section for _, _, section in cited}), 5)

    def test_onlyWhatIsHere(self) -> None:
        """
        Nothing cites a document that is not in the repository, or a section by
        its number.
        """
        wrong = {
            (file, each) for file, text in texts() for each in _NOT_HERE.findall(text)
        }
        self.assertEqual(wrong, set())


class NotationTests(SynchronousTestCase):
    """
    What counts as a citation.
    """

    def test_forms(self) -> None:
        """
        A citation is found in a comment, in a docstring and in JSON, also where
        it is folded.
        """
        for text in (
            '# As in docs/protocol.rst, "Safe retries".',
            '# As in docs/protocol.rst, "Safe\n    # retries".',
            '    See C{docs/protocol.rst}, "Safe\n    retries".',
            '"See docs/protocol.rst, \\"Safe retries\\"."',
            'See ``docs/protocol.rst``, "Safe\nretries".',
            'See `protocol.rst`_, "Safe retries".',
        ):
            self.assertEqual(
                list(citations(unfolded(text))), [("protocol.rst", "Safe retries")]
            )
        self.assertEqual(list(citations("See docs/a.rst")), [("a.rst", None)])
        self.assertEqual(list(citations('a page.rst, "x"')), [])

    def test_notHere(self) -> None:
        """
        A document of elsewhere is found; an RFC's section and the seed of random
        numbers are none.
        """
        for text in (
            "(wire\n    contract, section 3)",
            'Seed, "Notes"',
            "the seed's request",
            "See section 4.",
        ):
            self.assertTrue(_NOT_HERE.search(unfolded(text)), text)
        for text in (
            "RFC 7515, section 4.1.11",
            "RFC 7493 (I-JSON), section 2.2",
            "RFC 7518, sections 3.2 and 3.3",
            "a seed's choices",
            "the same seed",
        ):
            self.assertFalse(_NOT_HERE.search(unfolded(text)), text)


def _documents() -> list[Path]:
    return sorted((CHECKOUT / "docs").glob("*.rst"))
