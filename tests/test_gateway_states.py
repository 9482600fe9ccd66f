"""
Tests for L{creditsync.gateway._states}.
"""

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from creditsync.gateway._states import FINAL, FREE, OPEN, IllegalMove, State, checkMove

# Every legal change, written out.
LEGAL = {
    ("new", "sent"),
    ("new", "refused"),
    ("sent", "pending"),
    ("sent", "accepted"),
    ("sent", "booked"),
    ("sent", "refused"),
    ("sent", "unseen"),
    ("sent", "held"),
    ("pending", "accepted"),
    ("pending", "booked"),
    ("pending", "refused"),
    ("pending", "unseen"),
    ("pending", "held"),
    ("accepted", "booked"),
    ("accepted", "refused"),
    ("accepted", "unseen"),
    ("accepted", "held"),
    ("unseen", "pending"),
    ("unseen", "accepted"),
    ("unseen", "booked"),
    ("unseen", "refused"),
    ("unseen", "held"),
    ("held", "pending"),
    ("held", "accepted"),
    ("held", "booked"),
    ("held", "refused"),
    ("held", "held"),
    ("held", "absent"),
}


class MoveTests(SynchronousTestCase):
    """
    Tests for L{checkMove}.
    """

    def test_everyPair(self) -> None:
        """
        Each change of state is possible if it is listed, and no other is.
        """
        for old, new in product(State, State):
            if (old.value, new.value) in LEGAL:
                checkMove(old, new)
            else:
                self.assertRaises(IllegalMove, checkMove, old, new)
        self.assertEqual(len(LEGAL), 28)

    def test_message(self) -> None:
        """
        The error names both states.
        """
        why = self.assertRaises(IllegalMove, checkMove, State.BOOKED, State.SENT)
        self.assertEqual(str(why), "what is booked can't become sent")

    def test_kinds(self) -> None:
        """
        From three states nothing follows; after two of them the key is free again;
        and of those that were sent the outcome is not known in the others.
        """
        self.assertEqual(
            {each.value for each in FINAL}, {"booked", "refused", "absent"}
        )
        self.assertEqual({each.value for each in FREE}, {"refused", "absent"})
        self.assertEqual(
            {each.value for each in OPEN},
            {"sent", "pending", "accepted", "unseen", "held"},
        )

    def test_sentOnce(self) -> None:
        """
        Only what was never sent is sent.
        """
        for state in set(State) - {State.NEW}:
            self.assertRaises(IllegalMove, checkMove, state, State.SENT)

    def test_heldIsLeftByEvidenceOrPerson(self) -> None:
        """
        Only what is held can be decided absent.
        """
        for state in set(State) - {State.HELD}:
            self.assertRaises(IllegalMove, checkMove, state, State.ABSENT)
