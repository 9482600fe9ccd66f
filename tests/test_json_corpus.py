"""
Tests for L{tests.attack.json_corpus}: which lines are JSON and which are not.
"""

import pytest
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._wire import encoding
from tests.attack import ijson, json_corpus
from tests.attack.json_cases import FINE, LINES, NOT_JSON

pytestmark = pytest.mark.proof


class CorpusTests(SynchronousTestCase):
    """
    Tests with every case of the corpus, on the whole server.
    """

    def test_cases(self) -> None:
        """
        Each line is answered as its case says, and the session continues.
        """
        self.assertGreaterEqual(json_corpus.cases(), 250)
        self.assertEqual(list(json_corpus.judge(list(json_corpus.trials()))), [])

    def test_extIDs(self) -> None:
        """
        A line that is refused is answered under its extID if that can be
        parsed, and never under one from another object.
        """
        self.assertEqual(list(json_corpus.judgeExtIDs()), [])

    def test_wrongExtID(self) -> None:
        """
        An extID that is lost, or that is taken from another object, is
        reported.
        """
        for salvaged in ({}, {"extID": "c1"}):
            self.patch(wire, "salvage", lambda line, salvaged=salvaged: salvaged)
            self.assertTrue(list(json_corpus.judgeExtIDs()))

    def test_echoes(self) -> None:
        """
        Clients' own values come back unchanged, in lines that every client can
        parse.
        """
        self.assertEqual(list(json_corpus.judgeEchoes()), [])

    def test_wrongVerdict(self) -> None:
        """
        A case whose line is answered differently is reported.
        """
        line, _ = LINES["fine"]
        wrong = list(json_corpus.judge([("a", b"{", FINE), ("b", line, NOT_JSON)]))
        self.assertEqual(
            wrong, ["a: [(400, 'INVALID_JSON')]", "b: [(401, 'UNAUTHORIZED')]"]
        )

    def test_wrongEcho(self) -> None:
        """
        An apostrophe, or a comma before a bracket, that is sent unescaped is
        reported.
        """
        self.patch(encoding, "_guard", lambda text: text)
        wrong = list(json_corpus.judgeEchoes())
        self.assertTrue(any("'s" in each for each in wrong), wrong)
        self.assertTrue(any("a,}" in each for each in wrong), wrong)


class ReferenceTests(SynchronousTestCase):
    """
    Tests that the fuzzer's reference parser agrees with the corpus.
    """

    def test_sameVerdicts(self) -> None:
        """
        The reference parser accepts and refuses the same lines as the corpus.
        """
        for what, line, outcome in json_corpus.trials():
            if outcome is None:
                continue
            try:
                ijson.decode(line)
                isGood = True
            except ijson.NotIJSON:
                isGood = False
            self.assertEqual((what, isGood), (what, outcome != NOT_JSON))
